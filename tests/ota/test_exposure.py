"""How far a wave has come: golden vectors on devices that run the candidate, from slots and events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.devices.models import DeviceEvent, DeviceSlot
from ota import exposure
from ota.models import Job, Manifest, Rollout
from ota.plan import Plan
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def confirmed(now: datetime, make_manifest: Callable[..., Manifest]) -> tuple[Rollout, list[str]]:
    """A rollout whose eight devices confirmed the candidate, and their names."""
    world = World(now, make_manifest)
    world.add(8)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    jobs = Job.objects.filter(rollout=rollout)
    jobs.update(state="confirmed", exposed_at=now)
    names = sorted(jobs.values_list("device_id", flat=True))
    for name in names:
        DeviceSlot.objects.update_or_create(
            device_id=name,
            slot=0,
            defaults={"state": "confirmed", "run": rollout.manifest.id16, "updated_at": now},
        )
    return rollout, names


def golden(rollout: Rollout) -> dict[str, int]:
    counts = exposure.hard_counts(rollout.waves.get(), Plan.parse(rollout.plan))
    return dict(counts["golden"])


def say(name: str, rollout: Rollout, at: datetime, **data: Any) -> None:
    """An event of a device whose vectors disagreed while the candidate ran."""
    mid = {"mid": rollout.manifest.mid} | data
    DeviceEvent.objects.create(device_id=name, at=at, kind="golden_mismatch", text="", data=mid)


def test_a_device_counts_once_whether_it_reports_a_disagreement_says_so_or_both(
    confirmed: tuple[Rollout, list[str]], now: datetime
) -> None:
    rollout, names = confirmed
    slots = DeviceSlot.objects.filter(slot=0)
    assert golden(rollout) == {"n": 0, "k": 0}, "no vectors were run"
    slots.filter(device_id__in=names[:4]).update(selftest=[8, 8, 0, 900])
    slots.filter(device_id__in=names[4:6]).update(selftest=[8, 7, 3, 900])
    slots.filter(device_id=names[6]).update(selftest=[0, 0, 0, 0])
    assert golden(rollout) == {"n": 6, "k": 2}
    say(names[0], rollout, now)  # agreed at first
    say(names[4], rollout, now)  # disagreed before
    say(names[7], rollout, now)  # reported no vectors
    assert golden(rollout) == {"n": 7, "k": 4}


def test_vectors_of_another_model_slot_or_time_are_not_the_candidates(
    confirmed: tuple[Rollout, list[str]], now: datetime
) -> None:
    rollout, names = confirmed
    slots = DeviceSlot.objects.filter(slot=0)
    slots.filter(device_id=names[0]).update(selftest=[8, 1, 9, 900], run="ab" * 16)
    DeviceSlot.objects.create(
        device_id=names[1],
        slot=1,
        state="confirmed",
        run=rollout.manifest.id16,
        selftest=[8, 1, 9, 900],
        updated_at=now,
    )
    say(names[2], rollout, now - timedelta(seconds=1))
    say(names[3], rollout, now, mid="00" * 8)
    assert golden(rollout) == {"n": 0, "k": 0}
