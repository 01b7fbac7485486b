"""Reports move jobs: mapping, duplicates, reordering, lost messages and races with withdrawals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime

import pytest

from fleet.devices.models import Device
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import Clock, EventKind, RefusalCode, UpdateState
from fleet.mqtt.codec.reported import Reported
from ota import reports, rollouts
from ota.models import DesiredState, Job, Manifest, Rollout
from tests.ota.world import ACTOR, FIRST_PLAN, FakeDevice, World

pytestmark = pytest.mark.django_db

S = UpdateState


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


@pytest.fixture
def offered(world: World) -> tuple[World, Rollout, FakeDevice]:
    """One device that runs an old model and was just offered a new one."""
    (device,) = world.add(1)
    world.running(world.manifest())
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    assert job_of(rollout).state == "offered"
    world.sync(device)
    return world, rollout, device


def job_of(rollout: Rollout) -> Job:
    return Job.objects.filter(rollout=rollout).order_by("-attempt")[0]


def say(
    world: World, device: FakeDevice, state: UpdateState, code: RefusalCode = RefusalCode.NONE, **more: int
) -> Reported:
    """The device's next report with its slot in this state; delivered."""
    device.state, device.code = state, code
    for name, value in more.items():
        setattr(device, name, value)
    if state == S.CONFIRMED and device.run != device.target:
        device.run, device.other = device.target, device.run
    reported = device.report()
    world.send(device, reported)
    return reported


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (S.OFFERED, "accepted"),
        (S.MANIFEST_OK, "accepted"),
        (S.DOWNLOADING, "downloading"),
        (S.DOWNLOADED, "verifying"),
        (S.VERIFIED, "staged"),
        (S.TRIAL, "trial"),
        (S.CONFIRMED, "confirmed"),
    ],
)
def test_each_reported_state_moves_the_job(
    offered: tuple[World, Rollout, FakeDevice], state: UpdateState, expected: str
) -> None:
    world, rollout, device = offered
    say(world, device, state)
    job = job_of(rollout)
    assert job.state == expected
    assert (job.exposed_at is not None) == (expected in ("trial", "confirmed"))
    assert (job.confirmed_at is not None) == (expected == "confirmed")


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        (S.REFUSED, RefusalCode.OP_MISSING, "rejected"),
        (S.REFUSED, RefusalCode.EXPIRED, "rejected"),
        (S.REFUSED, RefusalCode.DIGEST, "failed"),
        (S.REFUSED, RefusalCode.SIGNATURE, "failed"),
        (S.REVERTED, RefusalCode.ARENA_TOO_SMALL, "self_reverted"),
        (S.REVERTED, RefusalCode.CRASH_LOOP, "self_reverted"),
        (S.DEFERRED, RefusalCode.LOW_POWER, "deferred"),
    ],
)
def test_each_refusal_ends_in_its_class(
    offered: tuple[World, Rollout, FakeDevice], state: UpdateState, code: RefusalCode, expected: str
) -> None:
    world, rollout, device = offered
    say(world, device, state, code)
    job = job_of(rollout)
    assert (job.state, job.code) == (expected, code.label)
    retried = code in (RefusalCode.EXPIRED, RefusalCode.DIGEST)
    assert (job.retry_at is not None) == retried


def test_progress_is_what_the_device_said(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    say(world, device, S.DOWNLOADING, have=2)
    say(world, device, S.DOWNLOADING, have=5)
    assert (job_of(rollout).have, job_of(rollout).total) == (5, 8)


def test_duplicates_and_reordering_change_nothing(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    early = say(world, device, S.DOWNLOADING)
    trial = say(world, device, S.TRIAL)
    say(world, device, S.CONFIRMED)
    for old in (trial, early, early):
        assert world.send(device, old) == []
        assert reports.apply(device.id, old, now=world.now) == []
    assert job_of(rollout).state == "confirmed"


def test_a_lower_rank_in_a_newer_report_is_stale(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    say(world, device, S.VERIFIED)
    say(world, device, S.DOWNLOADING)
    assert job_of(rollout).state == "staged"


def test_a_lost_final_status_is_repaired_by_the_next_report(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    say(world, device, S.DOWNLOADING)
    device.state, device.run, device.other = S.CONFIRMED, device.target, device.run
    device.report()  # never arrives
    world.send(device)  # the heartbeat says it again
    assert job_of(rollout).state == "confirmed"


@pytest.mark.parametrize("field", ["target", "attempt", "slot"])
def test_an_unknown_target_attempt_or_slot_is_inventory_only(
    offered: tuple[World, Rollout, FakeDevice], field: str
) -> None:
    world, rollout, device = offered
    reported = device.report()
    slot = dataclasses.replace(reported.slots[0], state=S.CONFIRMED)
    if field == "target":
        slot = dataclasses.replace(slot, target=bytes(range(16)))
    elif field == "attempt":
        slot = dataclasses.replace(slot, attempt=77)
    slots = {3: slot} if field == "slot" else {0: slot}
    assert world.send(device, dataclasses.replace(reported, slots=slots)) == []
    assert job_of(rollout).state == "offered"


def test_a_confirmation_must_come_from_the_bank_that_runs(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    reported = device.report()
    slot = dataclasses.replace(reported.slots[0], state=S.CONFIRMED)  # but the old model runs
    world.send(device, dataclasses.replace(reported, slots={0: slot}))
    assert job_of(rollout).state == "offered"


def test_an_older_counter_is_stale(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    job = job_of(rollout)
    device.counter = job.counter - 1
    say(world, device, S.DOWNLOADING)
    assert job_of(rollout).state == "offered"


def test_a_withdrawal_that_is_taken_ends_unexposed(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    say(world, device, S.DOWNLOADING)
    rollouts.abort(rollout, actor=ACTOR, now=world.now)
    assert job_of(rollout).state == "cancelling"
    world.send(device)  # still the old offer: no news
    assert job_of(rollout).state == "cancelling"
    world.step()
    job = job_of(rollout)
    assert (job.state, job.exposed_at) == ("cancelled", None)
    assert world.tick(rollout).state == "aborted"


def test_a_withdrawal_that_lost_the_race_counts_the_exposure_and_keeps_the_model(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    say(world, device, S.VERIFIED)
    rollouts.pause(rollout, actor=ACTOR, now=world.now)
    say(world, device, S.TRIAL)
    job = job_of(rollout)
    assert (job.state, job.code) == ("trial", "withdrawn")
    assert job.exposed_at == world.now
    world.tick(rollout)  # names the candidate again: the trial is not wasted
    for _ in range(3):
        world.step()
    assert job_of(rollout).state == "confirmed"
    assert device.run == rollout.manifest_id
    assert DesiredState.objects.get(pk=device.id).entries["0"][1] == rollout.manifest_id


def test_a_lost_race_during_a_rollback_ends_on_the_old_model(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    old = device.run
    say(world, device, S.VERIFIED)
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="no")
    say(world, device, S.TRIAL)
    assert job_of(rollout).state == "trial"
    world.run(rollout, until={"rolled_back"})
    assert device.run == old
    install = Job.objects.get(rollout=rollout, kind="install")
    assert install.exposed_at is not None


def test_a_silent_device_that_finishes_late_is_reconciled(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    say(world, device, S.TRIAL)
    world.set_online(device, False)
    world.pass_time(2_000)
    world.tick(rollout)
    job = job_of(rollout)
    assert (job.state, job.code) == ("timed_out", "trial")
    assert job.retry_at is None
    device.online = True
    say(world, device, S.CONFIRMED)
    job = job_of(rollout)
    assert (job.state, job.is_reconciled) == ("confirmed", True)


def test_a_confirmed_device_that_falls_back_by_itself_is_counted(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    say(world, device, S.CONFIRMED)
    device.run, device.other = device.other, device.run
    device.state, device.code = S.REVERTED, RefusalCode.CRASH_LOOP
    world.send(device)
    job = job_of(rollout)
    assert (job.state, job.code) == ("self_reverted", "crash_loop")
    assert job.exposed_at is not None


def test_a_silent_download_is_tried_again_with_a_higher_attempt(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    say(world, device, S.DOWNLOADING)
    world.pass_time(901)
    world.tick(rollout)
    first = job_of(rollout)
    assert (first.state, first.code) == ("timed_out", "downloading")
    assert first.retry_at is not None
    world.now = first.retry_at
    world.tick(rollout)
    second = job_of(rollout)
    assert (second.attempt, second.state) == (first.attempt + 1, "offered")
    world.run(rollout, until={"completed"})
    assert device.run == rollout.manifest_id


def test_attempts_end(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    for attempt in range(1, 4):
        world.sync(device)
        say(world, device, S.REFUSED, RefusalCode.DIGEST)
        job = job_of(rollout)
        assert job.attempt == attempt
        assert (job.retry_at is None) == (attempt == 3)
        if job.retry_at is not None:
            world.now = job.retry_at
            world.tick(rollout)
    answer = rollouts.explain(rollout, device.id, now=world.now)
    assert answer is not None
    assert (answer["code"], answer["blockers"][0]["reason"]) == ("retries_exhausted", "digest")


def test_flash_that_fails_twice_quarantines_the_device(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    say(world, device, S.REFUSED, RefusalCode.FLASH_IO)
    job = job_of(rollout)
    assert job.retry_at is not None
    assert Device.objects.get(pk=device.id).quarantined_at is None
    world.now = job.retry_at
    world.tick(rollout)
    world.sync(device)
    say(world, device, S.REFUSED, RefusalCode.FLASH_IO)
    assert job_of(rollout).retry_at is None
    assert Device.objects.get(pk=device.id).quarantined_at is not None


def test_deferring_gives_the_place_back_and_goes_on_by_itself(
    offered: tuple[World, Rollout, FakeDevice],
) -> None:
    world, rollout, device = offered
    say(world, device, S.DEFERRED, RefusalCode.MAINTENANCE_WINDOW)
    assert job_of(rollout).state == "deferred"
    say(world, device, S.DEFERRED, RefusalCode.LOW_POWER)
    assert job_of(rollout).code == "low_power"
    say(world, device, S.DOWNLOADING)
    assert job_of(rollout).state == "downloading"


def test_a_refusal_event_marks_the_job_but_moves_nothing(offered: tuple[World, Rollout, FakeDevice]) -> None:
    world, rollout, device = offered
    event = Event(
        boot=1,
        n=1,
        t_ms=0,
        clock=Clock.SNTP,
        kind=EventKind.REFUSAL,
        detail=(int(RefusalCode.LEAF_LIST), 0),
        slot=0,
        mid=rollout.manifest.mid,
    )
    assert reports.apply_event(device.id, event, now=world.now)
    job = job_of(rollout)
    assert (job.state, job.code) == ("offered", "leaf_list")
    other = dataclasses.replace(event, mid="ff" * 8)
    assert not reports.apply_event(device.id, other, now=world.now)


def test_a_retired_device_leaves_the_denominator(world: World) -> None:
    devices = world.add(3)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    Device.objects.filter(pk=devices[0].id).update(retired_at=world.now)
    devices[0].online = False
    world.run(rollout, until={"completed"})
    facts = rollouts.state(rollout, now=world.now)
    assert facts["counts"] == {"confirmed": 2, "removed": 1}
    assert "2 of 2 confirmed, 1 skipped" in facts["sentence"]
