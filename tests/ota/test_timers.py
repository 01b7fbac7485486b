"""Deadlines of job states: connected time only, progress, what an absent device does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from fleet.devices import inventory
from fleet.mqtt.codec.names import UpdateState
from ota import rollouts
from ota.gates.failures import failure_class
from ota.models import Job, Manifest, Rollout
from ota.plan import TIMERS, Plan
from tests.ota.world import ACTOR, FIRST_PLAN, FakeDevice, World

pytestmark = pytest.mark.django_db
STATES = ["offered", "accepted", "downloading", "verifying", "staged", "deferred"]
PLAN = FIRST_PLAN | {"timers": dict.fromkeys([*STATES, "cancelling"], 60), "max_attempts": 1, "soak_s": 9_000}
REPORTS = {
    "accepted": UpdateState.OFFERED,
    "downloading": UpdateState.DOWNLOADING,
    "verifying": UpdateState.DOWNLOADED,
    "staged": UpdateState.VERIFIED,
    "deferred": UpdateState.DEFERRED,
    "trial": UpdateState.TRIAL,
}


@pytest.fixture
def world(make_manifest: Callable[..., Manifest], now: datetime) -> World:
    return World(now, make_manifest)


def brought_to(world: World, state: str, plan: object = None) -> tuple[Rollout, FakeDevice]:
    """A rollout with one device whose job is in `state`."""
    (device,) = world.add(1)
    rollout = world.started(world.manifest(), plan or PLAN)  # type: ignore[arg-type]
    world.tick(rollout)
    if state != "offered":
        world.sync(device)
        device.state = REPORTS[state]
        world.send(device)
    assert Job.objects.get().state == state
    return rollout, device


def test_the_defaults_are_those_that_are_written_down() -> None:
    assert {name: TIMERS[name] for name in (*STATES, "cancelling", "downloading_total")} == {
        "offered": 900, "accepted": 600, "downloading": 900, "verifying": 300, "staged": 3_600,
        "deferred": 7 * 86_400, "cancelling": 900, "downloading_total": 86_400,
    }  # fmt: skip
    assert Plan.parse({"waves": [{"percent": 100}]}).timer_s("trial") == 1_800


@pytest.mark.parametrize("state", STATES)
def test_a_connected_device_without_news_times_out_in_its_state(world: World, state: str) -> None:
    rollout, _ = brought_to(world, state)
    world.pass_time(59)
    world.tick(rollout)
    assert Job.objects.get().state == state
    world.pass_time(2)
    world.tick(rollout)
    job = Job.objects.get()
    assert (job.state, job.code, failure_class(job.state, job.code)) == ("timed_out", state, "delivery")


def test_time_without_a_connection_does_not_count(world: World) -> None:
    rollout, device = brought_to(world, "downloading")
    for _ in range(2):
        world.pass_time(25)
        world.tick(rollout)
        for online in (False, True):  # without a report, which would begin the timer anew
            inventory.set_presence(device.id, online, world.now)
            world.tick(rollout)
            world.pass_time(0 if online else 50)
    job = Job.objects.get()
    assert (job.state, job.away.total_seconds()) == ("downloading", 100)
    world.pass_time(9)
    world.tick(rollout)
    assert Job.objects.get().state == "downloading", "150 s have passed, 59 of them connected"
    world.pass_time(2)
    world.tick(rollout)
    assert Job.objects.get().state == "timed_out"


def test_progress_begins_the_timer_anew_but_not_the_whole_download(world: World) -> None:
    plan = PLAN | {"timers": PLAN["timers"] | {"downloading_total": 150}}
    rollout, device = brought_to(world, "downloading", plan)
    for have in (1, 2, 3):
        world.pass_time(45)
        device.have = have
        world.send(device)
        world.tick(rollout)
        assert Job.objects.get().state == "downloading"
    world.pass_time(20)
    world.tick(rollout)
    job = Job.objects.get()
    assert (job.state, job.code, job.have) == ("timed_out", "downloading", 3)


def test_a_device_that_stays_away_gives_its_place_back_and_has_not_failed(world: World) -> None:
    gone, waiting = world.add(2)
    rollout = world.started(world.manifest(), PLAN | {"max_in_flight": 1, "max_in_flight_later": 1})
    world.tick(rollout)
    first = Job.objects.get(state="offered").device_id
    gone, waiting = (gone, waiting) if first == gone.id else (waiting, gone)
    world.set_online(gone, False)
    for seconds in (0, 61, 61, 1):
        world.pass_time(seconds)
        world.tick(rollout)
    jobs = {job.device_id: (job.state, job.code) for job in Job.objects.order_by("attempt")}
    assert jobs == {gone.id: ("queued", ""), waiting.id: ("offered", "")}
    old = Job.objects.get(device=gone.id, attempt=1)
    assert (old.state, old.code, failure_class(old.state, old.code)) == ("cancelled", "unacknowledged", "")
    world.set_online(gone, True)
    for _ in range(16):
        world.tick(rollout)
        world.step()
    assert set(Job.objects.exclude(pk=old.pk).values_list("state", flat=True)) == {"confirmed"}


@pytest.mark.parametrize("state", ["cancelling", "trial"])
def test_a_trial_and_a_withdrawal_count_all_time(world: World, state: str) -> None:
    plan = PLAN | {"trial_deadline_s": 60}
    rollout, device = brought_to(world, "trial" if state == "trial" else "downloading", plan)
    world.set_online(device, False)
    rollouts.abort(rollout, actor=ACTOR, now=world.now)
    assert Job.objects.get().state == state
    world.pass_time(61)
    world.tick(rollout)
    rollout.refresh_from_db()
    job = Job.objects.get()
    end = ("timed_out", "trial") if state == "trial" else ("cancelled", "unacknowledged")
    assert ((job.state, job.code), rollout.state) == (end, "aborted")
