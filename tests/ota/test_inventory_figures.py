"""Who runs what: each device once, retired ones left out, and counted without reading a slot or a device."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import pytest
from django.db import connection

from fleet.devices.classes import ensure_default_classes
from fleet.devices.models import Device, DeviceSlot
from ota.inventory_figures import devices_by_run, runs_by_class
from tests import plans

RUNS = ("aa" * 16, "bb" * 16, "cc" * 16)


@pytest.fixture
def slots(db: None, now: datetime) -> list[DeviceSlot]:
    """400 devices of two classes, some retired; each has one to three slots that run one of three things or
    nothing, so that several run the same thing twice.
    """
    ensure_default_classes(now)
    dice, made, devices = random.Random(4), [], []
    for n in range(400):
        device = Device(
            id=f"dev-{n:03d}", device_class_id=("host-a", "host-b")[n % 2], enrolled_at=now,
            retired_at=now if n % 17 == 0 else None,
        )  # fmt: skip
        devices.append(device)
        made += [
            DeviceSlot(
                device=device, slot=slot, state="confirmed", run=dice.choice((*RUNS, "")),
                arena_used=dice.choice((0, 4096, 20_480)), updated_at=now,
            )
            for slot in range(dice.randrange(1, 4))
        ]  # fmt: skip
    Device.objects.bulk_create(devices)
    DeviceSlot.objects.bulk_create(made)
    return [slot for slot in made if slot.device.retired_at is None]


def test_a_device_counts_once_for_a_thing_whatever_its_slots(slots: list[DeviceSlot]) -> None:
    wanted = {run: len({one.device_id for one in slots if one.run == run}) for run in RUNS}
    assert devices_by_run(DeviceSlot.objects.filter(run__in=RUNS)) == wanted
    first = {run: sum(one.run == run and one.slot == 0 for one in slots) for run in RUNS}
    assert devices_by_run(DeviceSlot.objects.filter(slot=0, run__gt="")) == first
    assert devices_by_run(DeviceSlot.objects.filter(run="dd" * 16)) == {}


def test_a_thing_that_only_retired_devices_run_is_absent(slots: list[DeviceSlot], now: datetime) -> None:
    names = {one.device_id for one in slots if one.run == RUNS[0]}
    Device.objects.filter(pk__in=names).update(retired_at=now)
    assert RUNS[0] not in devices_by_run(DeviceSlot.objects.filter(run__in=RUNS))
    assert RUNS[0] not in runs_by_class(RUNS)


def test_classes_have_their_devices_and_the_arena_that_was_told(slots: list[DeviceSlot]) -> None:
    found = runs_by_class(RUNS)
    for run in RUNS:
        assert [one.device_class for one in found[run]] == ["host-a", "host-b"]
        for one in found[run]:
            mine = [
                slot for slot in slots if slot.run == run and slot.device.device_class_id == one.device_class
            ]
            told: dict[str, Any] = {slot.device_id: slot.arena_used for slot in mine if slot.arena_used}
            assert one.is_simulated
            assert (one.devices, one.measured) == (len({slot.device_id for slot in mine}), len(told))
            assert (one.least_bytes, one.most_bytes) == (4096, 20_480)


def test_the_fleet_is_counted_from_an_index_and_retired_devices_from_another(
    slots: list[DeviceSlot], now: datetime
) -> None:
    plans.analyze("devices_device", "devices_deviceslot")
    with connection.cursor() as cursor:
        for other in ("seqscan", "bitmapscan"):  # 400 devices are a few pages: any plan does
            cursor.execute(f"SET LOCAL enable_{other} = off")
    running = DeviceSlot.objects.filter(run=RUNS[0]).order_by().values("device")
    assert "Index Only Scan using slot_runs" in plans.plan_of(running)
    assert "device_retired" in plans.plan_of(Device.objects.filter(retired_at__isnull=False).values("pk"))
