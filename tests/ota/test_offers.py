"""Jobs and offers of a wave in bounded steps: each member once, in the order of the draw, none kept back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from fleet.devices.models import Device
from ota import offers
from ota.models import Job, Manifest, Membership, Rollout
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


def drawn(rollout: Rollout) -> list[str]:
    """The devices of a rollout in the order of the draw."""
    members = Membership.objects.filter(rollout=rollout).order_by("wave", "h", "device_id")
    return list(members.values_list("device_id", flat=True))


def offered(rollout: Rollout) -> list[str]:
    return sorted(Job.objects.filter(rollout=rollout, state="offered").values_list("device_id", flat=True))


def test_a_large_wave_gets_its_jobs_in_steps_and_offers_begin_with_the_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "JOBS_PER_STEP", 3)
    world.add(8)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    seen = []
    for _ in range(4):
        world.tick(rollout)
        seen.append((Job.objects.filter(rollout=rollout).count(), len(offered(rollout))))
    assert seen == [(3, 3), (6, 6), (8, 8), (8, 8)]


@pytest.mark.parametrize(("a_minute", "steps"), [(100, [2, 4, 6, 8]), (180, [3, 6, 8, 8])])
def test_a_tick_offers_a_step_or_a_second_of_what_the_plan_allows(
    world: World, monkeypatch: pytest.MonkeyPatch, a_minute: int, steps: list[int]
) -> None:
    monkeypatch.setattr(offers, "OFFERS_PER_STEP", 2)
    world.add(8)
    rollout = world.started(world.manifest(), FIRST_PLAN | {"offers_per_minute": a_minute})
    seen = []
    for _ in range(4):
        world.tick(rollout)
        seen.append(len(offered(rollout)))
    assert seen == steps


def test_devices_whose_older_job_is_live_do_not_keep_back_those_behind_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "JOBS_PER_STEP", 2)
    world.add(7)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    members = Membership.objects.filter(rollout=rollout).order_by("arm", "stratum", "rank")
    first = list(members.values_list("device_id", flat=True))[:4]
    other = world.create(world.manifest(), FIRST_PLAN)
    held = [
        Job.objects.create(
            rollout=other,
            wave=rollout.waves.get(),
            device_id=name,
            attempt=9,
            target="x",
            created_at=world.now,
            kind="revert",
        )
        for name in first
    ]
    for _ in range(3):
        world.tick(rollout)
    mine = Job.objects.filter(rollout=rollout)
    assert set(mine.values_list("device_id", flat=True)) == set(world.devices) - set(first)
    for job in held:
        job.delete()
    for _ in range(3):
        world.tick(rollout)
    assert set(mine.values_list("device_id", flat=True)) == set(world.devices)


def test_offers_follow_the_draw_past_devices_that_are_away(world: World) -> None:
    world.add(9)
    rollout = world.started(world.manifest(), FIRST_PLAN | {"max_in_flight": 3, "max_in_flight_later": 3})
    order = drawn(rollout)
    Device.objects.filter(pk__in=order[1:3]).update(presence="offline")
    world.tick(rollout)
    assert offered(rollout) == sorted([order[0], *order[3:5]])


def test_a_retry_keeps_its_devices_place_in_the_draw(world: World) -> None:
    world.add(3)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    name = drawn(rollout)[1]
    failed = Job.objects.filter(rollout=rollout, device_id=name)
    failed.update(state="timed_out", finished_at=world.now, retry_at=world.now)
    world.now += timedelta(seconds=1)
    world.tick(rollout)
    again = Job.objects.get(rollout=rollout, device_id=name, attempt=2)
    assert again.h == Membership.objects.get(rollout=rollout, device_id=name).h != ""
