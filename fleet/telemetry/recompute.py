"""Rollups made anew from raw rows: after a doubt, or for what was stored before a rollup existed.

While an hour or a day is made anew nobody writes to its tables: a SHARE ROW EXCLUSIVE lock makes ingest wait
for the few milliseconds that takes (readers go on). Without it a record that is being stored could be counted
by both sides or by neither.

The class of a device is the one it has now, as raw queries read it; the gateway's slot is 0.
"""

# ruff: noqa: S608 - statements are put together from constants only

from datetime import datetime
from typing import Final

from django.db import connection, transaction

from fleet.telemetry import rollups

WAIT_S: Final = 5
_SPANS: Final = {
    "hour": "ts >= %(start)s AND ts < %(start)s + interval '1 hour'",
    "day": "ts >= %(start)s AND ts < %(start)s + interval '1 day'",
}


def hour(start: datetime) -> None:
    """Make minutes, accuracy (but for delayed labels) and histograms of the hour from `start` anew.

    What `tele_hour` and stored histograms say of it follows when compaction takes the hour; histograms are
    all live bins until then. Raises django.db.OperationalError when a writer holds a table for more than 5 s;
    nothing is then changed.
    """
    with transaction.atomic():
        _lock("tele_minute", "tele_accuracy", "tele_hist_live", "tele_hist")
        for statement in (
            "DELETE FROM tele_minute WHERE minute >= %(start)s AND minute < %(start)s + interval '1 hour'",
            "DELETE FROM tele_accuracy WHERE hour = %(start)s AND kind <> 'delayed'",
            "DELETE FROM tele_hist_live WHERE hour = %(start)s",
            "DELETE FROM tele_hist WHERE start = %(start)s AND span_s = 3600",
            "DELETE FROM tele_hist WHERE start = date_trunc('day', %(start)s, 'UTC') AND span_s = 86400",
        ):
            _run(statement, start)
        for table, statement in (
            ("tele_window", rollups.MINUTES),
            ("tele_window", rollups.PROXY),
            ("tele_sketch", rollups.JUDGED),
            ("tele_sketch", rollups.LIVE_BINS),
        ):
            _run(f"WITH fresh AS (SELECT * FROM {table} WHERE {_SPANS['hour']}) {statement}", start)


def marked_hour(start: datetime) -> None:
    """As `hour`, and mark it, so that compaction takes it again."""
    with transaction.atomic():
        hour(start)
        _run("INSERT INTO tele_dirty (hour) VALUES (%(start)s)", start)


def device_day(start: datetime) -> None:
    """Make the sums of every device of the UTC day from `start` anew, but for delayed labels. As `hour`."""
    with transaction.atomic():
        _lock("tele_device_day")
        _run(
            "UPDATE tele_device_day SET windows = 0, n = 0, us_sum = 0, us_max = 0, anom_n = 0, anom_max = 0,"
            " lab_n = 0, lab_ok = 0, score_sum = 0, golden_n = 0, golden_ok = 0 WHERE day = %(start)s",
            start,
        )
        for table, statement in (
            ("tele_window", rollups.DEVICE_DAYS),
            ("tele_sketch", rollups.GOLDEN_DAYS),
        ):
            _run(f"WITH fresh AS (SELECT * FROM {table} WHERE {_SPANS['day']}) {statement}", start)
        _run(
            "DELETE FROM tele_device_day WHERE day = %(start)s"
            " AND windows = 0 AND golden_n = 0 AND delayed_n = 0",
            start,
        )


def _lock(*tables: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
        cursor.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")


def _run(statement: str, start: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"start": start, "slot": 0})
