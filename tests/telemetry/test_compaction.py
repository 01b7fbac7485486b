"""Closed hours are compacted once, late ones again, and what is stored always adds up to the raw rows."""

import random
from datetime import datetime, timedelta

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from fleet.accounts.models import AuditEvent
from fleet.telemetry import compaction, histograms, ingest, recompute
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import (
    Compaction,
    DeviceDay,
    DirtyHour,
    Histogram,
    Hour,
    LiveBin,
    Minute,
    Window,
)
from fleet.telemetry.verification import Verdict, verify
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db
MIDS = ("11" * 8, "22" * 8)


def store(*deliveries: Delivery, now: datetime) -> None:
    ingest.store(deliveries, slot=random.randrange(3), now=now)


def check(now: datetime, days: int = 4) -> Verdict:
    midnight = now.replace(hour=0, minute=0)
    verdict = verify(midnight - timedelta(days=days), midnight + timedelta(days=1))
    assert verdict.differences == []
    return verdict


def test_an_hour_is_compacted_when_it_closed_and_once(now: datetime) -> None:
    start = now - timedelta(hours=1)
    store(Delivery("dev-1", make_batch(start, 30, dt_ms=60_000)), now=start)
    store(Delivery("dev-1", sketch_batch(start, first=99)), now=start)
    assert compaction.run(now + timedelta(minutes=9)) == 1, "the hours before, all empty"
    assert (Hour.objects.count(), LiveBin.objects.count() > 0) == (0, True)
    assert compaction.run(now + timedelta(minutes=10)) == 1
    row = Hour.objects.get()
    assert (row.hour, row.windows, row.n, row.us_sum, row.score_sum) == (start, 30, 300, 450_000, 2_700_000)
    assert LiveBin.objects.count() == 0
    kept = Histogram.objects.get(metric=histograms.LATENCY)
    assert (kept.span_s, kept.n, kept.first_bin, len(kept.counts)) == (3600, 10, 190, 37 * 8)
    assert compaction.run(now + timedelta(minutes=10)) == 0
    assert check(now).rows["tele_hour"] == 1


def test_empty_hours_are_passed_over(now: datetime) -> None:
    store(Delivery("dev-1", make_batch(now - timedelta(days=3), 1)), now=now - timedelta(days=3))
    store(Delivery("dev-1", make_batch(now - timedelta(hours=5), 1, first=9)), now=now)
    assert compaction.run(now) == 3
    assert Compaction.objects.get().until == now - timedelta(hours=1)
    assert Hour.objects.count() == 2
    assert compaction.run(now + timedelta(days=1)) == 1


def test_a_late_record_has_its_hour_compacted_again(now: datetime) -> None:
    start = now - timedelta(hours=30)
    for device in ("a", "b"):
        store(
            Delivery(device, make_batch(start, 5)), Delivery(device, sketch_batch(start, first=9)), now=start
        )
    compaction.run(now)
    (day,) = Histogram.objects.filter(span_s=86_400, metric=histograms.CLASS)
    assert day.n == 20
    store(Delivery("late", make_batch(start, 5)), Delivery("late", sketch_batch(start, first=9)), now=now)
    store(Delivery("late", make_batch(now - timedelta(hours=60), 1, first=50)), now=now)
    check(now)
    assert compaction.run(now) == 2
    assert DirtyHour.objects.count() == LiveBin.objects.count() == 0
    assert sorted(Hour.objects.values_list("windows", flat=True)) == [1, 15]
    assert Histogram.objects.get(span_s=86_400, metric=histograms.CLASS).n == 30
    check(now)


def test_a_day_without_a_last_hour_still_gets_its_histogram(now: datetime) -> None:
    for hours in (60, 5):
        at = now - timedelta(hours=hours)
        store(Delivery("dev-1", sketch_batch(at, first=hours)), now=at)
    compaction.run(now)
    assert Histogram.objects.filter(span_s=86_400).values("start").distinct().count() == 1


def test_a_run_takes_so_many_hours_and_the_next_goes_on(now: datetime) -> None:
    for hours in range(2, 12):
        at = now - timedelta(hours=hours)
        store(Delivery("dev-1", make_batch(at, 1, first=hours)), now=at)
    assert [compaction.run(now, steps=4) for _ in range(4)] == [4, 4, 2, 0]
    check(now)


def test_a_failed_step_leaves_everything_as_it_was(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    start = now - timedelta(hours=30)
    store(Delivery("dev-1", make_batch(start, 5)), Delivery("dev-1", sketch_batch(start, first=9)), now=now)
    before = (Minute.objects.count(), LiveBin.objects.count(), DirtyHour.objects.count())
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tele_hist ADD CONSTRAINT poison CHECK (span_s < 86400)")
    with pytest.raises(Exception, match="poison"):
        compaction.run(now)
    assert (Hour.objects.count(), Histogram.objects.count(), Compaction.objects.count()) == (0, 0, 0)
    assert (Minute.objects.count(), LiveBin.objects.count(), DirtyHour.objects.count()) == before


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_arrivals_and_compactions_adds_up_to_raw(now: datetime, seed: int) -> None:
    rng = random.Random(seed)
    sent = []
    for n in range(60):
        at = now - timedelta(minutes=rng.randrange(60 * 60))
        make = sketch_batch if rng.random() < 0.3 else make_batch
        size = {} if make is sketch_batch else {"windows": rng.randrange(1, 4)}
        fields = {"first": 10 * n, "mid": rng.choice(MIDS), **size}
        sent.append(Delivery(f"dev-{rng.randrange(5)}", make(at, **fields)))
    arriving = sent + rng.choices(sent, k=20)
    rng.shuffle(arriving)
    while arriving:
        cut = rng.randrange(1, 9)
        store(*arriving[:cut], now=now)
        arriving = arriving[cut:]
        if rng.random() < 0.5:
            compaction.run(now - timedelta(hours=rng.randrange(3)), steps=rng.randrange(1, 9))
    check(now)
    while compaction.run(now):
        pass
    rows = check(now).rows
    assert rows["tele_hour"] > 5
    assert Hour.objects.count() > 0
    assert LiveBin.objects.filter(hour__lt=now - timedelta(hours=2)).count() == 0


def test_verify_names_each_rollup_that_differs(now: datetime) -> None:
    start = now - timedelta(hours=30)
    store(Delivery("dev-1", make_batch(start, 5)), Delivery("dev-1", sketch_batch(start, first=9)), now=start)
    compaction.run(now)
    check(now)
    with connection.cursor() as cursor:
        for statement in (
            "UPDATE tele_minute SET n = n + 1",
            "UPDATE tele_hour SET us_max = us_max + 1",
            "UPDATE tele_device_day SET golden_ok = golden_ok - 1",
            "UPDATE tele_accuracy SET ok = ok - 1 WHERE source = 'user' OR source = 'window'",
            "UPDATE tele_device_last SET seq = seq - 1",
            "DELETE FROM tele_hist WHERE metric = 2 AND span_s = 3600",
            "UPDATE tele_hist SET first_bin = first_bin + 1 WHERE metric = 1 AND span_s = 86400",
        ):
            cursor.execute(statement)
    midnight = now.replace(hour=0)
    found = verify(midnight - timedelta(days=2), midnight)
    assert {one.table for one in found.differences} == {
        "tele_minute", "tele_hour", "tele_device_day", "tele_accuracy", "tele_device_last",
        "tele_hist hour", "tele_hist day",
    }  # fmt: skip
    assert len([one for one in found.differences if one.table == "tele_accuracy"]) == 2
    with pytest.raises(ValueError, match="whole UTC days"):
        verify(now - timedelta(days=1), now)


def test_recomputing_from_raw_gives_back_what_was_lost(now: datetime) -> None:
    start = now - timedelta(hours=30)
    for n, device in enumerate(("a", "b", "c")):
        store(
            Delivery(device, make_batch(start, 5, us_max=2000 + n)),
            Delivery(device, sketch_batch(start, first=9)),
            now=start,
        )
    compaction.run(now)
    before = rollup_rows()
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM tele_minute; DELETE FROM tele_device_day WHERE device_id = 'b';"
            " UPDATE tele_accuracy SET n = n * 2; UPDATE tele_hist SET first_bin = 0; DELETE FROM tele_hour"
        )
    recompute.marked_hour(start)
    recompute.device_day(start.replace(hour=0))
    compaction.run(now)
    assert rollup_rows() == before
    check(now)


def rollup_rows() -> list[object]:
    with connection.cursor() as cursor:
        found: list[object] = []
        for table in ("tele_hour", "tele_device_day", "tele_hist"):
            cursor.execute(f"SELECT x::text FROM {table} x ORDER BY 1")
            found.append(cursor.fetchall())
        cursor.execute(
            "SELECT version_id, hour, kind, source, sum(n), sum(ok) FROM tele_accuracy GROUP BY 1, 2, 3, 4"
            " ORDER BY 1, 2, 3, 4"
        )
        found.append(cursor.fetchall())
    return found


def test_a_mark_for_raw_rows_has_minutes_made_anew_first(now: datetime) -> None:
    """What an upgrade finds: windows and minutes from before there were scores, days and accuracy."""
    start = now - timedelta(hours=3)
    store(Delivery("dev-1", make_batch(start, 5)), now=start)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tele_minute SET score_sum = 0; DELETE FROM tele_device_day; DELETE FROM tele_accuracy"
        )
    DirtyHour.objects.create(hour=start, is_from_raw=True)
    compaction.run(now)
    check(now)
    assert (Hour.objects.get().score_sum, DeviceDay.objects.get().windows) == (450_000, 5)


def test_an_hour_whose_minutes_are_gone_keeps_what_is_stored(now: datetime) -> None:
    start = now - timedelta(days=3)
    store(Delivery("dev-1", make_batch(start, 5)), now=start)
    compaction.run(now)
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE tele_minute_{start:%Y%m%d}")
    DirtyHour.objects.create(hour=start, is_from_raw=True)
    compaction.run(now)
    assert (Hour.objects.get().windows, DirtyHour.objects.count()) == (5, 0)


def test_the_command_verifies_recomputes_and_is_audited(capsys: pytest.CaptureFixture[str]) -> None:
    from django.utils import timezone

    now = timezone.now()
    start = now - timedelta(hours=20)
    store(Delivery("dev-1", make_batch(start, 5)), Delivery("dev-1", sketch_batch(start, first=9)), now=start)
    call_command("telemetry", "compact")
    call_command("telemetry", "verify")
    assert "as raw" in capsys.readouterr().out
    Minute.objects.update(lab_ok=0)
    with pytest.raises(CommandError, match="rollup_differs"):
        call_command("telemetry", "verify")
    assert "tele_minute" in capsys.readouterr().out
    call_command("telemetry", "recompute")
    call_command("telemetry", "verify")
    assert AuditEvent.objects.get(verb="telemetry.recompute").after["hours"] > 20
    assert Window.objects.count() == 5


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (["--from", "yesterday"], "range_invalid"),
        (["--from", "2026-05-02", "--to", "2026-05-01"], "range_invalid"),
        (["--from", "2020-01-01"], "raw_expired"),
    ],
)
def test_a_range_that_cannot_be_verified_is_refused(given: list[str], code: str) -> None:
    with pytest.raises(CommandError, match=code):
        call_command("telemetry", "verify", *given)


def test_packed_counts_come_back_and_add_up() -> None:
    counts = histograms.from_bins(histograms.LATENCY, [(3, 5), (656, 2**40), (3, 1)])
    first, data = histograms.packed(counts)
    assert (first, len(data)) == (3, 654 * 8)
    again = counts.copy()
    histograms.add_packed(again, first, data)
    assert np.array_equal(again, 2 * counts)
    assert histograms.packed(histograms.empty(histograms.CLASS)) == (0, b"")
    with pytest.raises(ValueError, match="of 657"):
        histograms.add_packed(histograms.empty(histograms.LATENCY), 4, data)
