"""Waves over REST: listed with their evidence, overridden only against it, marked for good."""

from uuid import uuid4

import pytest

from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota.models import Evidence, Rollout
from tests.api.conftest import Caller
from tests.api.test_rollouts import begin, draft_of, verb
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db


def halted(call: Caller, world: World) -> tuple[str, Rollout]:
    """Path of a rollout whose first wave failed: one device computes something else."""
    device, *_ = world.add(8)
    bad = world.manifest()
    device.faults[bad.pk] = (UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH)
    plan = FIRST_PLAN | {"waves": [{"named": [device.id, "dev-002"]}, {"percent": 100}]}
    made = call.as_role("operator")("POST", "/rollouts", draft_of(bad, plan))
    path = f"/rollouts/{made.json()['id']}"
    assert call("GET", f"{path}/waves").json()["items"] == [], "none before the start"
    verb(call, path, "preflight")
    begin(call, path)
    rollout = Rollout.objects.get()
    world.now = rollout.started_at or world.now
    return path, world.run(rollout, until={"halted"})


def test_a_failed_wave_is_overridden_against_its_evidence_and_stays_marked(
    call: Caller, world: World
) -> None:
    path, rollout = halted(call, world)
    first, second = call("GET", f"{path}/waves").json()["items"]
    evidence = first["evidence_id"]
    assert (first["state"], second["state"], evidence) == ("failed", "pending", str(rollout.halted_on_id))
    body = {"evidence": evidence, "reason": "the labels were wrong"}
    assert call.as_role("operator")("POST", f"{path}/waves/1/override", body).status_code == 403
    assert call("POST", f"{path}/waves/9/override", body).status_code == 404
    assert call("POST", f"{path}/waves/1/override", {"evidence": evidence}).status_code == 422
    of_second = call("POST", f"{path}/waves/2/override", body)
    assert (of_second.status_code, of_second.json()["code"]) == (409, "illegal_transition")
    older = Evidence.objects.filter(rollout=rollout).exclude(pk=evidence).first()
    for other in (str(uuid4()), *([str(older.pk)] if older else [])):
        wrong = call("POST", f"{path}/waves/1/override", body | {"evidence": other})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "evidence_not_current")
    dry = call("POST", f"{path}/waves/1/override", body | {"dry_run": True}).json()
    assert dry == {"dry_run": True, "wave": 1, "opens": 2, "devices": second["size"]}
    assert call("GET", path).json()["state"] == "halted"
    done = call("POST", f"{path}/waves/1/override", body)
    assert (done.status_code, done.json()["state"]) == (200, "running")
    world.run(rollout, until={"completed"})
    first = call("GET", f"{path}/waves").json()["items"][0]
    assert (first["state"], first["tone"]) == ("overridden", "bad")
    told = first["overridden"]
    assert (told["why"], told["evidence"]) == ("the labels were wrong", evidence)
    assert told["by"].startswith("admin/")
    again = call("POST", f"{path}/waves/1/override", body)
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")
