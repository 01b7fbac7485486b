"""The questions that REST, console and gates ask of telemetry: one import for all of them."""

# ruff: noqa: S608 - statements are put together from constants of this module only

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from django.db import connection

from fleet.telemetry import cold, cold_query, drift, gap_times, partitions, sources, unproven
from fleet.telemetry.catalogue import ESTIMATE, GROUPS, KINDS, METRICS, Metric, TelemetryQuery
from fleet.telemetry.comparison import Comparison, compare
from fleet.telemetry.coverage import Coverage, Covered, coverage
from fleet.telemetry.drift import DriftPoint, DriftResult, DriftSeries
from fleet.telemetry.errors import QueryError
from fleet.telemetry.field_figures import FieldFigures, Figure, field_figures
from fleet.telemetry.field_figures import span as field_span
from fleet.telemetry.outcomes import Outcome, Span, count_reporting, device_outcomes
from fleet.telemetry.selection import condition
from fleet.telemetry.series import Point, Series, TelemetryResult, query
from fleet.telemetry.top import Anomalous, TopResult, top_anomalous

__all__ = [
    "ESTIMATE",
    "GROUPS",
    "KINDS",
    "METRICS",
    "Anomalous",
    "Comparison",
    "Coverage",
    "Covered",
    "DriftPoint",
    "DriftResult",
    "DriftSeries",
    "FieldFigures",
    "Figure",
    "Metric",
    "Outcome",
    "Point",
    "QueryError",
    "Series",
    "Span",
    "TelemetryQuery",
    "TelemetryResult",
    "TopResult",
    "compare",
    "count_reporting",
    "coverage",
    "device_answer",
    "device_outcomes",
    "device_series",
    "drift_answer",
    "field_figures",
    "field_span",
    "last_answer",
    "last_values",
    "newest_window",
    "query",
    "top_anomalous",
    "unproven_series",
    "version_summary",
]

MAX_WINDOWS: Final = 2000
_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)


def version_summary(mids: Collection[str]) -> dict[str, dict[str, Any]]:
    """What is known of model runs by mid (16 hex digits), from rollups; a mid that never reported is absent.

    Each value: model, version, windows, inferences, labels, accuracy (kind proxy, pooled over inferences,
    None without labels), anomaly_rate, latency_mean_us, latency_max_us (None without inferences), first_at
    and last_at (minutes). Reaches 13 months back.
    """
    found = sources.hours(_FIRST, _LAST)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT v.mid, min(v.model), min(v.version), sum(w.windows)::bigint, sum(w.n)::bigint,
                sum(w.lab_n)::bigint, sum(w.lab_ok)::float8 / nullif(sum(w.lab_n), 0),
                sum(w.anom_n)::float8 / nullif(sum(w.n), 0), sum(w.us_sum)::float8 / nullif(sum(w.n), 0),
                max(w.us_max) FILTER (WHERE w.n > 0), min(w.first_minute), max(w.last_minute)
            FROM {found.table} WHERE v.mid = ANY(%(mids)s) GROUP BY v.mid
            """,
            {"mids": list(mids), "start": _FIRST, "end": _LAST, **found.parameters},
        )
        rows = cursor.fetchall()
    names = (
        "model", "version", "windows", "inferences", "labels", "accuracy", "anomaly_rate", "latency_mean_us",
        "latency_max_us", "first_at", "last_at",
    )  # fmt: skip
    return {row[0]: {**dict(zip(names, row[1:], strict=True)), "kind": "proxy"} for row in rows}


# Times come as whole microseconds: reading a timestamptz costs more than all other columns of a row together.
_WINDOW_SQL: Final = (
    "w.device_id, (extract(epoch FROM w.ts) * 1000000)::bigint, w.seq, v.model, v.version, v.mid, w.slot,"
    " w.n, w.us_mean, w.us_max, w.score, w.top, w.anom_max, w.anom_n, w.lab_n, w.lab_ok, w.heap_min, w.rssi,"
    " w.flags"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def device_series(
    device_id: str, start: datetime, end: datetime, *, limit: int = MAX_WINDOWS
) -> list[dict[str, Any]]:
    """Raw windows of one device that end in [start, end), oldest first; the newest `limit` of them (at most
    2001).

    Each: device_id, at, seq, model, version, mid, slot, inferences, latency_mean_us, latency_max_us, score
    (0..1), top_class (-1 none), anomaly_max (score units), anomalies, labels, labels_ok, accuracy (proxy,
    None without labels), heap_min_bytes, rssi_dbm, flags.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_WINDOW_SQL} FROM tele_window w JOIN tele_version v ON v.id = w.version_id"
            " WHERE w.device_id = %s AND w.ts >= %s AND w.ts < %s ORDER BY w.ts DESC, w.seq DESC LIMIT %s",
            [device_id, start, end, min(limit, MAX_WINDOWS + 1)],
        )
        return [_window(row) for row in reversed(cursor.fetchall())]


def device_answer(
    device_id: str,
    start: datetime,
    end: datetime,
    *,
    now: datetime,
    include_unauthenticated: bool = False,
) -> dict[str, Any]:
    """`device_series` as an answer of its own: items, source, step (None: single windows), as_of, gaps (open
    and lost ones that touch the range) and is_cut, True when the oldest windows of the range are left off.

    Windows that came without a MAC, as JSON in debug mode, are left out and counted in `excluded`, unless
    they are asked for; each item then says whether it is_authentic.

    A range that begins before the raw rows that are kept is read from the cold tier as well, where it reaches
    back so far: source is then `cold`. Raises QueryError `range_invalid`, `raw_expired` where it does not,
    and what `cold_query.windows` raises.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if start >= end:
        raise QueryError("range_invalid", "from is not before to")
    oldest = partitions.day_of(partitions.raw_from(now))
    is_cold = partitions.day_of(start) < oldest
    if is_cold and not cold_query.reaches(partitions.day_of(start)):
        raise _expired(oldest)
    items = device_series(device_id, start, end, limit=MAX_WINDOWS + 1)
    if is_cold and len(items) <= MAX_WINDOWS:
        items = _with_cold(device_id, start, end, items)
    excluded = 0
    if include_unauthenticated:
        items = _with_unproven(device_id, start, end, items)
    else:
        excluded = unproven.count(device_id, start, end)
    found = {
        "items": items[-MAX_WINDOWS:], "excluded": excluded, "is_cut": len(items) > MAX_WINDOWS,
        "source": "cold" if is_cold else "raw", "step": None,
    }  # fmt: skip
    gaps = gap_times.touching(start, end, where="w.device_id = %(device)s", parameters={"device": device_id})
    return found | {"as_of": min(now, end), "gaps": gaps}


def _expired(oldest: date) -> QueryError:
    first = cold.first_day("window") if cold.is_on() else None
    since = min(oldest, first) if first else oldest
    return QueryError(
        "raw_expired",
        f"raw windows are kept {partitions.RAW_DAYS} days{' and in the cold tier' if first else ''}, from"
        f" {since:%Y-%m-%d}T00:00:00Z on; POST /telemetry:query reads days of a device further back",
        least_step_s=sources.DAY_S,
        available_from=datetime.combine(since, datetime.min.time(), UTC),
    )


def _with_cold(
    device_id: str, start: datetime, end: datetime, items: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The windows and those of the cold tier, oldest first. A day that is exported and not dropped yet is in
    both, and counts once.
    """
    known = {(item["at"], item["seq"]) for item in items}
    older = [_window(row) for row in cold_query.windows(device_id, start, end, limit=MAX_WINDOWS + 1)]
    fresh = [item for item in older if (item["at"], item["seq"]) not in known]
    return sorted([*fresh, *items], key=lambda item: (item["at"], item["seq"]))


def _with_unproven(
    device_id: str, start: datetime, end: datetime, items: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    shown = unproven_series(device_id, start, end, limit=MAX_WINDOWS + 1)
    both = [
        *({**item, "is_authentic": True} for item in items),
        *({**item, "is_authentic": False} for item in shown),
    ]
    return sorted(both, key=lambda item: (item["at"], item["seq"]))


def unproven_series(device_id: str, start: datetime, end: datetime, *, limit: int) -> list[dict[str, Any]]:
    """Windows that came without a MAC (`unproven`), as `device_series` gives others: the newest `limit` that
    end in [start, end), newest first.
    """
    return [_window(row) for row in unproven.newest(device_id, start, end, limit=limit)]


def last_answer(device_id: str, *, now: datetime) -> dict[str, Any]:
    """The newest window of one device as an answer: last (None without one), source, step, as_of, gaps (open
    and lost ones of the boot that sent it: what is missing before it).
    """
    last = last_values([device_id]).get(device_id)
    gaps = gap_times.of_boot(device_id, last["seq"] >> 32) if last else 0
    return {"last": last, "source": "last", "step": None, "as_of": now, "gaps": gaps}


def drift_answer(*, start: datetime, end: datetime, step_s: int, q: str = "", now: datetime) -> DriftResult:
    """`fleet.telemetry.drift.answer`, with the gaps that touch what it is about."""
    found = drift.answer(start=start, end=end, step_s=step_s, q=q, now=now)
    scope = condition(q, now=now) if q else None
    gaps = gap_times.touching(
        start, end, where=scope.sql if scope else "", parameters=scope.parameters if scope else None
    )
    return replace(found, gaps=gaps)


def last_values(device_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The newest window of each device, as `device_series` gives it; devices without one are absent."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_WINDOW_SQL} FROM tele_device_last w JOIN tele_version v ON v.id = w.version_id"
            " WHERE w.device_id = ANY(%s)",
            [list(device_ids)],
        )
        return {row[0]: _window(row) for row in cursor.fetchall()}


def newest_window() -> datetime | None:
    """When the newest window of all ended; None while there is none. Asked of the newest one of each device:
    windows themselves have no index by time alone, and their newest day is the largest table there is.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(ts) FROM tele_device_last")
        found: datetime | None = cursor.fetchone()[0]
    return found


def _window(row: tuple[Any, ...]) -> dict[str, Any]:
    (
        device_id, at_us, seq, model, version, mid, slot, n, us_mean, us_max, score, top, anom_max, anom_n,
        lab_n, lab_ok, heap_min, rssi, flags,
    ) = row  # fmt: skip
    return {
        "device_id": device_id,
        "at": _EPOCH + timedelta(microseconds=at_us),
        "seq": seq,
        "model": model,
        "version": version,
        "mid": mid,
        "slot": slot,
        "inferences": n,
        "latency_mean_us": us_mean,
        "latency_max_us": us_max,
        "score": score / 10_000,
        "top_class": top,
        "anomaly_max": anom_max / 1000,
        "anomalies": anom_n,
        "labels": lab_n,
        "labels_ok": lab_ok,
        "heap_min_bytes": heap_min * 64,
        "rssi_dbm": rssi,
        "flags": flags,
        "accuracy": lab_ok / lab_n if lab_n else None,
    }
