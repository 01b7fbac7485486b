"""Late joiners: the tail takes them in, they never enter an earlier wave, hard gates stay armed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices import quarantine
from fleet.devices.models import Device, DeviceClass
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.models import ClassVerdict, Job, Manifest, Membership, Rollout
from tests.ota.world import ACTOR, FIRST_PLAN, SECOND, FakeDevice, World

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


@dataclass
class LeftOut:
    """A rollout with devices that it could not take at its start, in the order of their names."""

    rollout: Rollout
    unjudged: FakeDevice
    held: FakeDevice
    done: FakeDevice

    def explained(self, device: FakeDevice, world: World) -> tuple[str, str, list[str]]:
        """Its code, its sentence, and every blocker's code."""
        found = rollouts.explain(self.rollout, device.id, now=world.now)
        assert found is not None
        return found["code"], found["sentence"], [item["code"] for item in found["blockers"]]


@pytest.fixture
def left_out(world: World) -> LeftOut:
    """Of another class that was not preflighted yet, in quarantine, and one that ran the model already."""
    manifest = world.manifest(["host-a", "host-b"])
    (unjudged,) = world.add(1, "host-b", prefix="out-b")
    held, done = world.add(2, prefix="out")
    world.running(world.manifest(["host-b"]), [unjudged])
    world.running(manifest, [done])
    ClassVerdict.objects.filter(version=manifest.version, device_class="host-b").delete()
    quarantine.quarantine(held.id, reason="it burnt", actor=ACTOR, now=world.now)
    return LeftOut(world.started(manifest, TAIL), unjudged, held, done)


def let_in(world: World, left: LeftOut) -> None:
    """Preflight the class and end the quarantine."""
    described = DeviceClass.objects.get(pk="host-b")
    ClassVerdict.objects.create(
        version=left.rollout.manifest.version, device_class=described, class_id=described.class_id,
        kind="pass", at=world.now,
    )  # fmt: skip
    quarantine.release(left.held.id, reason="repaired", actor=ACTOR, now=world.now)


def until_tail(world: World, rollout: Rollout, rounds: int = 60) -> None:
    """Go on until the tail has been open for some looks."""
    for _ in range(rounds):
        for _ in range(3):
            world.step()
        world.pass_time(5)
        world.tick(rollout)
        if rollout.waves.get(n=3).state == "open":
            break
    for _ in range(8):
        world.tick(rollout)
        world.step()
        world.pass_time(5)


def test_devices_that_the_start_left_out_come_last_once_they_are_fit(world: World, left_out: LeftOut) -> None:
    rollout, before = left_out.rollout, left_out.unjudged.run
    frozen = Membership.objects.filter(rollout=rollout, arm="skipped").order_by("device")
    assert list(frozen.values_list("device_id", "skip_reason")) == [
        ("out-001", "quarantined"), ("out-002", "already_installed"), ("out-b-001", "not_preflighted"),
    ]  # fmt: skip
    until_tail(world, rollout)
    assert {left_out.unjudged.run, left_out.held.run} == {before, ""}, "not fit yet"
    assert rollouts.state(rollout, now=world.now)["size"] == 8
    let_in(world, left_out)
    world.pass_time(20)
    until_tail(world, rollout)
    assert {left_out.unjudged.run, left_out.held.run} == {rollout.manifest_id}
    rows = Membership.objects.filter(rollout=rollout, wave=3).order_by("device")
    assert list(rows.values_list("device_id", "arm", "stratum", "baseline_run", "skip_reason")) == [
        ("out-001", "wave", "host-a/new", "", "quarantined"),
        ("out-b-001", "wave", "host-b/history", before[:32], "not_preflighted"),
    ]
    facts = rollouts.state(rollout, now=world.now)
    assert (facts["size"], sum(facts["counts"].values())) == (10, 10)
    assert facts["skipped"] == {"already_installed": 1}
    told = AuditEvent.objects.filter(verb="rollout.take_in")
    assert {(row.actor, row.before["left_out"], row.after["wave"]) for row in told} == {
        ("tick", "quarantined", 3),
        ("tick", "not_preflighted", 3),
    }
    assert rollout.waves.get(n=3).size == 2


def test_what_was_taken_in_late_goes_back_to_what_it_ran_then(world: World, left_out: LeftOut) -> None:
    until_tail(world, left_out.rollout)
    other = world.manifest()
    world.running(other, [left_out.held])  # while it was left out
    let_in(world, left_out)
    world.pass_time(20)
    until_tail(world, left_out.rollout)
    assert left_out.held.run == left_out.rollout.manifest_id
    rollouts.rollback(left_out.rollout, actor=ACTOR, now=world.now, reason="no")
    world.run(left_out.rollout, until={"rolled_back"})
    assert left_out.held.run == other.pk


def test_explain_says_that_a_device_left_out_at_the_start_may_still_come(
    world: World, left_out: LeftOut
) -> None:
    until = "The rollout's tail takes it in when that is over."
    code, sentence, blockers = left_out.explained(left_out.held, world)
    assert (code, blockers) == ("quarantined", ["quarantined", "wave_not_open"])
    assert sentence == f"The device is quarantined. {until}"
    code, sentence, blockers = left_out.explained(left_out.unjudged, world)
    assert (code, blockers) == ("incompatible", ["incompatible", "wave_not_open"])
    assert sentence == f"The model does not fit this device. {until}"
    assert left_out.explained(left_out.done, world)[2] == ["already_installed"], "and stays out"
    let_in(world, left_out)
    assert left_out.explained(left_out.held, world)[2] == ["wave_not_open"]
    rollouts.abort(left_out.rollout, actor=ACTOR, now=world.now)
    world.run(left_out.rollout, until={"aborted"})
    assert left_out.explained(left_out.unjudged, world)[2] == ["incompatible"], "there is no tail any more"


def test_without_a_tail_what_the_start_left_out_stays_out(world: World) -> None:
    quarantine.quarantine("dev-001", reason="it burnt", actor=ACTOR, now=world.now)
    rollout = world.started(world.manifest(), TAIL | {"late": "skip"})
    quarantine.release("dev-001", reason="repaired", actor=ACTOR, now=world.now)
    assert world.run(rollout, until={"completed"}).state == "completed"
    found = rollouts.explain(rollout, "dev-001", now=world.now)
    assert found is not None
    assert (found["code"], found["sentence"]) == (
        "quarantined",
        "The device was quarantined when the rollout started.",
    )
    assert world.devices["dev-001"].run != rollout.manifest_id


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
