"""Quarantine over REST: put in, listed, released, and what is refused."""

import pytest

from fleet.accounts.models import AuditEvent
from tests.api.conftest import Caller
from tests.ota.world import World

pytestmark = pytest.mark.django_db


def test_a_device_is_put_into_quarantine_listed_and_released(call: Caller, world: World) -> None:
    world.add(2)
    path = "/devices/dev-001"
    refused = call("POST", f"{path}/quarantine", {"reason": " "})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation")
    held = call("POST", f"{path}/quarantine", {"reason": "smells burnt"})
    assert (held.status_code, held.json()["quarantine_reason"]) == (200, "smells burnt")
    again = call("POST", f"{path}/quarantine", {"reason": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")
    assert (again.json()["state"], again.json()["allowed"]) == ("quarantined", ["release", "retire"])
    listed = [row["id"] for row in call("GET", "/devices?quarantined=true").json()["items"]]
    assert listed == ["dev-001"]
    assert [row["id"] for row in call("GET", "/devices?quarantined=false").json()["items"]] == ["dev-002"]
    free = call("POST", f"{path}/release", {"reason": "it was the toaster"}).json()
    assert (free["quarantined_at"], free["quarantine_reason"]) == (None, "")
    refused = call("POST", f"{path}/release", {})
    assert (refused.status_code, refused.json()["allowed"]) == (409, ["quarantine", "retire"])
    rows = AuditEvent.objects.filter(subject_id="dev-001").order_by("id")
    trail = list(rows.values_list("verb", "reason"))
    assert trail == [("device.quarantine", "smells burnt"), ("device.release", "it was the toaster")]
