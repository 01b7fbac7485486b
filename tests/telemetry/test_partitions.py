"""Partitions are made ahead and made once; dead letters are kept in theirs, up to a quota."""

from datetime import date, datetime, timedelta

import pytest
from django.db import connection

from fleet.telemetry import dead, partitions
from fleet.telemetry.models import DeadLetter

pytestmark = pytest.mark.django_db


def test_partitions_are_made_ahead_and_only_once(now: datetime) -> None:
    assert partitions.make_ahead(now) == 9 * 6 + 4
    assert partitions.make_ahead(now) == 0
    days = sorted(partitions.existing("tele_minute"))
    assert (days[0], days[-1]) == (now.date() - timedelta(days=1), now.date() + timedelta(days=7))
    assert list(partitions.existing("tele_hour")) == [now.date().replace(day=1)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'tele_window_20260502' ORDER BY 1")
        kinds = [row[0] for row in cursor.fetchall()]
    assert any("UNIQUE" in kind and "(device_id, ts, seq)" in kind for kind in kinds)
    assert any("USING brin (ts)" in kind for kind in kinds)


def test_a_month_ends_where_the_next_one_begins(now: datetime) -> None:
    partitions.ensure([date(2026, 12, 31), date(2027, 1, 1), date(2028, 2, 29)])
    assert sorted(partitions.existing("tele_device_day")) == [
        date(2026, 12, 1),
        date(2027, 1, 1),
        date(2028, 2, 1),
    ]
    with connection.cursor() as cursor:
        for at in ("2026-12-31 23:59:59.999999+00", "2027-01-01+00", "2028-02-29 23:59+00"):
            cursor.execute(
                "INSERT INTO tele_device_day (day, device_id, version_id) VALUES (%s, 'd', 1)"
                " RETURNING tableoid::regclass::text",
                [at],
            )
            assert cursor.fetchone() == (f"tele_device_day_{at[:4]}{at[5:7]}",)


def test_dead_letters_are_kept_with_what_postgres_can_hold(now: datetime) -> None:
    letters = [dead.Refused("dev-1", "f1/dev/dev-1/telemetry\0", "cbor_bad", "x\0" * 400, b"\0" * 5000)]
    assert dead.record(letters, slot=2, now=now) == 1
    row = DeadLetter.objects.get()
    assert (row.code, row.topic, len(row.detail), len(bytes(row.payload))) == (
        "cbor_bad",
        "f1/dev/dev-1/telemetry",
        256,
        4096,
    )


def test_beyond_the_hourly_quota_of_a_device_nothing_is_kept(now: datetime) -> None:
    quota = dead.Quota(per_hour=3)

    def send(device: str, at: datetime) -> int:
        letters = [dead.Refused(device, "t", "range", "", b"")] * 2
        return dead.record(letters, slot=0, now=at, quota=quota)

    assert [send("a", now), send("a", now), send("a", now), send("b", now)] == [2, 1, 0, 2]
    assert send("a", now + timedelta(hours=1)) == 2
