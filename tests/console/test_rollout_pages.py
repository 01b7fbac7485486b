"""The rollout form, the live page, and the verbs with their confirm pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from fleet.console.plan_form import RolloutForm
from fleet.console.plan_initial import initial_of
from fleet.console.plan_pages import FORM_PAGES, page_of_field
from fleet.console.plan_presets import PRESETS
from ota.models import Job, Rollout, Wave
from ota.plan import Plan
from tests.console import planning, rows

AsRole = Callable[[str], Client]


@pytest.fixture
def quiet(filled: rows.Filled, present: datetime) -> rows.Filled:
    """The fleet after its running rollout has ended, so that every device is free for another one."""
    Rollout.objects.filter(pk=filled.rollouts["running"].pk).update(state="completed", finished_at=present)
    Job.objects.filter(rollout=filled.rollouts["running"], finished_at=None).update(
        state="confirmed", finished_at=present
    )
    return filled


def said(filled: rows.Filled, preset: str = "demo", **more: Any) -> dict[str, Any]:
    """What a browser sends for the form as a preset fills it."""
    fields = {name: value for name, value in PRESETS[preset].items() if value is not False}
    return {
        "name": "a test",
        "manifest": filled.manifests["3.0.0"].pk,
        "devices": "",
        "do": "create",
        **{name: "on" if value is True else value for name, value in fields.items()},
        **more,
    }


def test_the_form_knows_the_version_it_came_from(as_role: AsRole, filled: rows.Filled) -> None:
    html = as_role("operator").get("/rollouts/new?model=activity&version=2.0.0").content.decode()
    assert f'<option value="{filled.manifests["2.0.0"].pk}" selected>' in html
    assert 'value="activity 2.0.0"' in html


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_a_plan_that_parses_once_its_proxy_is_accepted(
    preset: str, as_role: AsRole, quiet: rows.Filled
) -> None:
    client = as_role("operator")
    made = planning.made(planning.begin(client, said(quiet), preset=preset))
    html = client.get(planning.path(made, "waves")).content.decode()
    assert f'value="{PRESETS[preset]["waves"]}"' in html
    assert made.plan["metrics"] == [], "nothing is compared before somebody accepted what it rests on"
    html = client.get(planning.path(made, "gates")).content.decode()
    ticked = re.findall(r'name="metrics" value="(\w+)"[^>]*checked', html)
    assert ticked == PRESETS[preset]["metrics"], "the page proposes what the preset compares"
    answer = planning.change(client, made, said(quiet, preset, accept_proxy="on"))
    assert answer.status_code == 303
    made.refresh_from_db()
    plan = Plan.parse(made.plan)
    assert len(plan.waves) == len(PRESETS[preset]["waves"].split(","))


def test_the_preview_counts_devices_and_names_the_least_effect(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("operator")
    answer = planning.preview(client, said(quiet), headers={"HX-Request": "true"})
    html = answer.content.decode()
    assert answer.status_code == 200
    assert "<html" not in html
    assert re.search(r'data-test="eligible">80<', html)
    assert "Least effect this can show" in html
    whole = planning.preview(client, said(quiet, name="another")).content.decode()
    assert "<html" in whole
    assert 'data-test="eligible">80<' in whole
    assert [row.plan["metrics"] for row in Rollout.objects.filter(state="draft")] == [[], []], "nothing saved"


def test_a_preview_tells_what_would_fail_preflight(as_role: AsRole, quiet: rows.Filled) -> None:
    few = said(quiet, devices="dev-001, dev-002 dev-003")
    answer = planning.preview(as_role("operator"), few, headers={"HX-Request": "true"})
    html = answer.content.decode()
    assert 'data-test="preview-reason"' in html
    assert "Control takes all 3 devices" in html


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"waves": "20, many"}, "waves", "neither a count"),
        ({"waves": "20, 10%, 40%"}, "waves", "validation"),
        ({"waves": ""}, "waves", "required"),
        ({"control": "5%, 6%"}, "control", "count like 20"),
        ({"soak": "soon"}, "soak", "Write a time"),
        ({"max_soak": "5 s"}, "max_soak", "validation"),
        ({"min_pairs": "2"}, "min_pairs", "validation"),
        ({"accept_proxy": ""}, "accept_proxy", "biased"),
        ({"promote_margin": "0"}, "promote_margin", "gate_unreachable"),
        ({"halt_margin": "40"}, "halt_margin", "more than the promote margin"),
        ({"devices": "nobody"}, "devices", "unknown_device"),
        ({"manifest": "0" * 64}, "manifest", "valid choice"),
        ({"name": " "}, "name", "required"),
    ],
)
def test_a_refused_plan_is_told_beside_its_field_and_stores_nothing(
    change: dict[str, str], field: str, words: str, as_role: AsRole, quiet: rows.Filled
) -> None:
    answer = planning.plan(as_role("operator"), said(quiet, **change))
    html = answer.content.decode()
    assert answer.status_code == 422
    assert f'data-test="error-{field}"' in html
    assert words in html.split(f'data-test="error-{field}"')[1][:500]
    row = Rollout.objects.filter(name="a test").first()
    if field in ("manifest", "name"):
        assert row is None
        return
    assert row is not None
    said_there = {name for name in FORM_PAGES if f'data-test="page-{name}" data-saved' in html}
    assert page_of_field(field).name not in said_there, "the page is not saved"  # type: ignore[union-attr]
    assert (row.state, row.plan["metrics"], row.target["devices"]) == ("draft", [], [])


def test_a_draft_is_checked_reviewed_and_started(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("operator")
    answer = planning.plan(client, said(quiet))
    made = Rollout.objects.get(name="a test")
    assert (answer.status_code, answer["Location"]) == (303, f"/rollouts/{made.pk}")
    assert made.state == "ready", made.summary.get("reasons")
    html = client.get(f"/rollouts/{made.pk}").content.decode()
    assert 'data-test="review"' in html
    assert 'data-test="verb-start"' in html
    assert "20 devices, 50 %, 100 %" in html
    assert client.post(f"/rollouts/{made.pk}/start").status_code == 303
    made.refresh_from_db()
    assert made.state == "running"
    assert Wave.objects.filter(rollout=made).count() == 3
    html = client.get(f"/rollouts/{made.pk}").content.decode()
    assert 'data-test="waves"' in html
    assert client.post(f"/rollouts/{made.pk}/start").status_code == 409


def test_the_same_form_sent_twice_makes_one_rollout(as_role: AsRole, quiet: rows.Filled) -> None:
    client, fields = as_role("operator"), said(quiet, once="3f0f6f0a-0000-7000-8000-000000000001")
    first, second = planning.begin(client, fields), planning.begin(client, fields)
    assert first["Location"] == second["Location"]
    back = planning.begin(client, fields | {"name": "gone back and changed"})
    html = back.content.decode()
    assert back.status_code == 409
    assert f'href="{planning.path(planning.made(first), "what")}" target="_blank"' in html
    assert 'value="gone back and changed"' in html
    assert Rollout.objects.filter(manifest=quiet.manifests["3.0.0"], state="draft").count() == 1


def test_pause_resume_and_abort_through_their_pages(as_role: AsRole, filled: rows.Filled) -> None:
    client, row = as_role("operator"), filled.rollouts["running"]
    path = f"/rollouts/{row.pk}"
    for verb, state in (("pause", "paused"), ("resume", "running"), ("abort", "aborting")):
        page = client.get(f"{path}/{verb}")
        assert page.status_code == 200
        assert f'data-test="confirm-{verb}"' in page.content.decode()
        row.refresh_from_db()
        assert row.state != state, "a GET changes nothing"
        answer = client.post(f"{path}/{verb}", {"reason": "so it goes"})
        assert (answer.status_code, answer["Location"]) == (303, path)
        row.refresh_from_db()
        assert row.state == state
    refused = client.post(f"{path}/pause", {"reason": "late"})
    html = refused.content.decode()
    assert refused.status_code == 409
    assert "illegal_transition" in html
    assert 'data-test="allowed"' in html


def test_a_rollback_shows_what_it_would_do_and_does_that(as_role: AsRole, filled: rows.Filled) -> None:
    row = filled.rollouts["running"]
    row.members.update(baseline_run=filled.manifests["2.0.0"].id16)
    client, path = as_role("operator"), f"/rollouts/{row.pk}/rollback"
    html = client.get(path).content.decode()
    assert re.search(r'data-test="dry-revert">29<', html)
    assert re.search(r'data-test="dry-download">0<', html)
    shown = re.search(r'name="shown" value="([^"]+)"', html)
    assert shown
    assert client.post(path, {"reason": "worse", "shown": shown[1]}).status_code == 303
    row.refresh_from_db()
    assert row.state == "rolling_back"
    assert "rolling back" in client.get(f"/rollouts/{row.pk}").content.decode().lower()


def test_a_rollback_whose_numbers_moved_is_asked_again(as_role: AsRole, filled: rows.Filled) -> None:
    row = filled.rollouts["running"]
    row.members.update(baseline_run=filled.manifests["2.0.0"].id16)
    client, path = as_role("operator"), f"/rollouts/{row.pk}/rollback"
    shown = re.search(r'name="shown" value="([^"]+)"', client.get(path).content.decode())
    assert shown
    trial = Job.objects.filter(rollout=row, state="trial").first()
    assert trial
    Job.objects.filter(pk=trial.pk).update(state="confirmed")
    answer = client.post(path, {"reason": "worse", "shown": shown[1]})
    assert answer.status_code == 409
    assert 'data-test="moved"' in answer.content.decode()
    row.refresh_from_db()
    assert row.state == "running"


def test_going_on_after_a_halt_needs_a_reason_and_the_evidence(as_role: AsRole, filled: rows.Filled) -> None:
    row = filled.rollouts["halted"]
    Rollout.objects.filter(pk=filled.rollouts["running"].pk).update(state="completed")
    Rollout.objects.filter(pk=row.pk).update(state="halted", rollback_started_at=None, finished_at=None)
    path = f"/rollouts/{row.pk}/resume"
    assert as_role("operator").get(path).status_code == 409
    Rollout.objects.filter(pk=row.pk).update(created_by="admin-of-test")
    author = as_role("admin").post(path, {"reason": "seen it", "evidence": str(row.halted_on_id)})
    assert author.status_code == 403
    client = as_role("approver")
    html = client.get(path).content.decode()
    assert f'name="evidence" value="{row.halted_on_id}"' in html
    assert client.post(path, {"reason": "", "evidence": str(row.halted_on_id)}).status_code == 422
    stale = client.post(path, {"reason": "seen", "evidence": "00000000-0000-7000-8000-000000000000"})
    assert stale.status_code == 409
    assert "evidence_not_current" in stale.content.decode()
    assert client.post(path, {"reason": "seen it", "evidence": str(row.halted_on_id)}).status_code == 303
    row.refresh_from_db()
    assert row.state == "running"


def test_the_live_fragment_is_silent_until_something_moved(as_role: AsRole, filled: rows.Filled) -> None:
    client, row = as_role("viewer"), filled.rollouts["running"]
    path = f"/rollouts/{row.pk}/live"
    html = client.get(path).content.decode()
    assert "9 of 20 confirmed" in html
    assert 'data-poll-s="2"' in html
    seen = html.split("?seen=")[1][:16]
    first = client.get(f"{path}?seen={seen}")
    Job.objects.filter(rollout=row, state="trial").update(state="confirmed")
    second = client.get(f"{path}?seen={seen}")
    assert first.status_code in (200, 204)  # 200 when a second passed that the sentence prints
    assert second.status_code == 200
    assert "12 of 20 confirmed" in second.content.decode()
    over = client.get(f"/rollouts/{filled.rollouts['completed'].pk}/live").content.decode()
    assert "data-poll-s" not in over


def test_the_page_prints_what_the_gate_rests_on(as_role: AsRole, filled: rows.Filled) -> None:
    html = as_role("viewer").get(f"/rollouts/{filled.rollouts['halted'].pk}").content.decode()
    assert 'data-rule="quality:accuracy:proxy"' in html
    assert "30.2 points worse than control" in html
    assert "E halts at 50" in html
    assert "crash_loop" in html
    assert 'href="/devices/dev-000"' in html
    assert "19 of 19 reverted" in html


def test_a_reload_without_script_is_only_made_when_asked_for(as_role: AsRole, filled: rows.Filled) -> None:
    client, path = as_role("viewer"), f"/rollouts/{filled.rollouts['running'].pk}"
    assert 'http-equiv="refresh"' not in client.get(path).content.decode()
    assert 'http-equiv="refresh" content="10"' in client.get(f"{path}?refresh=10").content.decode()
    assert 'http-equiv="refresh"' not in client.get(f"{path}?refresh=1").content.decode()


def test_devices_of_a_rollout_are_found_by_wave_state_and_code(as_role: AsRole, filled: rows.Filled) -> None:
    client, path = as_role("viewer"), f"/rollouts/{filled.rollouts['running'].pk}/jobs"
    assert "40 attempts" in client.get(path).content.decode()
    assert "9 attempts" in client.get(f"{path}?wave=2&state=confirmed").content.decode()
    assert "dev-038" in client.get(f"{path}?code=selftest_mismatch").content.decode()
    assert "No device matches" in client.get(f"{path}?wave=99999999999&code=zzz").content.decode()


def test_a_draft_that_failed_preflight_is_changed_and_checked_again(
    as_role: AsRole, quiet: rows.Filled
) -> None:
    client = as_role("operator")
    made = planning.made(planning.plan(client, said(quiet, devices="dev-001 dev-002")))
    assert made.state == "preflight_failed"
    old_address = client.get(f"/rollouts/{made.pk}/edit")
    assert old_address["Location"] == planning.path(made, "review")
    assert "dev-001 dev-002" in client.get(planning.path(made, "who")).content.decode()
    assert 'value="20, 50%, 100%"' in client.get(planning.path(made, "waves")).content.decode()
    preview = planning.send(client, made, "who", said(quiet, do="preview"), headers={"HX-Request": "true"})
    assert 'data-test="eligible">80<' in preview.content.decode()
    assert planning.change(client, made, said(quiet, waves="none")).status_code == 422
    assert planning.change(client, made, said(quiet, name="a better test")).status_code == 303
    made.refresh_from_db()
    assert (made.state, made.name, made.target["devices"]) == ("ready", "a better test", [])
    client.post(f"/rollouts/{made.pk}/start")
    for page in ("what", "who", "waves", "gates", "review"):
        assert client.get(planning.path(made, page)).status_code == 409


def test_the_form_of_a_stored_plan_gives_that_plan_again(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("operator")
    odd = said(quiet, window="1 h 30 min 5 s", max_soak="2 d", waves="20, 33.3%, 100%")
    made = planning.made(planning.plan(client, odd))
    form = RolloutForm(initial_of(made))
    assert form.is_valid(), form.errors
    plan = form.plan()
    assert plan is not None
    assert plan.to_json() == made.plan
