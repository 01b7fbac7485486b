"""Aliases over REST: made once, moved by who has read them, with their history."""

from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from ota.models import Manifest, ModelAlias, ModelVersion
from tests.api.conftest import Caller
from tests.ota.world import FIRST_PLAN

pytestmark = pytest.mark.django_db
STABLE = "/models/kws/aliases/stable"


@pytest.fixture
def lines(make_manifest: Any) -> list[Manifest]:
    """Two signed versions of the model kws."""
    return [make_manifest() for _ in range(2)]


def names(lines: list[Manifest]) -> list[str]:
    return [row.version.version for row in lines]


def test_an_alias_is_made_moved_and_remembers(call: Caller, lines: list[Manifest]) -> None:
    first, second = names(lines)
    assert call("GET", STABLE).status_code == 404
    made = call("PUT", STABLE, {"version": first, "reason": "proved itself"})
    assert (made.status_code, made["ETag"]) == (200, '"1"'), made.json()
    assert call("GET", "/models/kws/aliases").json()["items"][0]["version"] == first
    unread = call("PUT", STABLE, {"version": second})
    assert (unread.status_code, unread.json()["code"]) == (428, "if_match_required")
    moved = call("PUT", STABLE, {"version": second}, IF_MATCH='"1"')
    assert (moved.status_code, moved["ETag"], moved.json()["version"]) == (200, '"2"', second)
    stale = call("PUT", STABLE, {"version": first}, IF_MATCH='"1"')
    assert (stale.status_code, stale.json()["code"], stale.json()["etag"]) == (412, "stale", '"2"')
    found = call("GET", STABLE)
    assert found["ETag"] == '"2"'
    assert [(one["was"], one["now"], one["reason"]) for one in found.json()["history"]] == [
        (first, second, ""),
        (None, first, "proved itself"),
    ]
    events = AuditEvent.objects.filter(verb="alias.set", subject_id="kws/stable")
    assert [row.after for row in events.order_by("at")] == [{"version": first}, {"version": second}]


def test_the_same_again_changes_nothing(call: Caller, lines: list[Manifest]) -> None:
    (first, _) = names(lines)
    call("PUT", STABLE, {"version": first})
    again = call("PUT", STABLE, {"version": first}, IF_MATCH='"1"')
    assert (again.status_code, again["ETag"]) == (200, '"1"')
    assert AuditEvent.objects.filter(verb="alias.set").count() == 1


def test_what_no_alias_may_be_is_refused(call: Caller, lines: list[Manifest]) -> None:
    (first, second) = names(lines)
    bad = call("PUT", "/models/kws/aliases/No%20Name", {"version": first})
    assert (bad.status_code, bad.json()["code"]) == (422, "validation")
    assert call("PUT", STABLE, {"version": "9.9.9"}).status_code == 404
    ModelVersion.objects.filter(version=second).update(state="yanked")
    gone = call("PUT", STABLE, {"version": second})
    assert (gone.status_code, gone.json()["code"]) == (409, "illegal_transition")
    assert not ModelAlias.objects.exists()
    assert call.as_role("viewer")("PUT", STABLE, {"version": first}).status_code == 403
    assert call("GET", "/models/none/aliases").status_code == 404


def test_a_rollout_may_name_an_alias_which_is_resolved_when_the_draft_is_made(
    call: Caller, lines: list[Manifest]
) -> None:
    """What was reviewed is what runs: the alias moves on, the draft does not."""
    first, second = names(lines)
    call("PUT", STABLE, {"version": first})
    body = {"name": "walk", "model": "kws", "version": "stable", "plan": FIRST_PLAN}
    made = call("POST", "/rollouts", body)
    assert made.status_code == 201, made.json()
    assert (made.json()["manifest"]["version"], made.json()["alias"]) == (first, "stable")
    event = AuditEvent.objects.get(verb="rollout.create", subject_id=made.json()["id"])
    assert event.after == {"name": "walk", "manifest": lines[0].mid, "alias": "stable"}
    call("PUT", STABLE, {"version": second}, IF_MATCH='"1"')
    again = call("GET", f"/rollouts/{made.json()['id']}").json()
    assert (again["manifest"]["version"], again["alias"]) == (first, "stable")
    later = call("POST", "/rollouts", body).json()
    assert (later["manifest"]["version"], later["alias"]) == (second, "stable")
    assert call("POST", "/rollouts:preview", body).status_code == 200
    unknown = call("POST", "/rollouts", body | {"version": "canary"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


def test_a_version_goes_before_an_alias_of_its_name(call: Caller, lines: list[Manifest]) -> None:
    first, second = names(lines)
    call("PUT", f"/models/kws/aliases/{first}", {"version": second})
    body = {"name": "walk", "model": "kws", "version": first, "plan": FIRST_PLAN}
    made = call("POST", "/rollouts", body).json()
    assert (made["manifest"]["version"], made["alias"]) == (first, "")
