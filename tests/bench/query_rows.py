"""Telemetry of a made-up fleet over 30 days, loaded by the database itself; rollups by the product's own SQL.

Needs Django to be set up and the database to be migrated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction

from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry import compaction, partitions, rollups
from fleet.telemetry.models import Version

DAYS = 30
VERSIONS = 8
CLASSES = ("host-a", "host-b")
_WINDOWS = """
INSERT INTO tele_window (device_id, ts, seq, version_id, dt_ms, n, us_mean, us_max, anom_max, anom_n,
    heap_min, lag_s, score, top, lab_n, lab_ok, rssi, flags, slot, clock)
SELECT 'dev-' || lpad((i %% %(devices)s)::text, 5, '0'), %(day)s + i * (interval '1 day' / %(rows)s),
    (1::bigint << 32) + %(number)s * %(rows)s::bigint + i,
    1 + (%(number)s / 4 + i %% 2) %% %(versions)s, 60000,
    50 + (random() * 20)::int, us, us + (random() * 4000)::int, (random() * 3000)::int,
    (random() * random() * 6)::int, 3000, 1, 7000 + (random() * 2500)::int, (random() * 4)::int,
    20, 20 - (random() * 6)::int, -60, 0, 0, 2
FROM (SELECT i, 900 + 100 * (i %% 2) + (random() * 900)::int AS us FROM generate_series(0, %(rows)s - 1) i) x
"""
_SKETCHES = """
INSERT INTO tele_sketch (ts, seq, version_id, device_id, duration_s, n, lag_s, slot, clock, body)
SELECT %(day)s + i * (interval '1 day' / %(rows)s),
    (1::bigint << 40) + %(number)s * %(rows)s::bigint + i, 1 + (%(number)s / 4 + i %% 2) %% %(versions)s,
    'dev-' || lpad((i %% %(devices)s)::text, 5, '0'), 900, 60, 1, 0, 2,
    jsonb_build_object('us_max', 4000, 'time_shift', 0, 'times', t.times,
        'class_hist', jsonb_build_array(30, 20, 10),
        'conf_hist', jsonb_build_array(0, 0, 0, 0, 0, 5, 5, 10, 20, 20),
        'golden', jsonb_build_array(4, 4, 1))
FROM generate_series(0, %(rows)s - 1) i CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(170 + 4 * (i %% 2) + b, 1 + (random() * 8)::int) ORDER BY b) AS times
    FROM generate_series(0, 11) b
) t
"""


def load(rows: int, devices: int, now: datetime, *, say: Callable[[str], None]) -> dict[str, float]:
    """Fill 30 days with `rows` windows and a tenth as many sketches; returns what took how many seconds.

    The newest day ends where `now` begins; rollups are made by the statements of ingest, hours by compaction.
    """
    took: dict[str, float] = {}
    classes.ensure_default_classes(now)
    Device.objects.bulk_create(
        Device(id=f"dev-{i:05}", device_class_id=CLASSES[i % 2], enrolled_at=now) for i in range(devices)
    )
    Version.objects.bulk_create(
        Version(pk=n, model="activity", version=f"{n}.0.0", mid=f"{n:016x}", first_seen_at=now)
        for n in range(1, VERSIONS + 1)
    )
    first = compaction.day_start(now) - timedelta(days=DAYS - 1)
    days = [first + timedelta(days=n) for n in range(DAYS)]
    partitions.ensure([day.date() for day in days])
    for number, day in enumerate(days):
        with _timed(took, "raw rows"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT setseed(%s)", [number / DAYS])
            share = (now - day) / timedelta(days=1) if day == days[-1] else 1.0
            for statement, many in ((_WINDOWS, rows), (_SKETCHES, rows // 10)):
                part: dict[str, Any] = {
                    "rows": max(1, many // DAYS), "day": day, "number": number, "devices": devices,
                    "versions": VERSIONS,
                }  # fmt: skip
                cursor.execute(statement, part)
                if share < 1:
                    table = "tele_window" if statement is _WINDOWS else "tele_sketch"
                    cursor.execute(f"DELETE FROM {table} WHERE ts > %s", [now])
        with _timed(took, "rollups"):
            _roll_up(day)
        if number % 5 == 4:
            say(f"  {number + 1} of {DAYS} days")
    with _timed(took, "compaction"):
        hours = 0
        while done := compaction.run(now):
            hours += done
    took["compacted hours"] = hours
    with _timed(took, "vacuum"), connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
    return took


def _roll_up(day: datetime) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        for table, statement in (
            ("tele_window", rollups.MINUTES),
            ("tele_window", rollups.PROXY),
            ("tele_window", rollups.DEVICE_DAYS),
            ("tele_window", rollups.NEWEST),
            ("tele_sketch", rollups.JUDGED),
            ("tele_sketch", rollups.GOLDEN_DAYS),
            ("tele_sketch", rollups.LIVE_BINS),
        ):
            cursor.execute(
                f"WITH fresh AS (SELECT * FROM {table} WHERE ts >= %(day)s"
                f" AND ts < %(day)s + interval '1 day') {statement}",
                {"day": day, "slot": 0},
            )


class _timed:
    """Adds the seconds of its block to an entry."""

    def __init__(self, took: dict[str, float], name: str) -> None:
        self._took, self._name = took, name

    def __enter__(self) -> None:
        self._from = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._took[self._name] = self._took.get(self._name, 0.0) + time.perf_counter() - self._from
