"""Figures of model runs over their devices: each kind by itself, intervals over devices, percentiles."""

from datetime import datetime, timedelta

import pytest

from fleet.telemetry import ingest
from fleet.telemetry.field_figures import field_figures, span
from fleet.telemetry.ingest import Delivery
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db
ONE, TWO, SILENT = "11" * 8, "22" * 8, "33" * 8


def test_a_run_has_each_kind_of_accuracy_with_its_own_interval(now: datetime) -> None:
    at = now - timedelta(hours=2)
    for number, ok in enumerate((8, 7, 6)):
        name = f"dev-{number}"
        ingest.store([Delivery(name, make_batch(at, 3, lab_ok=ok, mid=ONE))], slot=0, now=now)
    golden = sketch_batch(at, {10: [8, 7, 3]}, mid=ONE, boot=2)
    ingest.store([Delivery("dev-0", golden)], slot=0, now=now)
    found = field_figures([ONE], now=now)[ONE]
    proxy = found.accuracy["proxy"]
    assert (proxy.value, proxy.n_devices, proxy.n) == (pytest.approx(0.7), 3, 90)
    # t(2) = 4.3027, spread 0.1: half = 4.3027 * 0.1 / sqrt(3)
    assert (proxy.lower, proxy.upper) == (pytest.approx(0.45159, abs=1e-4), pytest.approx(0.94841, abs=1e-4))
    assert "delayed" not in found.accuracy, "nothing was labelled later"
    only = found.accuracy["golden"]
    assert (only.value, only.lower, only.n_devices, only.n) == (pytest.approx(7 / 8), None, 1, 8)
    assert found.anomaly_rate is not None
    assert found.anomaly_rate.value == pytest.approx(0.1)


def test_percentiles_come_from_the_histograms_of_sketches(now: datetime) -> None:
    at = now - timedelta(hours=2)
    ingest.store([Delivery("dev-0", sketch_batch(at, mid=ONE))], slot=0, now=now)
    found = field_figures([ONE, SILENT], now=now)
    assert list(found[ONE].latency_us) == ["p50", "p95", "p99"]
    assert found[ONE].latency_us["p50"] <= found[ONE].latency_us["p95"] <= found[ONE].latency_us["p99"]
    assert found[ONE].latency_n > 0
    assert (found[SILENT].accuracy, found[SILENT].latency_us, found[SILENT].latency_n) == ({}, {}, 0)


def test_what_is_older_than_the_span_does_not_count_and_runs_are_not_mixed(now: datetime) -> None:
    start, end = span(now)
    assert (end - start).days == 7
    assert start <= now < end
    old = start - timedelta(hours=1)
    ingest.store([Delivery("dev-0", make_batch(old, 3, lab_ok=1, mid=ONE))], slot=0, now=old)
    ingest.store(
        [Delivery("dev-0", make_batch(start + timedelta(hours=1), 3, lab_ok=9, mid=TWO, boot=2))],
        slot=0,
        now=now,
    )
    found = field_figures([ONE, TWO], now=now)
    assert found[ONE].accuracy == {}
    assert found[TWO].accuracy["proxy"].value == pytest.approx(0.9)
    assert field_figures([], now=now) == {}
