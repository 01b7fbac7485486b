"""Late joiners: the tail takes them in, they never enter an earlier wave, hard gates stay armed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.devices.models import Device
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.models import Job, Manifest, Membership, Rollout
from tests.ota.world import ACTOR, FIRST_PLAN, SECOND, World

pytestmark = pytest.mark.django_db

TAIL = FIRST_PLAN | {
    "waves": [{"count": 3}, {"percent": 100}],
    "control": {"count": 0},
    "late": "tail",
    "tail_days": 2,
}


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    world = World(now, make_manifest)
    world.add(8)
    world.running(world.manifest())
    return world


def a_day_later(world: World) -> None:
    """Move the clock without telemetry of the time between."""
    world.now = world._telemetry_at = world.now + timedelta(days=1)


def to_the_tail(world: World, plan: dict[str, Any] = TAIL, **target: Any) -> Rollout:
    """Run until the tail is open; three devices joined while earlier waves ran."""
    rollout = world.started(world.manifest(), plan, **target)
    world.tick(rollout)
    world.add(3, prefix="late")
    for _ in range(60):
        if world.tick(rollout).waves.get(n=3).state == "open":
            return rollout
        for _ in range(3):
            world.step()
        world.pass_time(5)
        for n in (1, 2):
            members = Membership.objects.filter(rollout=rollout, wave=n)
            assert not members.filter(device__pk__startswith="late").exists(), "never in an earlier wave"
    raise AssertionError(rollouts.state(rollout, now=world.now)["sentence"])


def test_late_devices_come_last_and_the_rollout_ends_with_the_tail(world: World) -> None:
    rollout = to_the_tail(world)
    facts = rollouts.state(rollout, now=world.now)
    assert facts["sentence"].startswith("The tail, open ")
    assert facts["control"]["is_released"]
    assert [wave["is_tail"] for wave in facts["waves"]] == [False, False, True]
    for _ in range(8):
        world.tick(rollout)
        world.step()
        world.pass_time(5)
    assert Job.objects.filter(device__pk__startswith="late", state="confirmed").count() == 3
    row = Membership.objects.get(device="late-001")
    assert (row.arm, row.wave, row.stratum) == ("wave", 3, "host-a/new")
    a_day_later(world)
    assert world.tick(rollout).state == "running"
    (again,) = world.add(1, prefix="later")
    world.running(world.manifest(), [again])
    world.pass_time(20)
    world.run(rollout, until={"running"}, rounds=1)
    for _ in range(8):
        world.tick(rollout)
        world.step()
        world.pass_time(5)
    assert again.run == rollout.manifest_id
    facts = rollouts.state(rollout, now=world.now)
    assert facts["size"] == 12
    assert sum(facts["counts"].values()) == 12
    a_day_later(world)
    world.add(1, prefix="toolate")
    assert world.run(rollout, until={"completed"}).state == "completed"
    assert not Membership.objects.filter(device__pk__startswith="toolate").exists()
    assert rollout.waves.get(n=3).verdict == "pass"


def test_without_a_tail_late_devices_are_left_out(world: World) -> None:
    rollout = world.started(world.manifest(), TAIL | {"late": "skip"})
    world.tick(rollout)
    world.add(3, prefix="late")
    assert world.run(rollout, until={"completed"}).state == "completed"
    assert rollout.waves.count() == 2
    found = rollouts.explain(rollout, "late-001", now=world.now)
    assert found is not None
    assert found["code"] == "not_targeted"


def test_hard_gates_stay_armed_in_the_tail(world: World) -> None:
    rollout = to_the_tail(world, TAIL | {"on_fail": "halt"})
    for device in world.add(10, prefix="more"):
        device.faults[rollout.manifest_id] = (UpdateState.REVERTED, RefusalCode.CRASH_LOOP)
    world.pass_time(20)
    assert world.run(rollout, until={"halted"}).state == "halted"
    tail = rollout.waves.get(n=3)
    assert (tail.state, tail.verdict) == ("failed", "fail")
    opened_at = tail.opened_at
    rollouts.resume(
        rollout,
        actor=SECOND,
        now=world.now,
        ack_evidence=rollout.halted_on_id,
        reason="a bad batch of boards",
    )
    tail.refresh_from_db()
    assert (tail.state, tail.opened_at) == ("open", opened_at), "a halt does not make the tail longer"


def test_the_target_and_eligibility_count_for_late_devices_too(world: World) -> None:
    rollout = to_the_tail(world, q="online==true")
    Device.objects.filter(pk="late-001").update(quarantined_at=world.now)
    Device.objects.filter(pk="late-002").update(presence="offline")
    Device.objects.filter(pk="late-003").update(retired_at=world.now)
    Membership.objects.filter(rollout=rollout, wave=3).delete()
    rollout.waves.filter(n=3).update(size=0, joined_at=None)
    Job.objects.filter(device__pk__startswith="late").delete()
    world.tick(rollout)
    assert not Membership.objects.filter(rollout=rollout, device__pk__startswith="late").exists()
    Device.objects.filter(pk="late-001").update(quarantined_at=None)
    world.pass_time(20)
    world.tick(rollout)
    assert list(Membership.objects.filter(rollout=rollout, wave=3).values_list("device_id", flat=True)) == [
        "late-001"
    ]


def test_explain_says_that_the_tail_will_take_a_device_in(world: World) -> None:
    rollout = world.started(world.manifest(), TAIL)
    world.tick(rollout)
    world.add(1, prefix="late")
    found = rollouts.explain(rollout, "late-001", now=world.now)
    assert found is not None
    assert (found["code"], found["blockers"][0]["until"]) == ("wave_not_open", "wave 2 passed")
    rollouts.abort(rollout, actor=ACTOR, now=world.now)
    world.run(rollout, until={"aborted"})
    found = rollouts.explain(rollout, "late-001", now=world.now)
    assert found is not None
    assert found["code"] == "not_targeted"


def test_a_rollback_takes_late_devices_back_too(world: World) -> None:
    rollout = to_the_tail(world)
    for _ in range(8):
        world.tick(rollout)
        world.step()
        world.pass_time(5)
    assert Job.objects.filter(device__pk__startswith="late", state="confirmed").count() == 3
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="no")
    assert world.run(rollout, until={"rolled_back"}).state == "rolled_back"
    assert all(world.devices[f"late-00{n}"].is_stopped for n in (1, 2, 3))
