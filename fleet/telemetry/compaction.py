"""Closed hours become rows and histograms of their own; days of histograms likewise.

An hour closes GRACE after its end. Compaction overwrites `tele_hour` from minutes and adds the live bins of
histograms to the stored ones, which empties them. A late record lands in minutes and live bins as any other
and marks its hour dirty, and the hour is done once more. Marks are deleted before anything is read: whatever
was marked is committed and seen, and a record whose mark is not seen yet brings that mark with it.

Each hour is one transaction that begins by taking the row of `tele_compaction`, so one worker is at it, and
a worker that is killed leaves nothing half-done.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from fleet.telemetry import histograms, partitions, recompute, rollups
from fleet.telemetry.histograms import DAY_S, HOUR_S, Counts

GRACE: Final = timedelta(minutes=10)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
STEPS: Final = 48
"""Hours that one run takes at most; the next run goes on."""
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TABLES: Final = ("tele_hour", "tele_hist")
_NAMES: Final = f"version_id, device_class, {rollups.SUM_NAMES}"
Group = tuple[int, str, int]  # version id, device class, metric


def run(now: datetime, *, steps: int = STEPS) -> int:
    """Compact what is due, at most `steps` hours; returns how many. Safe to call from many workers.

    Raises django.db.Error; hours that were done stay done.
    """
    done = 0
    while done < steps and step(now):
        done += 1
    return done


def closed_until(now: datetime) -> datetime:
    """The end of the newest hour that is closed."""
    return hour_of(now - GRACE)


def hour_of(moment: datetime) -> datetime:
    """The start of its UTC hour."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_start(moment: datetime) -> datetime:
    """The start of its UTC day."""
    return hour_of(moment).replace(hour=0)


def step(now: datetime) -> bool:
    """Compact the next hour that is due, a dirty one first. False when none is, or another worker does."""
    closed = closed_until(now)
    hour = _due(closed)
    if hour is None:
        return False
    partitions.ensure([hour.date()], tables=_TABLES)
    with transaction.atomic():
        until = _take()
        if until is None:
            return False
        _compact(hour)
        for day in {day_start(hour), day_start(until)}:
            if day + DAY <= closed:
                _write(DAY_S, day, stored(HOUR_S, day, day + DAY))
        if hour >= until:
            _advance(hour + HOUR)
    return True


def _due(closed: datetime) -> datetime | None:
    """The oldest dirty hour, else the oldest open one with something in it, else the last one that closed.

    None when all that are closed are compacted.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT until FROM tele_compaction WHERE name = 'hour'")
        known = cursor.fetchone()
        until = known[0] if known else _NEVER
        cursor.execute("SELECT min(hour) FROM tele_dirty WHERE hour < %s", [until])
        (dirty,) = cursor.fetchone()
        if dirty is not None:
            return hour_of(dirty)
        cursor.execute(
            "SELECT least((SELECT min(minute) FROM tele_minute WHERE minute >= %(until)s),"
            " (SELECT min(hour) FROM tele_hist_live WHERE hour >= %(until)s))",
            {"until": until},
        )
        (first,) = cursor.fetchone()
    if first is not None and first < closed:
        return hour_of(first)
    return closed - HOUR if until < closed else None


def _take() -> datetime | None:
    """Lock how far compaction has come and return it; None when another worker has it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tele_compaction (name, until) VALUES ('hour', %s) ON CONFLICT DO NOTHING",
            [_NEVER],
        )
        cursor.execute("SELECT until FROM tele_compaction WHERE name = 'hour' FOR UPDATE SKIP LOCKED")
        row = cursor.fetchone()
    return row[0] if row else None


def _advance(until: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tele_compaction SET until = greatest(until, %s) WHERE name = 'hour'", [until])


def _compact(hour: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tele_dirty WHERE hour = %s RETURNING is_from_raw", [hour])
        is_from_raw = any(row[0] for row in cursor.fetchall())
    if hour.date() in partitions.existing("tele_minute"):  # else it is past retention: what is stored stays
        if is_from_raw:
            recompute.hour(hour)
            recompute.device_day(day_start(hour))
        _sum_minutes(hour)
    _compact_bins(hour)


def _sum_minutes(hour: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tele_hour WHERE hour = %s", [hour])
        cursor.execute(
            f"INSERT INTO tele_hour (hour, {_NAMES}, first_minute, last_minute)"  # noqa: S608 - constants of this module
            " SELECT %(hour)s, version_id, device_class, sum(windows), sum(n), sum(us_sum), max(us_max),"
            " sum(anom_n), sum(lab_n), sum(lab_ok), sum(score_sum), min(minute), max(minute) FROM tele_minute"
            " WHERE minute >= %(hour)s AND minute < %(hour)s + interval '1 hour' GROUP BY 2, 3",
            {"hour": hour},
        )


def _compact_bins(hour: datetime) -> None:
    with connection.cursor() as cursor:
        # A sketch that adds to a bin meanwhile is waited for here; one that comes after starts a new row.
        cursor.execute(
            "DELETE FROM tele_hist_live WHERE hour = %s RETURNING version_id, device_class, metric, bin, n",
            [hour],
        )
        live: dict[Group, list[tuple[int, int]]] = defaultdict(list)
        for version_id, device_class, metric, number, n in cursor.fetchall():
            live[version_id, device_class, metric].append((number, n))
    if not live:
        return
    found = stored(HOUR_S, hour, hour + HOUR)
    for group, bins in live.items():
        counts = histograms.from_bins(group[2], bins)
        found[group] = found[group] + counts if group in found else counts
    _write(HOUR_S, hour, {group: found[group] for group in live})


def stored(span_s: int, start: datetime, end: datetime) -> dict[Group, Counts]:
    """Stored histograms of a span's length that begin in [start, end), added up by group."""
    found: dict[Group, Counts] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT version_id, device_class, metric, first_bin, counts FROM tele_hist"
            " WHERE metric = ANY(%s) AND span_s = %s AND start >= %s AND start < %s",
            [list(histograms.SIZES), span_s, start, end],
        )
        for version_id, device_class, metric, first_bin, data in cursor.fetchall():
            counts = found.setdefault((version_id, device_class, metric), histograms.empty(metric))
            histograms.add_packed(counts, first_bin, data)
    return found


def _write(span_s: int, start: datetime, found: Mapping[Group, Counts]) -> None:
    rows: list[tuple[Any, ...]] = []
    for (version_id, device_class, metric), counts in sorted(found.items(), key=lambda item: item[0]):
        first_bin, data = histograms.packed(counts)
        n = int(counts.sum())
        rows.append((start, version_id, device_class, metric, span_s, n, first_bin, data))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO tele_hist (start, version_id, device_class, metric, span_s, n, first_bin, counts)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (metric, span_s, start, version_id, device_class) DO UPDATE SET"
            " n = EXCLUDED.n, first_bin = EXCLUDED.first_bin, counts = EXCLUDED.counts",
            rows,
        )
