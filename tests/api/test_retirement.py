"""Retiring a device over REST: who may, what it ends, and what is refused."""

from __future__ import annotations

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from ota.models import Job, Manifest, Rollout
from tests.api.conftest import Caller
from tests.api.test_rollouts import begin, draft_of, verb
from tests.api.test_rollouts import candidate as candidate
from tests.ota.world import World

pytestmark = pytest.mark.django_db


def test_a_device_is_retired_once_and_for_good(call: Caller, world: World) -> None:
    world.add(2)
    refused = call("POST", "/devices/dev-001/retire", {"reason": " "})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation")
    assert refused.json()["errors"][0]["pointer"] == "/reason"
    gone = call("POST", "/devices/dev-001/retire", {"reason": "it fell into the sea"})
    assert gone.status_code == 200
    assert (gone.json()["id"], gone.json()["presence"]) == ("dev-001", "offline")
    assert gone.json()["retired_at"]
    again = call("POST", "/devices/dev-001/retire", {"reason": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")
    assert (again.json()["state"], again.json()["allowed"]) == ("retired", [])
    unknown = call("POST", "/devices/none/retire", {"reason": "x"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    listed = call("GET", "/devices?q=class==host-a").json()["items"]
    assert [row["id"] for row in listed] == ["dev-002"]
    assert call("GET", "/devices/dev-001").json()["retired_at"] == gone.json()["retired_at"]
    row = AuditEvent.objects.get(verb="device.retire")
    assert (row.actor.partition("/")[0], row.reason) == ("admin", "it fell into the sea")


def test_an_operator_quarantines_but_does_not_retire(call: Caller, world: World) -> None:
    world.add(1)
    refused = call.as_role("operator")("POST", "/devices/dev-001/retire", {"reason": "x"})
    assert (refused.status_code, refused.json()["scope"]) == (403, "devices:admin")
    assert Device.objects.get().retired_at is None


def test_the_offers_of_a_retired_device_end_and_the_rollout_counts_it_no_more(
    call: Caller, world: World, candidate: Manifest
) -> None:
    made = call("POST", "/rollouts", draft_of(candidate)).json()
    path = f"/rollouts/{made['id']}"
    verb(call, path, "submit")
    begin(call, path)
    rollout = Rollout.objects.get()
    world.now = rollout.started_at or world.now
    world.tick(rollout)
    assert Job.objects.get(device="dev-001").state == "offered"
    call("POST", "/devices/dev-001/retire", {"reason": "it fell into the sea"})
    world.devices.pop("dev-001")
    world.tick(rollout)
    assert Job.objects.get(device="dev-001").state == "removed"
    explained = call("GET", f"{path}/explain/dev-001").json()
    assert explained["job"]["state"] == "removed"
    world.run(rollout, until={"completed"})
    done = call("GET", path).json()
    assert done["counts"] == {"confirmed": 5, "removed": 1}
