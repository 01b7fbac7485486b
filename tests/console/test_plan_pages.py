"""The pages of a plan: saved one by one, left and come back to, reviewed, submitted once."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.console.plan_form import RolloutForm
from fleet.console.plan_pages import FORM_PAGES
from fleet.devices.models import Device
from ota import rollouts
from ota.errors import RolloutError
from ota.models import Rollout
from tests.console import planning, rows
from tests.console.test_plan_merge import sent
from tests.console.test_rollout_pages import AsRole, said
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db
OTHER = Actor("user", "dana")
BUDGET = {"what": 9, "who": 9, "waves": 9, "gates": 10, "review": 22}
"""Most queries of a page, session and user included."""


def html_of(client: Client, row: Rollout, page: str) -> str:
    answer = client.get(planning.path(row, page))
    assert answer.status_code == 200
    return unescape(answer.content.decode())


def saved(client: Client, row: Rollout, fields: dict[str, object]) -> None:
    """Save the pages that follow the first one."""
    for page in planning.PAGES[1:]:
        answer = planning.send(client, row, page, fields)
        assert answer.status_code == 303, answer.content.decode()


@pytest.fixture
def client(as_role: AsRole) -> Client:
    """The operator who plans."""
    return as_role("operator")


@pytest.fixture
def draft(client: Client, quiet: rows.Filled) -> Rollout:
    """What the first page made; the pages that follow wait."""
    return planning.made(planning.begin(client, said(quiet), preset="demo"))


def test_every_field_stands_on_one_page() -> None:
    fields = [name for page in FORM_PAGES.values() for name in page.fields]
    assert sorted(fields) == sorted(set(RolloutForm.base_fields) - {"rev"})


def test_the_first_page_makes_a_draft_that_is_left_and_come_back_to(
    as_role: AsRole, client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    assert (draft.state, draft.name, draft.plan["soak_s"]) == ("draft", "a test", 23)
    page = client.get(f"/rollouts/{draft.pk}").content.decode()
    assert "Go on planning" in page
    assert 'data-test="verb-submit"' not in page, "there is a page that nobody has read"
    resume = f"/rollouts/{draft.pk}/plan"
    assert client.get(resume)["Location"] == planning.path(draft, "who")
    assert client.post(f"/rollouts/{draft.pk}/submit")["Location"] == resume
    other, fields = as_role("admin"), said(quiet, q="id==dev-00*", control="10", soak="25 s")
    for page, following in (("who", "waves"), ("waves", "gates"), ("gates", "review")):
        assert planning.send(other, draft, page, fields)["Location"] == planning.path(draft, following)
        assert client.get(resume)["Location"] == planning.path(draft, following)
    draft.refresh_from_db()
    assert (draft.target["q"], draft.plan["soak_s"]) == ("id==dev-00*", 25)
    assert draft.plan["control"]["count"] == 10
    assert draft.plan["metrics"][0]["metric"] == "accuracy"
    assert draft.authors == ["admin-of-test", "operator-of-test"]
    assert 'value="25 s"' in html_of(client, draft, "gates"), "a reload shows what was saved"
    assert "id==dev-00*" in html_of(client, draft, "who")
    assert 'data-test="verb-submit"' in client.get(f"/rollouts/{draft.pk}").content.decode()


def test_a_page_of_a_plan_that_is_through_leads_back_to_the_review(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    saved(client, draft, said(quiet))
    answer = planning.send(client, draft, "who", said(quiet, q="id==dev-00*"))
    assert answer["Location"] == planning.path(draft, "review")


def test_the_review_counts_says_what_happens_and_submits_once(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    html = html_of(client, draft, "review")
    assert html.split('data-test="missing"')[1].split("</strong>")[0].count("<a ") == 3
    assert 'data-test="submit"' not in html
    assert planning.submit(client, draft).status_code == 409, "not past the button either"
    saved(client, draft, said(quiet))
    html = html_of(client, draft, "review")
    assert re.search(r'data-test="eligible">80<', html)
    assert "Nobody else has to approve it" in html
    assert "20 devices, 50 %, 100 %" in html
    assert 'data-test="submit"' in html
    draft.refresh_from_db()
    assert draft.state == "draft", "a GET changes nothing"
    hidden = planning.reviewed(html)
    first, second = (client.post(planning.path(draft, "review"), hidden) for _ in range(2))
    assert first["Location"] == second["Location"] == f"/rollouts/{draft.pk}"
    draft.refresh_from_db()
    assert draft.state == "ready"
    assert draft.submissions.count() == 1
    assert "To the rollout" in html_of(client, draft, "review"), "there is nothing to submit anew"


def test_a_review_of_another_plan_is_refused(client: Client, quiet: rows.Filled, draft: Rollout) -> None:
    saved(client, draft, said(quiet))
    html = html_of(client, draft, "review")
    hidden = planning.reviewed(html)
    row = Rollout.objects.get(pk=draft.pk)
    rollouts.edit(row, target={"q": "id==dev-00*"}, actor=OTHER, now=rows.present())
    answer = client.post(planning.path(draft, "review"), hidden)
    html = answer.content.decode()
    assert answer.status_code == 409
    assert 'data-test="stale"' in html
    assert re.search(r'data-test="eligible">10<', html), "what is stored now is shown"
    assert Rollout.objects.get(pk=draft.pk).state == "draft"
    for digest in ("", "x", "0" * 64):
        wrong = {**hidden, "rev": row.rev, "plan_digest": digest}
        assert client.post(planning.path(draft, "review"), wrong).status_code == 409


def test_a_fleet_that_moved_between_review_and_submission_is_said(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    saved(client, draft, said(quiet))
    Device.objects.filter(pk="dev-001").update(quarantined_at=rows.present(), quarantine_reason="a recall")
    answer = planning.submit(client, draft, eligible="80")
    html = client.get(answer["Location"]).content.decode()
    assert "It reaches 79 devices; the review counted 80." in html


def test_a_review_that_would_fail_says_where_to_mend_it(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    saved(client, draft, said(quiet, r_prove="5%"))
    html = html_of(client, draft, "review")
    assert "gate_unreachable" in html
    assert f'Mend it under <a href="{planning.path(draft, "gates")}">Gates</a>' in html
    assert 'data-test="submit"' not in html
    assert planning.made(planning.submit(client, draft)).state == "preflight_failed"


def test_what_contradicts_another_page_is_told_with_the_way_there(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    planning.send(client, draft, "who", said(quiet))
    assert planning.send(client, draft, "waves", said(quiet, control="0")).status_code == 303
    answer = planning.send(client, draft, "gates", said(quiet))
    html = answer.content.decode()
    assert answer.status_code == 422
    told = html.split('data-test="elsewhere"')[1][:900]
    assert "control is 0" in told
    assert f'href="{planning.path(draft, "waves")}"' in told
    assert not Rollout.objects.get(pk=draft.pk).plan["metrics"]


def test_another_preset_fills_waves_and_gates_which_are_read_again(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    saved(client, draft, said(quiet, q="id==dev-00*"))
    planning.send(client, draft, "what", said(quiet) | {"preset": "production"})
    draft.refresh_from_db()
    assert (draft.plan["window_s"], draft.plan["metrics"]) == (6 * 3600, [])
    assert draft.target["q"] == "id==dev-00*", "who stays"
    assert client.get(f"/rollouts/{draft.pk}/plan")["Location"] == planning.path(draft, "waves")
    html = html_of(client, draft, "gates")
    assert re.findall(r'name="metrics" value="(\w+)"[^>]*checked', html) == ["accuracy"]
    assert not re.search(r'name="accept_proxy"[^>]*checked', html), "whoever plans accepts it themselves"


def test_another_preset_leaves_alone_what_it_does_not_name(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    mine = {
        **{"requires_approval": "on", "start_at": "2031-05-02T22:00", "zone": "Europe/Berlin"},
        **{"windows": "mon-fri 22:00 4 h device", "late": "tail", "tail_days": "12", "supersede": "on"},
        **{"by_class": "on", "r_prove": "15%", "rollback_to": "previous"},
    }
    saved(client, draft, said(quiet, waves="40, 100%", control="30", **mine))
    kept = (
        *("requires_approval", "start_at", "zone", "windows", "late", "tail_days", "supersede"),
        *("by_class", "r_prove", "rollback_to"),
    )
    draft.refresh_from_db()
    before = {name: draft.plan[name] for name in kept}
    assert (before["requires_approval"], before["by_class"], before["tail_days"]) == (True, True, 12)
    assert planning.send(client, draft, "what", sent(draft, preset="production")).status_code == 303
    draft.refresh_from_db()
    assert draft.plan["window_s"] == 6 * 3600
    assert {name: draft.plan[name] for name in kept} == before
    gates = html_of(client, draft, "gates")
    assert re.search(r'name="by_class"[^>]*checked', gates), "the page that is read again says so too"
    assert 'name="r_prove" value="15%"' in gates


def test_a_change_of_what_waits_for_approval_is_a_draft_again_and_reading_is_not(
    as_role: AsRole, client: Client, quiet: rows.Filled
) -> None:
    row = planning.made(planning.plan(client, said(quiet, requires_approval="on")))
    assert row.state == "awaiting_approval"
    other = as_role("admin")
    for page in planning.PAGES:
        planning.send(other, row, page, sent(row))
    row.refresh_from_db()
    assert (row.state, row.authors) == ("awaiting_approval", ["operator-of-test"])
    answer = planning.send(client, row, "waves", sent(row, max_in_flight="7"))
    assert "It is a draft again" in client.get(answer["Location"]).content.decode()
    row.refresh_from_db()
    assert (row.state, row.plan["max_in_flight"]) == ("draft", 7)


def test_another_version_is_chosen_until_the_start_and_the_trail_says_it(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    other = quiet.manifests["2.0.0"]
    assert planning.send(client, draft, "what", said(quiet, manifest=other.pk)).status_code == 303
    draft.refresh_from_db()
    assert draft.manifest_id == other.pk
    event = AuditEvent.objects.filter(verb="rollout.edit", subject_id=str(draft.pk)).latest("id")
    assert event.before == {"manifest": quiet.manifests["3.0.0"].mid}
    assert event.after == {"changed": ["manifest"], "manifest": other.mid}


def test_a_revert_keeps_its_version(client: Client, quiet: rows.Filled, draft: Rollout) -> None:
    before = draft.manifest_id
    Rollout.objects.filter(pk=draft.pk).update(kind="revert")
    assert "A revert keeps the version" in html_of(client, draft, "what")
    planning.send(client, draft, "what", said(quiet, manifest=quiet.manifests["2.0.0"].pk, name="b"))
    draft.refresh_from_db()
    assert (draft.name, draft.manifest_id) == ("b", before)
    with pytest.raises(RolloutError, match="a revert keeps its version"):
        rollouts.edit(draft, manifest=quiet.manifests["2.0.0"], actor=OTHER, now=rows.present())
    assert Rollout.objects.get(pk=draft.pk).manifest_id == before


def test_who_may_not_plan_gets_no_page_and_changes_nothing(
    as_role: AsRole, client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    viewer, before = as_role("viewer"), draft.rev
    for page in (*planning.PAGES, "review"):
        assert viewer.get(planning.path(draft, page)).status_code == 403
        assert viewer.post(planning.path(draft, page), said(quiet, name="b")).status_code == 403
    assert client.get(f"/rollouts/{draft.pk}/plan/how").status_code == 404
    running = Rollout.objects.filter(pk=quiet.rollouts["running"].pk)
    running.update(state="running")
    assert client.post(planning.path(running.get(), "waves"), said(quiet)).status_code == 409
    assert Rollout.objects.get(pk=draft.pk).rev == before


def test_pages_of_a_plan_cost_a_bounded_number_of_queries(client: Client, draft: Rollout) -> None:
    found = {}
    for page in (*planning.PAGES, "review"):
        with CaptureQueriesContext(connection) as seen:
            html_of(client, draft, page)
        found[page] = len(seen)
    assert {page: n for page, n in found.items() if n > BUDGET[page]} == {}, found
