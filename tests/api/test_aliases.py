"""Aliases over REST: made once, moved by who has read them, with their history."""

from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from ota.models import Manifest, ModelAlias, ModelVersion
from tests.api.conftest import Caller

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
