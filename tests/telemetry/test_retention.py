"""Only what is past retention is dropped, without waiting for readers, and never before it is rolled up."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import psycopg
import pytest
from django.db import connection

from fleet.telemetry import partitions, retention
from fleet.telemetry.models import Compaction, DirtyHour

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _clean(transactional_db: None) -> Iterator[None]:
    """Partitions are no rows: flushing the database leaves them."""
    _drop_all()
    yield
    _drop_all()


def _drop_all() -> None:
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


def compacted(until: datetime) -> None:
    Compaction.objects.update_or_create(name="hour", defaults={"until": until})


def days(table: str, now: datetime) -> list[int]:
    return sorted((now.date() - day).days for day in partitions.existing(table))


def test_only_days_past_retention_are_dropped(now: datetime) -> None:
    compacted(now)
    partitions.ensure([now.date() - timedelta(days=n) for n in (0, 14, 15, 30, 31, 90, 91)])
    dropped = retention.drop_expired(now)
    assert len(dropped) == len(set(dropped))
    for table in ("tele_window", "tele_minute", "tele_inference"):
        assert days(table, now) == [0, 14, 15, 30]
    assert days("tele_sketch", now) == [0, 14, 15, 30, 31, 90]
    assert days("tele_dead", now) == [0, 14]
    assert retention.drop_expired(now) == []


def test_a_month_goes_when_all_of_it_is_past_retention(now: datetime) -> None:
    """13 months back from 2 May 2026 is 1 April 2025."""
    partitions.ensure([datetime(2025, m, 1).date() for m in (2, 3, 4)], tables=["tele_hour"])
    assert retention.drop_expired(now) == ["tele_hour_202502", "tele_hour_202503"]


def test_minutes_stay_until_their_hours_are_compacted(now: datetime) -> None:
    old = now - timedelta(days=31)
    partitions.ensure([old.date()], tables=["tele_minute", "tele_window"])
    midnight = old.replace(hour=0)
    name = f"tele_minute_{old:%Y%m%d}"
    assert name not in retention.drop_expired(now), "nothing was ever compacted"
    compacted(midnight + timedelta(hours=23))
    assert name not in retention.drop_expired(now), "its last hour is open"
    compacted(midnight + timedelta(days=1))
    mark = DirtyHour.objects.create(hour=midnight + timedelta(hours=3))
    assert name not in retention.drop_expired(now), "a late record waits"
    mark.delete()
    assert retention.drop_expired(now) == [name]


def _reader() -> psycopg.Connection[tuple[int]]:
    at = connection.settings_dict
    return psycopg.connect(
        host=at["HOST"], port=at["PORT"], user=at["USER"], password=at["PASSWORD"], dbname=at["NAME"]
    )


def test_a_partition_that_is_read_is_left_and_finished_later(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "WAIT_S", 1)
    old = now.date() - timedelta(days=31)
    partitions.ensure([old], tables=["tele_window"])
    with _reader() as reader:
        reader.execute("SELECT count(*) FROM tele_window")
        assert retention.drop_expired(now) == []
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("0",), "the wait is over with the call"
        reader.rollback()
    assert retention.drop_expired(now) == [f"tele_window_{old:%Y%m%d}"]
    assert not partitions.existing("tele_window")


def test_what_was_detached_but_not_dropped_is_dropped_next_time(now: datetime) -> None:
    old = now.date() - timedelta(days=31)
    partitions.ensure([old], tables=["tele_window"])
    name = f"tele_window_{old:%Y%m%d}"
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE tele_window DETACH PARTITION {name}")
    assert retention.drop_expired(now) == [name]
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [name])
        assert cursor.fetchone() == (None,)
