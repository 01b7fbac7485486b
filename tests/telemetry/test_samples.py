"""Sampled inferences and sketches are kept once, by the device's own time, beside the windows."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fleet.mqtt.codec.telemetry import Batch, encode_batch, parse_batch
from fleet.telemetry import ingest, partitions, samples
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import Inference, Sketch, Version, Window
from tests.conftest import NOW
from tests.mqtt.strategies import batches
from tests.telemetry.batches import make_batch
from tests.vectors.collection import changed
from tests.vectors.telemetry import base_sketch

pytestmark = pytest.mark.django_db
ROWS = ([100, 9, 2, 9000, 500, 10, 800, 0], [50, 4_000_000_000, -1, 0, 0, 2**31 - 1, 60_000_000, 2])


def with_samples(start: datetime, *, windows: int = 1, **fields: Any) -> Batch:
    """A batch of windows, two sampled inferences and a sketch."""
    payload = encode_batch(make_batch(start, max(windows, 1), **fields))

    def edit(item: dict[int, Any]) -> None:
        if not windows:
            item.pop(7)
        item.update({8: [list(row) for row in ROWS], 9: [base_sketch()]})

    return parse_batch(changed(payload, edit))


def test_each_kind_has_its_rows(now: datetime) -> None:
    batch = with_samples(now - timedelta(minutes=20), windows=2, boot=3, first=5)
    stored = ingest.store([Delivery("dev-1", batch)], slot=0, now=now)
    assert stored == ingest.Stored(windows=2, inferences=2, sketches=1, duplicates=0)
    first, second = Inference.objects.order_by("sample")
    assert (first.sample, first.seq, first.score, first.margin) == (3 << 32 | 9, 3 << 32 | 7, 9000, 500)
    assert (second.anom, second.us, second.why, second.top) == (2**31 - 1, 60_000_000, 2, -1)
    sketch = Sketch.objects.get()
    assert (sketch.seq, sketch.n, sketch.duration_s) == (3 << 32 | 9, 10, 900)
    assert sketch.ts == now - timedelta(minutes=20) + timedelta(seconds=900)
    assert sketch.body["class_hist"] == [7, 2, 1]
    assert sketch.body["inputs"]["channels"][1]["mean_q8"] == 512
    assert {"seq", "n", "ts_ms"} & sketch.body.keys() == set()
    assert {Version.objects.get().id} == {first.version_id, sketch.version_id}


def test_a_batch_without_windows_is_kept_too(now: datetime) -> None:
    stored = ingest.store([Delivery("dev-1", with_samples(now, windows=0))], slot=0, now=now)
    assert (stored.windows, stored.inferences, stored.sketches) == (0, 2, 1)
    assert Window.objects.count() == 0


def test_a_redelivery_adds_nothing(now: datetime) -> None:
    delivery = Delivery("dev-1", with_samples(now))
    ingest.store([delivery, delivery], slot=0, now=now)
    again = ingest.store([delivery], slot=1, now=now + timedelta(hours=1))
    assert again == ingest.Stored(duplicates=1)
    assert (Inference.objects.count(), Sketch.objects.count()) == (2, 1)


def test_two_devices_with_the_same_numbers_stay_apart(now: datetime) -> None:
    ingest.store([Delivery(name, with_samples(now)) for name in ("a", "b")], slot=0, now=now)
    assert (Inference.objects.count(), Sketch.objects.count()) == (4, 2)


def test_days_are_partitions_of_their_own(now: datetime) -> None:
    ingest.store([Delivery("dev-1", with_samples(now - timedelta(days=3), windows=0))], slot=0, now=now)
    day = (now - timedelta(days=3)).date()
    assert set(partitions.existing("tele_inference")) == set(partitions.existing("tele_sketch")) == {day}
    assert not partitions.existing("tele_window")


@pytest.mark.parametrize("age", [timedelta(days=31), timedelta(hours=-25)])
def test_a_sample_too_old_or_ahead_is_refused(now: datetime, age: timedelta) -> None:
    with pytest.raises(TelemetryError) as refused:
        ingest.check_times(with_samples(now - age, windows=0), now=now)
    assert refused.value.code == "time_range"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches())
def test_whatever_the_codec_lets_through_fits_the_tables(batch: Batch) -> None:
    """The range checks of the codec and the columns' types say the same."""
    day = 86_400_000
    start = int(NOW.timestamp() * 1000) // day * day
    moved = batch._replace(
        windows=(),
        inferences=tuple(replace(one, ts_ms=start) for one in batch.inferences),
        sketches=tuple(replace(one, ts_ms=start) for one in batch.sketches),
    )
    known = {one for one in (moved.inferences, moved.sketches) if one}
    before = Inference.objects.count() + Sketch.objects.count()
    stored = ingest.store([Delivery("any", moved)], slot=0, now=NOW)
    assert stored.inferences <= len(moved.inferences)
    assert Inference.objects.count() + Sketch.objects.count() == before + stored.inferences + stored.sketches
    if known:
        assert all(samples.sketch_body(one)["times"] for one in moved.sketches)
