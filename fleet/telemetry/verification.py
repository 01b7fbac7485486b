"""Raw rows against every rollup made from them: each difference is named, nothing is repaired.

One snapshot serves all comparisons, so ingest and compaction may go on meanwhile. Classes are added up: raw
rows do not say which class a device had then.
"""

# ruff: noqa: S608 - statements are put together from constants only

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from fleet.telemetry import histograms, partitions, rollups
from fleet.telemetry.histograms import HOUR_S

MOST: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Difference:
    """What a rollup says otherwise. key: of its row, as text. raw, kept: values; None where there is none."""

    table: str
    key: str
    raw: str | None
    kept: str | None


@dataclass(frozen=True)
class Verdict:
    """rows: compared, by table. differences: at most MOST of each table."""

    rows: dict[str, int]
    differences: list[Difference]


def verify(start: datetime, end: datetime) -> Verdict:
    """Compare every rollup of [start, end), whole UTC days, with the raw rows that it was made from.

    Raises ValueError for a range that is none of whole UTC days, django.db.Error.
    """
    if start >= end or any((moment - _EPOCH) % timedelta(days=1) for moment in (start, end)):
        raise ValueError("a range of whole UTC days is compared")
    rows: dict[str, int] = {}
    found: list[Difference] = []
    is_own = not connection.in_atomic_block
    with transaction.atomic():
        if is_own:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table in _SIDES:
            rows[table] = _count(table, {"start": start, "end": end})
            found += _differences(table, {"start": start, "end": end})
        rows["tele_hist"], unlike = _histograms(start, end)
    return Verdict(rows, found + unlike)


def _differences(table: str, parameters: dict[str, Any]) -> Iterator[Difference]:
    raw, kept = _SIDES[table]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT coalesce(a.k, b.k), a.v, b.v FROM ({raw}) a FULL JOIN ({kept}) b ON a.k = b.k"
            f" WHERE a.v IS DISTINCT FROM b.v ORDER BY 1 LIMIT {MOST}",
            parameters,
        )
        for key, value, stored in cursor.fetchall():
            yield Difference(table, key, value, stored)


def _count(table: str, parameters: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM ({_SIDES[table][1]}) x", parameters)
        return int(cursor.fetchone()[0])


# Both sides give (k, v) as texts, so that a bigint and the numeric that a sum makes of it compare.
_SPAN: Final = "f.ts >= %(start)s AND f.ts < %(end)s"
_NAMES: Final = rollups.SUM_NAMES
_ADDED: Final = ", ".join(
    f"{'max' if name == 'us_max' else 'sum'}(f.{name}) AS {name}" for name in _NAMES.split(", ")
)
_DAY_NAMES: Final = f"{_NAMES}, anom_max, golden_n, golden_ok, delayed_n, delayed_ok"
_COMPACTED: Final = (
    "{at} < coalesce((SELECT until FROM tele_compaction WHERE name = 'hour'), '-infinity')"
    " AND NOT EXISTS (SELECT 1 FROM tele_dirty y WHERE y.hour = {at})"
)


def _raw(cut: str, where: str = "true") -> str:
    return (
        f"SELECT row(version_id, at)::text AS k, row({_NAMES})::text AS v FROM ("
        f"SELECT f.version_id, date_trunc('{cut}', f.ts, 'UTC') AS at, {rollups.WINDOW_SUMS}"
        f" FROM tele_window f WHERE {_SPAN} GROUP BY 1, 2) x WHERE {where}"
    )


def _kept(table: str, at: str, where: str = "true") -> str:
    return (
        f"SELECT row(version_id, at)::text AS k, row({_NAMES})::text AS v FROM ("
        f"SELECT f.version_id, f.{at} AS at, {_ADDED} FROM {table} f"
        f" WHERE f.{at} >= %(start)s AND f.{at} < %(end)s GROUP BY 1, 2) x WHERE {where}"
    )


_RAW_DAYS: Final = f"""
    SELECT row(day, device_id, version_id)::text AS k,
        row({", ".join(f"max({name})" for name in _DAY_NAMES.split(", "))})::text AS v
    FROM (
        SELECT date_trunc('day', f.ts, 'UTC') AS day, f.device_id, f.version_id, {rollups.WINDOW_SUMS},
            max(f.anom_max) AS anom_max, 0::numeric AS golden_n, 0::numeric AS golden_ok,
            0::bigint AS delayed_n, 0::bigint AS delayed_ok
        FROM tele_window f WHERE {_SPAN} GROUP BY 1, 2, 3
        UNION ALL
        SELECT date_trunc('day', f.ts, 'UTC'), f.device_id, f.version_id, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            sum((f.body->'golden'->>0)::bigint), sum((f.body->'golden'->>1)::bigint), 0, 0
        FROM tele_sketch f WHERE {_SPAN} AND f.body->'golden' IS NOT NULL GROUP BY 1, 2, 3
        UNION ALL
        SELECT date_trunc('day', f.ts, 'UTC'), f.device_id, f.version_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            count(*), sum((f.label = f.top)::int)
        FROM tele_label f WHERE {_SPAN} AND f.state = 'counted' GROUP BY 1, 2, 3
    ) x GROUP BY day, device_id, version_id"""
_KEPT_DAYS: Final = f"""
    SELECT row(day, device_id, version_id)::text AS k, row({_DAY_NAMES})::text AS v FROM tele_device_day
    WHERE day >= %(start)s AND day < %(end)s AND (windows > 0 OR golden_n > 0 OR delayed_n > 0)"""
_RAW_ACCURACY: Final = f"""
    SELECT row(version_id, hour, kind, source)::text AS k, row(sum(n), sum(ok))::text AS v FROM (
        SELECT f.version_id, date_trunc('hour', f.ts, 'UTC') AS hour, 'proxy' AS kind, 'window' AS source,
            f.lab_n::bigint AS n, f.lab_ok::bigint AS ok
        FROM tele_window f WHERE {_SPAN} AND f.lab_n > 0
        UNION ALL
        SELECT f.version_id, date_trunc('hour', f.ts, 'UTC'), j.* FROM tele_sketch f
        CROSS JOIN LATERAL ({rollups.JUDGEMENTS}) j WHERE {_SPAN} AND j.n > 0
        UNION ALL
        SELECT f.version_id, date_trunc('hour', f.ts, 'UTC'), 'delayed', f.source, 1, (f.label = f.top)::int
        FROM tele_label f WHERE {_SPAN} AND f.state = 'counted'
    ) x GROUP BY version_id, hour, kind, source"""
_KEPT_ACCURACY: Final = """
    SELECT row(version_id, hour, kind, source)::text AS k, row(sum(n), sum(ok))::text AS v FROM tele_accuracy
    WHERE hour >= %(start)s AND hour < %(end)s
    GROUP BY version_id, hour, kind, source HAVING sum(n) <> 0 OR sum(ok) <> 0"""
_RAW_LAST: Final = f"""
    SELECT device_id::text AS k, row(ts, seq, version_id, n, us_max, anom_n)::text AS v FROM (
        SELECT DISTINCT ON (device_id) * FROM tele_window f WHERE {_SPAN}
        ORDER BY device_id, ts DESC, seq DESC
    ) x WHERE NOT EXISTS (SELECT 1 FROM tele_window l WHERE l.device_id = x.device_id AND l.ts >= %(end)s)"""
_KEPT_LAST: Final = f"""
    SELECT device_id::text AS k, row(ts, seq, version_id, n, us_max, anom_n)::text AS v
    FROM tele_device_last f WHERE {_SPAN}"""

_SIDES: Final[Mapping[str, tuple[str, str]]] = {
    "tele_minute": (_raw("minute"), _kept("tele_minute", "minute")),
    "tele_hour": (
        _raw("hour", _COMPACTED.format(at="x.at")),
        _kept("tele_hour", "hour", _COMPACTED.format(at="x.at")),
    ),
    "tele_device_day": (_RAW_DAYS, _KEPT_DAYS),
    "tele_accuracy": (_RAW_ACCURACY, _KEPT_ACCURACY),
    "tele_device_last": (_RAW_LAST, _KEPT_LAST),
}


def _histograms(start: datetime, end: datetime) -> tuple[int, list[Difference]]:
    """Bins of sketches against stored hours with live bins, and against stored days."""
    raw = _bins(
        "SELECT date_trunc('hour', f.ts, 'UTC'), f.version_id, k.metric, k.bin, k.n FROM tele_sketch f"
        f" CROSS JOIN LATERAL ({rollups.BINS}) k WHERE {_SPAN}",
        {"start": start, "end": end},
    )
    hours = _bins(
        "SELECT hour, version_id, metric, bin, n FROM tele_hist_live"
        " WHERE hour >= %(start)s AND hour < %(end)s",
        {"start": start, "end": end},
    )
    days: _Bins = {}
    live_days = {(partitions.day_of(hour), *rest) for hour, *rest in hours}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT span_s, start, version_id, metric, first_bin, counts FROM tele_hist"
            " WHERE start >= %s AND start < %s",
            [start, end],
        )
        for span_s, at, version_id, metric, first_bin, data in cursor.fetchall():
            into = hours if span_s == HOUR_S else days
            counts = into.setdefault((at.astimezone(UTC), version_id, metric), histograms.empty(metric))
            histograms.add_packed(counts, first_bin, data)
    found = [_unlike("tele_hist hour", key, raw, hours) for key in sorted(raw.keys() | hours.keys())]
    raw_days: _Bins = {}
    for (at, version_id, metric), counts in raw.items():
        key = (at.replace(hour=0), version_id, metric)
        raw_days[key] = raw_days.get(key, histograms.empty(metric)) + counts
    found += [
        _unlike("tele_hist day", key, raw_days, days)
        for key in sorted(days)
        if (partitions.day_of(key[0]), *key[1:]) not in live_days  # bins that came late are still outside
    ]
    return len(hours) + len(days), [one for one in found if one is not None][:MOST]


def _bins(statement: str, parameters: dict[str, Any]) -> "_Bins":
    found: _Bins = {}
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        for at, version_id, metric, number, n in cursor.fetchall():
            key = (at.astimezone(UTC), version_id, metric)
            found.setdefault(key, histograms.empty(metric))[number] += n
    return found


def _unlike(table: str, key: "_Key", raw: "_Bins", kept: "_Bins") -> Difference | None:
    a, b = raw.get(key), kept.get(key)
    if a is not None and b is not None and (a == b).all():
        return None
    sides = [None if one is None else f"{int(one.sum())} in {int((one > 0).sum())} bins" for one in (a, b)]
    return Difference(table, f"({key[1]},{key[0]:%F %T},{key[2]})", *sides)


_Key = tuple[datetime, int, int]  # start, version id, metric
_Bins = dict[_Key, histograms.Counts]
