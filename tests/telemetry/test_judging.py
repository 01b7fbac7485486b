"""Sketches that devices sent are judged once, by the reference that is right for their run and class."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from fleet.accounts.audit import SYSTEM, Actor
from fleet.telemetry import baselines, judging, partitions, references
from fleet.telemetry.drift_models import DriftReference, WindowDrift
from fleet.telemetry.models import Sketch, Version
from tests.alerts.planting import plant_devices
from tests.telemetry.worn_fleet import MID, QUARTER, send

pytestmark = pytest.mark.django_db
DEVICES = 20
OFFSET = "+ 1.5"


@pytest.fixture
def ids(now: datetime) -> list[str]:
    return plant_devices(DEVICES, now)


def flagged(ids: Sequence[str], after: datetime) -> set[str]:
    """Devices with a flagged window that ended later."""
    found = WindowDrift.objects.filter(device_id__in=ids, ts__gt=after, worst__gt=1)
    return set(found.values_list("device_id", flat=True))


def test_devices_of_a_new_run_are_compared_with_each_other(ids: list[str], now: datetime) -> None:
    send(ids, now, windows=2)
    assert judging.judge(now) == 2 * DEVICES, "twenty devices and forty windows make a reference"
    row = DriftReference.objects.get()
    assert (row.kind, row.devices, row.windows, row.device_class) == ("peers", 20, 40, "host-a")
    assert flagged(ids, now - timedelta(days=1)) == set()
    later = now + 2 * QUARTER
    send(ids[2:], later, windows=2)
    send(ids[:2], later, windows=2, fault=OFFSET)
    assert judging.judge(later) == 2 * DEVICES
    assert flagged(ids, now) == set(ids[:2])
    assert set(WindowDrift.objects.values_list("reference", flat=True)) == {"peers"}


def test_judging_again_changes_nothing(ids: list[str], now: datetime) -> None:
    send(ids, now, windows=2)
    judging.judge(now)
    kept = list(WindowDrift.objects.order_by("pk").values_list("device_id", "ts", "worst"))
    assert judging.judge(now) == 0
    send(ids, now, windows=2)  # redelivered
    assert judging.judge(now) == 0
    assert list(WindowDrift.objects.order_by("pk").values_list("device_id", "ts", "worst")) == kept


def test_without_a_reference_a_window_waits_and_one_too_late_is_left(ids: list[str], now: datetime) -> None:
    send(ids[:19], now, windows=3)
    assert judging.judge(now) == 0, "too few devices to be compared with each other"
    assert DriftReference.objects.count() == 0
    later = now + timedelta(hours=1)
    send(ids[19:], later, windows=4)
    assert judging.judge(later) == 19 * 3 + 4
    send(ids, later + 4 * QUARTER, windows=3)
    assert judging.judge(later + timedelta(hours=4)) == 0


def test_what_drifted_does_not_become_what_is_usual(ids: list[str], now: datetime) -> None:
    send(ids, now, windows=3)
    judging.judge(now)
    later = now + timedelta(hours=1)
    send(ids[:8], later, windows=3, fault=OFFSET)
    send(ids[8:], later, windows=3)
    judging.judge(later)
    assert flagged(ids, now) == set(ids[:8])
    assert DriftReference.objects.get().made_at == later, "anew before they were judged, and without them"
    anew = later + references.PEERS_AGE
    assert references.ensure_peers(Version.objects.get().pk, "host-a", now=anew) is not None
    row = DriftReference.objects.get()
    assert (row.made_at, row.windows) == (anew, DEVICES * 3 + 12 * 3)


def test_a_person_may_take_a_range_and_peers_never_replace_it(ids: list[str], now: datetime) -> None:
    hour = now - timedelta(hours=2)
    send(ids, hour + 4 * QUARTER, windows=4)
    run = Version.objects.get().pk
    olga = Actor("user", "olga")
    baselines.take(run, "host-a", hour, hour + timedelta(hours=2), actor=olga, now=now)
    row = DriftReference.objects.get()
    assert (row.kind, row.windows) == ("chosen", 80)
    send(ids, now, windows=2)
    judging.judge(now)
    assert set(WindowDrift.objects.values_list("reference", flat=True)) == {"chosen"}
    found = references.ensure_peers(run, "host-a", now=now + timedelta(days=9))
    assert found is not None
    assert found[1] == "chosen"
    baselines.take(run, "host-a", hour, hour + timedelta(hours=2), actor=SYSTEM, now=now)
    assert DriftReference.objects.get().kind == "week"


def test_a_reference_is_the_same_after_it_was_kept(ids: list[str], now: datetime) -> None:
    send(ids, now, windows=2)
    run = Version.objects.get().pk
    made = references.make(run, "host-a", now - timedelta(days=1), now, kind="peers", now=now)
    found = references.ensure_peers(run, "host-a", now=now)
    assert made is not None
    assert found is not None
    assert references.packed(found[0]) == references.packed(made)
    assert (found[0].windows, found[0].devices, found[0].n) == (made.windows, made.devices, made.n)


def test_each_class_has_its_own_reference(now: datetime) -> None:
    """Boards with another sensor are no peers."""
    own, others = plant_devices(20, now), plant_devices(20, now, name="host-b")
    send(own, now, windows=2)
    send(others, now, windows=2, fault=OFFSET)
    judging.judge(now)
    assert DriftReference.objects.count() == 2
    assert flagged(own + others, now - timedelta(days=1)) == set()


def test_a_sketch_keeps_its_moments(ids: list[str], now: datetime) -> None:
    send(ids[:1], now, windows=1)
    body = Sketch.objects.get().body
    assert (len(body["inputs"]["channels"]), body["inputs"]["elements"]) == (6, 30_000)
    assert Version.objects.get().mid == MID
    assert partitions.existing("tele_sketch")
