"""Every answer says how many gaps touch what it is about."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry import gap_times, gaps, ingest, queries
from fleet.telemetry.gap_models import Gap
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.queries import TelemetryQuery
from tests.conftest import NOW
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db
RUNS = {"a": {"version": "1", "mid": "11" * 8}, "b": {"version": "2", "mid": "22" * 8}}
HOUR = timedelta(hours=1)
LATER = NOW + timedelta(minutes=2)


@pytest.fixture
def told(db: None) -> None:
    """Device a lacks counters 2..4 between 8:00:20 and 9:00, b lacks 1 between 10:00:10 and 11:00."""
    classes.ensure_default_classes(NOW)
    for name, tags in (("a", ["even"]), ("b", [])):
        Device.objects.create(id=name, device_class_id=f"host-{name}", enrolled_at=NOW, tags=tags)
    for name, first, n, before in (("a", 0, 2, 4), ("a", 5, 2, 3), ("b", 0, 1, 2), ("b", 2, 1, 1)):
        batch = make_batch(NOW - before * HOUR, n, first=first, **RUNS[name])
        ingest.store([Delivery(name, batch)], slot=0, now=NOW)
    assert gaps.run(LATER, installation_id=bytes(16)).found == 2


def count(start: datetime, end: datetime, **asked: Any) -> int:
    return queries.query(TelemetryQuery("inferences", start, end, 60, **asked), now=LATER).gaps


def test_a_gap_lies_between_the_windows_around_it(told: None) -> None:
    spans = dict(Gap.objects.values_list("device_id", "since_at"))
    ends = dict(Gap.objects.values_list("device_id", "until_at"))
    second = timedelta(seconds=10)
    assert spans == {"a": NOW - 4 * HOUR + 2 * second, "b": NOW - 2 * HOUR + second}
    assert ends == {"a": NOW - 3 * HOUR + second, "b": NOW - HOUR + second}


@pytest.mark.parametrize(
    ("hours", "many"),
    [
        ((6, 4), 0),
        ((6, 3.5), 1),
        ((3.8, 3.2), 1),
        ((2.9, 2.1), 0),
        ((2.5, 1.5), 1),
        ((0.9, 0), 0),
        ((6, 0), 2),
    ],
)
def test_a_gap_counts_where_its_span_touches_the_range(told: None, hours: Any, many: int) -> None:
    assert count(NOW - hours[0] * HOUR, NOW - hours[1] * HOUR) == many


@pytest.mark.parametrize(
    ("asked", "many"),
    [
        ({"devices": ("a",)}, 1),
        ({"devices": ("c",)}, 0),
        ({"device_classes": ("host-b",)}, 1),
        ({"versions": ("1", "2")}, 2),
        ({"digests": (RUNS["b"]["mid"],)}, 1),
        ({"q": "version==2"}, 1),
        ({"q": "tag==even"}, 1),
        ({"q": "tag==even;version==2"}, 0),
    ],
)
def test_a_gap_counts_for_the_devices_and_runs_that_are_asked_for(told: None, asked: Any, many: int) -> None:
    assert count(NOW - 6 * HOUR, NOW, **asked) == many


def test_a_lost_gap_counts_and_a_repaired_one_does_not(told: None) -> None:
    Gap.objects.filter(device_id="a").update(state="lost", cause="rebooted")
    assert count(NOW - 6 * HOUR, NOW) == 2
    batch = make_batch(NOW - 2 * HOUR, 1, first=1, **RUNS["b"])
    ingest.store([Delivery("b", batch)], slot=0, now=LATER)
    gaps.run(LATER + HOUR, installation_id=bytes(16))
    assert count(NOW - 6 * HOUR, NOW) == 1


def test_the_parts_of_a_gap_have_spans_too(told: None) -> None:
    ingest.store([Delivery("a", make_batch(NOW - 3.5 * HOUR, 1, first=3, **RUNS["a"]))], slot=0, now=LATER)
    gaps.run(LATER + HOUR, installation_id=bytes(16))
    parts = Gap.objects.filter(device_id="a").exclude(state="repaired").order_by("first")
    assert [(one.first, one.last) for one in parts] == [(2, 2), (4, 4)]
    assert all(one.since_at < one.until_at for one in parts)
    assert count(NOW - 4 * HOUR, NOW - 3.6 * HOUR) >= 1


def test_a_gap_before_everything_that_is_kept_ends_at_the_next_window(db: None) -> None:
    ingest.store([Delivery("x", make_batch(NOW - HOUR, 1, first=3))], slot=0, now=NOW)
    gaps.run(LATER, installation_id=bytes(16))
    (gap,) = Gap.objects.all()
    assert gap.since_at == gap.until_at == NOW - HOUR + timedelta(seconds=10)


def test_a_gap_whose_windows_are_dropped_is_placed_where_it_was_found(db: None) -> None:
    Gap.objects.create(device_id="x", boot=1, first=3, last=4, records=2, state="lost", found_at=NOW)
    assert gap_times.place() == 1
    assert gap_times.place() == 0
    assert count(NOW, NOW + HOUR) == 1
    assert count(NOW - 2 * HOUR, NOW - HOUR) == 0


def test_other_answers_count_them_too(told: None) -> None:
    start = NOW - 6 * HOUR
    assert queries.top_anomalous(now=LATER, start=start, end=NOW, exact=True).gaps == 2
    assert queries.top_anomalous(now=LATER, start=start, end=NOW, exact=True, q="version==2").gaps == 1
    assert queries.device_answer("a", start, NOW, now=LATER)["gaps"] == 1
    assert queries.device_answer("a", start, start + HOUR, now=LATER)["gaps"] == 0
    assert queries.last_answer("b", now=LATER)["gaps"] == 1
    assert queries.last_answer("nobody", now=LATER)["gaps"] == 0
    hour = NOW.replace(minute=0) - 6 * HOUR
    assert queries.drift_answer(start=hour, end=hour + 6 * HOUR, step_s=3600, now=LATER).gaps == 2
    percentile = TelemetryQuery("latency_us", hour, hour + 6 * HOUR, 3600, agg="p95")
    assert queries.query(percentile, now=LATER).gaps == 2
