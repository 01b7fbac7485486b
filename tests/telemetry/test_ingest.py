"""Every window is counted once, whatever arrives how often and in which order."""

import random
from datetime import datetime, timedelta

import pytest
from django.db import DataError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry import ingest, partitions, staging
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import DeviceLast, Minute, Version, Window
from tests.conftest import NOW
from tests.telemetry.batches import make_batch, ms

pytestmark = pytest.mark.django_db


def totals() -> tuple[int, ...]:
    """Sums of the rollup; must equal the same sums over raw rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(windows), 0), coalesce(sum(n), 0), coalesce(sum(us_sum), 0),"
            " coalesce(max(us_max), 0),"
            " coalesce(sum(anom_n), 0), coalesce(sum(lab_n), 0), coalesce(sum(lab_ok), 0) FROM tele_minute"
        )
        rolled = tuple(int(value) for value in cursor.fetchone())
        cursor.execute(
            "SELECT count(*), coalesce(sum(n), 0), coalesce(sum(us_mean::bigint * n), 0),"
            " coalesce(max(us_max), 0),"
            " coalesce(sum(anom_n), 0), coalesce(sum(lab_n), 0), coalesce(sum(lab_ok), 0) FROM tele_window"
        )
        raw = tuple(int(value) for value in cursor.fetchone())
    assert rolled == raw
    return rolled


def test_a_batch_becomes_rows_rollups_and_a_last_value(now: datetime) -> None:
    stored = ingest.store([Delivery("dev-1", make_batch(now - timedelta(minutes=5), 6))], slot=0, now=now)
    assert stored == ingest.Stored(windows=6)
    assert totals() == (6, 60, 90_000, 2500, 6, 60, 48)
    row = Window.objects.order_by("ts").first()
    assert row is not None
    assert (row.device_id, row.seq, row.lag_s, row.us_max) == ("dev-1", 1 << 32, 290, 2500)
    last = DeviceLast.objects.get(pk="dev-1")
    assert (last.seq, last.ts) == ((1 << 32) + 5, now - timedelta(minutes=4))
    version = Version.objects.get()
    assert (version.model, version.version, version.id) == ("activity", "1.0.0", last.version_id)


@pytest.mark.parametrize("expects_repeats", [False, True])
def test_a_redelivery_counts_once_and_feeds_no_rollup(now: datetime, expects_repeats: bool) -> None:
    delivery = Delivery("dev-1", make_batch(now, 5))
    assert ingest.store([delivery], slot=0, now=now, expects_repeats=expects_repeats).windows == 5
    later = now + timedelta(hours=2)
    again = ingest.store([delivery, delivery], slot=1, now=later, expects_repeats=expects_repeats)
    assert (again.windows, again.duplicates) == (0, 10)
    assert totals()[0] == 5


@pytest.mark.parametrize("expects_repeats", [False, True])
def test_a_batch_twice_in_one_call_counts_once(now: datetime, expects_repeats: bool) -> None:
    delivery = Delivery("dev-1", make_batch(now, 5))
    stored = ingest.store([delivery, delivery], slot=0, now=now, expects_repeats=expects_repeats)
    assert stored.duplicates == 5
    assert totals()[0] == 5


@pytest.mark.parametrize("expects_repeats", [False, True])
def test_one_window_that_is_there_already_does_not_keep_the_others_out(
    now: datetime, expects_repeats: bool
) -> None:
    ingest.store([Delivery("dev-2", make_batch(now, 1, first=2))], slot=0, now=now)
    some = [Delivery(f"dev-{n}", make_batch(now - timedelta(seconds=20), 4)) for n in (1, 2, 3)]
    stored = ingest.store(some, slot=0, now=now, expects_repeats=expects_repeats)
    assert (stored.windows, stored.duplicates) == (11, 1)
    assert totals()[0] == 12
    assert Window.objects.filter(device_id="dev-2").count() == 4


def test_what_the_database_says_to_a_copy_is_an_error_of_the_database() -> None:
    """Else a gateway takes a database that went away in the middle of a copy for a bad message."""
    with pytest.raises(DataError), transaction.atomic():
        staging.fill_stage(b"not a binary copy, whatever it may be")


def test_slots_and_classes_have_rows_of_their_own(now: datetime) -> None:
    classes.ensure_default_classes(now)
    Device.objects.create(id="dev-b", device_class_id="host-b", enrolled_at=now)
    ingest.store([Delivery("dev-b", make_batch(now, 1))], slot=0, now=now)
    ingest.store([Delivery("dev-b", make_batch(now, 1, first=7))], slot=3, now=now)
    ingest.store([Delivery("gone", make_batch(now, 1))], slot=0, now=now)
    keys = set(Minute.objects.values_list("device_class", "ingest_slot"))
    assert keys == {("host-b", 0), ("host-b", 3), ("", 0)}


def test_an_unknown_version_is_kept_and_two_names_of_one_mid_stay_apart(now: datetime) -> None:
    ingest.store(
        [
            Delivery("dev-1", make_batch(now, 1, model="somebody-elses", version="9")),
            Delivery("dev-2", make_batch(now, 1, model="activity", version="1.0.0")),
            Delivery("dev-3", make_batch(now, 1, model="activity", version="1.0.0")),
        ],
        slot=0,
        now=now,
    )
    assert set(Version.objects.values_list("model", "version")) == {
        ("somebody-elses", "9"),
        ("activity", "1.0.0"),
    }
    ingest.store([Delivery("dev-4", make_batch(now, 1))], slot=0, now=now)
    assert Version.objects.count() == 2


def test_late_records_do_not_replace_the_last_value(now: datetime) -> None:
    ingest.store([Delivery("dev-1", make_batch(now, 1, first=9, us_mean=7))], slot=0, now=now)
    ingest.store([Delivery("dev-1", make_batch(now - timedelta(hours=1), 1, us_mean=1))], slot=0, now=now)
    assert DeviceLast.objects.get(pk="dev-1").us_mean == 7


@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=29, hours=23), timedelta(hours=-23)])
def test_days_without_a_partition_are_made_on_demand(now: datetime, age: timedelta) -> None:
    batch = make_batch(now - age, 1)
    ingest.check_times(batch, now=now)
    assert ingest.store([Delivery("dev-1", batch)], slot=0, now=now).windows == 1
    assert partitions.existing("tele_window").keys() == {(now - age + timedelta(seconds=10)).date()}


def test_a_batch_across_midnight_fills_two_days(now: datetime) -> None:
    midnight = now.replace(hour=0)
    batch = make_batch(midnight - timedelta(milliseconds=20_001), 4, dt_ms=10_000)
    ingest.store([Delivery("dev-1", batch)], slot=0, now=now)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text, count(*) FROM tele_window GROUP BY 1 ORDER BY 1")
        assert cursor.fetchall() == [("tele_window_20260501", 2), ("tele_window_20260502", 2)]


@pytest.mark.parametrize("age", [timedelta(days=30, minutes=1), timedelta(hours=-25)])
def test_times_past_retention_or_a_day_ahead_are_refused(now: datetime, age: timedelta) -> None:
    with pytest.raises(TelemetryError) as caught:
        ingest.check_times(make_batch(now - age, 1), now=now)
    assert caught.value.code == "time_range"


def test_extreme_values_of_every_field_fit_their_columns(now: datetime) -> None:
    most = {
        "n": 1_000_000,
        "us_mean": 60_000_000,
        "us_max": 60_000_000,
        "score_e4": 10_000,
        "top": 255,
        "anom_max_e3": 2**31 - 1,
        "anom_n": 1_000_000,
        "lab_n": 32_767,
        "lab_ok": 32_767,
        "heap_min_64b": 262_143,
        "rssi_dbm": -127,
        "flags": 2**15 - 1,
    }
    batch = make_batch(now - timedelta(days=2), 2, boot=2**31 - 1, first=2**32 - 3, dt_ms=86_400_000, **most)
    ingest.store([Delivery("d" * 32, batch)], slot=0, now=now)
    assert Window.objects.order_by("-seq").first().seq == ((2**31 - 1) << 32) + 2**32 - 2  # type: ignore[union-attr]
    assert totals()[2] == 2 * 60_000_000 * 1_000_000


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_order_of_any_repetitions_gives_the_same_totals(seed: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tele_window; DELETE FROM tele_minute; DELETE FROM tele_device_last")
    rng = random.Random(seed)
    sent = [
        Delivery(
            f"dev-{d}",
            make_batch(NOW + timedelta(seconds=rng.randrange(200)), 3, first=3 * k, n=rng.randrange(10, 50)),
        )
        for d in range(3)
        for k in range(4)
    ]
    stream = sent + rng.choices(sent, k=rng.randrange(12))
    rng.shuffle(stream)
    windows = 0
    while stream:
        cut = rng.randrange(1, len(stream) + 1)
        expects = rng.random() < 0.5
        windows += ingest.store(stream[:cut], slot=rng.randrange(2), now=NOW, expects_repeats=expects).windows
        stream = stream[cut:]
    assert windows == 36 == totals()[0]
    assert totals()[1] == sum(w.n for delivery in sent for w in delivery.batch.windows)
    for last in DeviceLast.objects.all():
        best = max(
            (w.ts_ms, w.seq)
            for delivery in sent
            if delivery.device_id == last.device_id
            for w in delivery.batch.windows
        )
        assert (ms(last.ts), last.seq) == best
