"""Every rollup is what its raw rows add up to, whatever arrives how often; late records mark their hour."""

from collections import Counter
from datetime import datetime, timedelta

import pytest
from django.db import connection

from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry import histograms, ingest
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import Accuracy, DeviceDay, DirtyHour, LiveBin, Minute
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db


def test_windows_feed_days_of_a_device_and_accuracy_of_an_hour(now: datetime) -> None:
    midnight = now.replace(hour=0)
    batch = make_batch(midnight - timedelta(seconds=25), 4, score_e4=8000, anom_max_e3=500)
    ingest.store([Delivery("dev-1", batch)], slot=0, now=now)
    ingest.store([Delivery("dev-1", make_batch(midnight, 1, first=9, anom_max_e3=7))], slot=1, now=now)
    before, after = DeviceDay.objects.order_by("day")
    assert (before.windows, before.n, before.lab_n, before.lab_ok) == (2, 20, 20, 16)
    assert (after.windows, after.us_sum, after.us_max, after.anom_max) == (3, 45_000, 2500, 500)
    assert after.score_sum == 20 * 8000 + 10 * 9000
    rows = Accuracy.objects.order_by("hour", "ingest_slot")
    assert [(one.kind, one.source, one.ingest_slot, one.n, one.ok) for one in rows] == [
        ("proxy", "window", 0, 20, 16), ("proxy", "window", 0, 20, 16), ("proxy", "window", 1, 10, 8),
    ]  # fmt: skip
    assert sum(Minute.objects.values_list("score_sum", flat=True)) == 40 * 8000 + 10 * 9000


def test_windows_without_labels_have_no_accuracy(now: datetime) -> None:
    ingest.store([Delivery("dev-1", make_batch(now, 2, lab_n=0, lab_ok=0))], slot=0, now=now)
    assert Accuracy.objects.count() == 0


def test_a_sketch_feeds_histograms_and_accuracy_by_source(now: datetime) -> None:
    classes.ensure_default_classes(now)
    Device.objects.create(id="dev-b", device_class_id="host-b", enrolled_at=now)
    start = now - timedelta(minutes=50)
    ingest.store(
        [Delivery("dev-b", sketch_batch(start)), Delivery("x", sketch_batch(start))], slot=0, now=now
    )
    found = {(one.device_class, one.metric, one.bin): one.n for one in LiveBin.objects.all()}
    assert {key[1:]: n for key, n in found.items() if key[0] == "host-b"} == {
        (histograms.LATENCY, 190): 4, (histograms.LATENCY, 191): 5, (histograms.LATENCY, 226): 1,
        (histograms.CLASS, 0): 7, (histograms.CLASS, 1): 2, (histograms.CLASS, 2): 1,
        (histograms.CONFIDENCE, 5): 1, (histograms.CONFIDENCE, 6): 2, (histograms.CONFIDENCE, 7): 3,
        (histograms.CONFIDENCE, 8): 3, (histograms.CONFIDENCE, 9): 1,
        **{(histograms.DISTANCE, i): 1 for i in range(10)},
    }  # fmt: skip
    assert {key[0] for key in found} == {"host-b", ""}
    rows = Accuracy.objects.filter(device_class="host-b").order_by("kind", "source")
    assert [(one.kind, one.source, one.n, one.ok) for one in rows] == [
        ("golden", "device", 4, 4), ("proxy", "actuator", 10, 8), ("proxy", "user", 1, 0),
    ]  # fmt: skip
    day = DeviceDay.objects.get(device_id="dev-b")
    assert (day.golden_n, day.golden_ok, day.windows, day.lab_n) == (4, 4, 0, 0)


def test_bins_that_a_device_put_together_are_counted_in_their_middle(now: datetime) -> None:
    edit = {6: [3_100, 3, 20, 4, 82, 6], 3: [10], 4: [0] * 9 + [10]}
    ingest.store([Delivery("dev-1", sketch_batch(now, edit))], slot=0, now=now)
    found = LiveBin.objects.filter(metric=histograms.LATENCY).order_by("bin").values_list("bin", "n")
    assert list(found) == [(20 * 8 + 4, 4), (656, 6)]


def test_a_redelivered_sketch_feeds_nothing(now: datetime) -> None:
    delivery = Delivery("dev-1", sketch_batch(now - timedelta(minutes=20)))
    ingest.store([delivery, delivery], slot=0, now=now)
    before = list(LiveBin.objects.order_by("metric", "bin").values_list("metric", "bin", "n"))
    again = ingest.store([delivery], slot=0, now=now)
    assert (again.sketches, Accuracy.objects.get(kind="golden").n) == (0, 4)
    assert list(LiveBin.objects.order_by("metric", "bin").values_list("metric", "bin", "n")) == before
    assert DeviceDay.objects.get().golden_n == 4


@pytest.mark.parametrize(("minutes", "is_late"), [(-30, False), (4, False), (5, True), (60 * 50, True)])
def test_a_record_that_comes_after_the_end_of_its_hour_marks_it(
    now: datetime, minutes: int, is_late: bool
) -> None:
    """Now is the end of the record's hour; minutes: how much later it comes."""
    at = now - timedelta(hours=1)
    ingest.store([Delivery("dev-1", make_batch(at, 2))], slot=0, now=now + timedelta(minutes=minutes))
    marks = list(DirtyHour.objects.values_list("hour", "is_from_raw"))
    assert marks == ([(at, False)] if is_late else [])


def test_marks_are_added_and_never_waited_for(now: datetime) -> None:
    late = now - timedelta(hours=5)
    for n in range(3):
        ingest.store([Delivery("dev-1", make_batch(late, 1, first=n))], slot=n, now=now)
        ingest.store([Delivery("dev-2", sketch_batch(late, first=n))], slot=n, now=now)
    assert Counter(DirtyHour.objects.values_list("hour", flat=True)) == {late: 6}


def test_a_batch_that_fails_leaves_no_rollup(now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tele_device_day ADD CONSTRAINT poison CHECK (us_max <> 666)")
    with pytest.raises(Exception, match="poison"):
        ingest.store([Delivery("dev-1", make_batch(now, 3, us_max=666))], slot=0, now=now)
    assert (Minute.objects.count(), DeviceDay.objects.count(), Accuracy.objects.count()) == (0, 0, 0)
