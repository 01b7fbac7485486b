"""Alerts, rules and silences over REST."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from fleet.accounts.models import AuditEvent
from fleet.alerts import evaluation
from fleet.alerts.models import Alert
from tests.alerts.planting import plant_devices, plant_events

pytestmark = pytest.mark.django_db
LOOP = {"name": "loops", "kind": "crash_loop"}


@pytest.fixture
def alert(call: Any) -> Alert:
    """An open alert of rule `loops` about a device."""
    assert call("POST", "/alert-rules", LOOP).status_code == 201
    now = timezone.now()
    (one,) = plant_devices(1, now)
    plant_events(one, now - timedelta(minutes=1), "boot", 3, "panic")
    evaluation.evaluate(now)
    return Alert.objects.get()


def test_an_alert_is_listed_acknowledged_and_resolved_with_a_reason(call: Any, alert: Alert) -> None:
    (shown,) = call("GET", "/alerts?state=open").json()["items"]
    assert (shown["id"], shown["rule"], shown["device"]) == (str(alert.pk), "loops", "host-a-000")
    acknowledged = call("POST", f"/alerts/{alert.pk}/ack", {"note": "on it"}).json()
    assert (acknowledged["state"], acknowledged["acknowledged_by"]) == ("acknowledged", "admin")
    resolved = call("POST", f"/alerts/{alert.pk}/resolve", {"reason": "new board"}).json()
    assert (resolved["state"], resolved["reason"]) == ("resolved", "new board")
    verbs = AuditEvent.objects.filter(subject_kind="alert").order_by("at").values_list("verb", flat=True)
    assert list(verbs) == ["alert.opened", "alert.acknowledged", "alert.resolved"]


@pytest.mark.parametrize("query", ["state=lunch", "severity=loud"])
def test_a_filter_that_no_alert_can_match_is_refused(call: Any, query: str) -> None:
    refused = call("GET", f"/alerts?{query}")
    assert (refused.status_code, refused.json()["code"]) == (422, "validation")


def test_what_the_state_does_not_allow_is_409_with_what_is_allowed(call: Any, alert: Alert) -> None:
    assert call("POST", f"/alerts/{alert.pk}/ack", {}).status_code == 200
    refused = call("POST", f"/alerts/{alert.pk}/ack", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
    assert (refused.json()["state"], refused.json()["allowed"]) == ("acknowledged", ["resolve"])
    assert call("POST", f"/alerts/{alert.pk}/resolve", {"reason": " "}).status_code == 422


def test_a_viewer_reads_alerts_and_changes_nothing(call: Any, alert: Alert) -> None:
    viewer = call.as_role("viewer")
    assert viewer("GET", f"/alerts/{alert.pk}").status_code == 200
    for path, body in (
        (f"/alerts/{alert.pk}/ack", {}),
        ("/alert-rules", LOOP | {"name": "other"}),
        ("/silences", {"until": "2030-01-01T00:00:00Z", "reason": "x"}),
    ):
        assert viewer("POST", path, body).json()["code"] == "scope_missing"


def test_a_rule_changes_only_as_its_reader_saw_it(call: Any) -> None:
    call("POST", "/alert-rules", LOOP)
    assert call("PATCH", "/alert-rules/loops", {"threshold": 5}).json()["code"] == "if_match_required"
    changed = call("PATCH", "/alert-rules/loops", {"threshold": 5}, if_match='"1"')
    assert (changed.status_code, changed.json()["threshold"], changed["ETag"]) == (200, 5, '"2"')
    assert call("PATCH", "/alert-rules/loops", {"threshold": 6}, if_match='"1"').status_code == 412


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"kind": "moon"}, 422, "validation"),
        ({"threshold": 0}, 422, "validation"),
        ({"name": "No Name"}, 422, "validation"),
        ({"severity": "loud"}, 422, "validation"),
        ({"q": "(("}, 400, "query_syntax"),
        ({"q": "colour==red"}, 400, "query_unknown_field"),
    ],
)
def test_a_rule_that_is_none_is_refused(call: Any, more: dict[str, Any], status: int, code: str) -> None:
    refused = call("POST", "/alert-rules", LOOP | more)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert call("GET", "/alert-rules").json()["items"] == []


def test_a_deleted_rule_resolves_its_alerts_and_leaves_them_to_be_read(call: Any, alert: Alert) -> None:
    assert call("DELETE", "/alert-rules/loops", if_match='"1"').status_code == 204
    shown = call("GET", f"/alerts/{alert.pk}").json()
    assert (shown["state"], shown["rule"], shown["reason"]) == ("resolved", "loops", "its rule was deleted")


def test_a_silence_begins_with_a_reason_and_ends_once(call: Any) -> None:
    until = (timezone.now() + timedelta(hours=1)).isoformat()
    made = call("POST", "/silences", {"until": until, "reason": "moving house", "q": "class==host-a"})
    assert made.status_code == 201
    assert len(call("GET", "/silences?active=true").json()["items"]) == 1
    assert call("POST", f"/silences/{made.json()['id']}/end").status_code == 200
    assert call("POST", f"/silences/{made.json()['id']}/end").status_code == 409
    assert call("POST", "/silences", {"until": "2020-01-01T00:00:00Z", "reason": "x"}).status_code == 422
