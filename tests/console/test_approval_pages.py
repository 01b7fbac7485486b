"""Approval, start time and windows in the console: the form, the review page, and who is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from django.test import Client

from fleet.console.plan_fields import windows_text
from fleet.console.plan_initial import initial_of
from ota.models import Approval, Rollout
from ota.plan import Plan
from tests.console import planning, rows
from tests.console.test_rollout_pages import AsRole, said
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db

WHEN = {
    "start_at": "2099-05-02T22:00",
    "zone": "Europe/Berlin",
    "windows": "mon-fri 22:00 4 h device; sat,sun 0:30 1 h 30 min",
    "late": "tail",
    "tail_days": "7",
    "requires_approval": "on",
}


@pytest.fixture
def as_role(make_user: Callable[..., Any]) -> AsRole:
    """Client of the person of a role, the same one each time."""

    @cache
    def sign_in(role: str) -> Client:
        client = Client()
        client.force_login(make_user(role))
        return client

    return sign_in


@pytest.fixture
def waiting(as_role: AsRole, quiet: rows.Filled) -> Rollout:
    """A rollout that an operator submitted and that awaits an approval."""
    made = planning.made(planning.plan(as_role("operator"), said(quiet, **WHEN)))
    assert made.state == "awaiting_approval", made.reason
    return made


def test_the_form_reads_when_and_fills_it_back(as_role: AsRole, waiting: Rollout) -> None:
    plan = Plan.parse(waiting.plan)
    assert waiting.plan["start_at"] == "2099-05-02T20:00:00Z"
    assert (plan.zone, plan.late, plan.tail_days, plan.requires_approval) == (
        "Europe/Berlin",
        "tail",
        7,
        True,
    )
    assert windows_text(plan.windows) == "mon,tue,wed,thu,fri 22:00 4 h device; sat,sun 00:30 1 h 30 min UTC"
    filled = initial_of(waiting)
    assert (filled["start_at"], filled["windows"]) == ("2099-05-02T22:00", windows_text(plan.windows))
    client = as_role("operator")
    html = client.get(f"/rollouts/{waiting.pk}").content.decode()
    assert "2099-05-02 22:00 Europe/Berlin (20:00 UTC)" in html
    assert "mon, tue, wed, thu, fri 22:00 for 4 h, in each device&#x27;s zone" in html
    form = client.get(planning.path(waiting, "waves")).content.decode()
    assert 'value="2099-05-02T22:00"' in form
    assert re.search(r'name="requires_approval"[^>]*checked', form)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"start_at": "tomorrow"}, "start_at", "Write a day"),
        ({"start_at": "2026-05-02T22:00Z"}, "start_at", "Write a day"),
        ({"zone": "Mars/Phobos"}, "zone", "Europe/Berlin"),
        ({"windows": "whenever"}, "windows", "mon-fri 22:00"),
        ({"windows": "noday 22:00 4 h"}, "windows", "no weekday"),
        ({"windows": "22:00 4 h Mars/Phobos"}, "windows", "device, UTC or a zone"),
        ({"windows": "25:00 4 h"}, "windows", "time of day"),
        ({"windows": "22:00 0 min"}, "windows", "window_never_opens"),
        ({"windows": "22:00 25 h"}, "windows", "1440"),
        ({"late": "maybe"}, "late", "valid choice"),
        ({"tail_days": "0"}, "tail_days", "must be"),
    ],
)
def test_a_schedule_that_means_nothing_is_told_beside_its_field(
    as_role: AsRole, quiet: rows.Filled, change: dict[str, str], field: str, words: str
) -> None:
    answer = planning.plan(as_role("operator"), said(quiet, **(WHEN | change)))
    html = answer.content.decode()
    assert answer.status_code == 422
    assert words in html.split(f'data-test="error-{field}"')[1][:500]
    row = Rollout.objects.get(name="a test")
    assert (row.state, row.plan["start_at"], row.plan["windows"]) == ("draft", None, [])


def test_an_approver_reads_the_plan_and_approves_it(as_role: AsRole, waiting: Rollout) -> None:
    path = f"/rollouts/{waiting.pk}"
    client = as_role("approver")
    html = client.get(path).content.decode()
    assert 'data-test="approval"' in html
    assert "Written by operator, who cannot approve it" in html
    assert 'data-test="verb-approve"' in html
    assert 'data-test="verb-start"' not in html
    page = client.get(f"{path}/approve").content.decode()
    digests = dict(re.findall(r'name="(\w+(?:_sha256|_digest))" value="([0-9a-f]{64})"', page))
    assert set(digests) == {"manifest_sha256", "plan_digest", "target_digest"}
    assert 'data-test="plan"' in page
    assert 'data-test="review"' in page
    waiting.refresh_from_db()
    assert waiting.state == "awaiting_approval", "a GET changes nothing"
    answer = client.post(f"{path}/approve", digests | {"reason": "read it"})
    assert (answer.status_code, answer["Location"]) == (303, path)
    waiting.refresh_from_db()
    assert waiting.state == "scheduled"
    html = client.get(path).content.decode()
    assert re.search(r'data-test="decision"><strong>Approved</strong> by approver', html)
    assert "starts by itself at" in html


def test_a_page_that_was_overtaken_by_an_edit_approves_nothing(as_role: AsRole, waiting: Rollout) -> None:
    path, client = f"/rollouts/{waiting.pk}", as_role("approver")
    page = client.get(f"{path}/approve").content.decode()
    digests = dict(re.findall(r'name="(\w+(?:_sha256|_digest))" value="([0-9a-f]{64})"', page))
    fields = {key: value for key, value in initial_of(waiting).items() if value is not False}
    operator = as_role("operator")
    assert planning.send(operator, waiting, "waves", fields | {"max_in_flight": "99"}).status_code == 303
    assert planning.submit(operator, waiting).status_code == 303
    answer = client.post(f"{path}/approve", digests)
    assert answer.status_code == 409
    assert "max_in_flight 200 -&gt; 99" in answer.content.decode()
    assert not Approval.objects.exists()


def test_the_author_has_no_button_and_no_way_around_it(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("admin")
    made = planning.made(planning.plan(client, said(quiet, **WHEN)))
    html = client.get(f"/rollouts/{made.pk}").content.decode()
    assert "verb-approve" not in html
    page = client.get(f"/rollouts/{made.pk}/approve").content.decode()
    digests = dict(re.findall(r'name="(\w+(?:_sha256|_digest))" value="([0-9a-f]{64})"', page))
    answer = client.post(f"/rollouts/{made.pk}/approve", digests)
    assert answer.status_code == 403
    assert "approver_is_author" in answer.content.decode()
    assert as_role("operator").post(f"/rollouts/{made.pk}/approve", digests).status_code == 409


def test_a_rejection_asks_why(as_role: AsRole, waiting: Rollout) -> None:
    path, client = f"/rollouts/{waiting.pk}/reject", as_role("approver")
    assert client.get(path).status_code == 200
    assert client.post(path, {"reason": ""}).status_code == 422
    assert client.post(path, {"reason": "not this week"}).status_code == 303
    waiting.refresh_from_db()
    assert (waiting.state, waiting.reason) == ("rejected", "not this week")


def test_the_overview_names_what_waits_for_me(as_role: AsRole, waiting: Rollout) -> None:
    assert 'data-test="waiting"' in as_role("approver").get("/").content.decode()
    for role in ("operator", "viewer"):
        assert 'data-test="waiting"' not in as_role(role).get("/").content.decode()
