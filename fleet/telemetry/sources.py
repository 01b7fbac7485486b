"""Which table answers a question: the coarsest one that gives the same answer as the raw rows.

Days of a device where devices are told apart, hours and minutes of a model run and class where not. A rollup
answers only whole pieces of its own length: a range that begins or ends inside one is left to a finer table.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from django.db import connection

from fleet.telemetry import cold, partitions
from fleet.telemetry.catalogue import TelemetryQuery
from fleet.telemetry.errors import QueryError

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
_RUN: Final = {"model": "v.model", "version": "v.version", "digest": "v.mid"}
_BY_CLASS: Final = {**_RUN, "device_class": "w.device_class"}
_BY_DEVICE: Final = {
    **_RUN, "device_class": "d.device_class_id", "firmware": "d.firmware_version", "chip": "d.chip",
    "device": "w.device_id",
}  # fmt: skip
_SUMS: Final = "version_id, device_class, windows, n, us_sum, us_max, anom_n, lab_n, lab_ok, score_sum"
_ROLLED: Final[Mapping[str, tuple[str, str]]] = {
    "anomaly_rate": ("w.anom_n", "w.n"),
    "inferences": ("w.n", "w.n"),
    "latency_us": ("w.us_sum", "w.n"),
    "confidence": ("w.score_sum / 1e4", "w.n"),
    "accuracy proxy": ("w.lab_ok", "w.lab_n"),
}


_ARENA: Final = "(w.body->>'arena_used_bytes')::bigint"


@dataclass(frozen=True)
class Source:
    """Where rows come from. name: as an answer tells it. table: SQL that names rows `w` and their run `v`.

    time: SQL of a row's time. labels: SQL of the fields that can group and filter. terms: by metric (and kind
    of accuracy), SQL of what is summed above and below the line. where: which rows count at all.
    parameters: of `table`.
    """

    name: str
    table: str
    time: str
    labels: Mapping[str, str]
    terms: Mapping[str, tuple[str, str]]
    where: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_devices(self) -> bool:
        """Whether a row is of one device."""
        return "device" in self.labels


_VERSION: Final = "JOIN tele_version v ON v.id = w.version_id"
_DEVICE: Final = "LEFT JOIN devices_device d ON d.id = w.device_id"
WINDOWS: Final = Source(
    "raw",
    f"tele_window w {_VERSION} {_DEVICE}",
    "w.ts",
    _BY_DEVICE,
    {
        **_ROLLED,
        "latency_us": ("w.us_mean::bigint * w.n", "w.n"),
        "confidence": ("w.score * w.n / 1e4", "w.n"),
        "heap_min_free": ("w.heap_min * 64", "(w.heap_min > 0)::int"),  # a window without a reading has 0
    },
)
SKETCHES: Final = Source(
    "raw",
    f"tele_sketch w {_VERSION} {_DEVICE}",
    "w.ts",
    _BY_DEVICE,
    {
        "accuracy golden": ("(w.body->'golden'->>1)::bigint", "(w.body->'golden'->>0)::bigint"),
        "arena_used": (_ARENA, f"({_ARENA} > 0)::int"),
        "resets": (
            "(SELECT coalesce(sum((r->>1)::bigint), 0)"
            " FROM jsonb_array_elements(coalesce(w.body->'resets', '[]')) r)",
            "1",
        ),
    },
)
LABELS: Final = Source(
    "raw",
    f"tele_label w {_VERSION} {_DEVICE}",
    "w.ts",
    {**_BY_DEVICE, "device_class": "w.device_class"},
    {"accuracy delayed": ("(w.label = w.top)::int", "1")},
    where=("w.state = 'counted'",),
)
JUDGED: Final = Source(
    "raw",
    f"tele_drift w {_VERSION} {_DEVICE}",
    "w.ts",
    _BY_DEVICE,
    {},
    where=("w.reference <> 'peers'",),
)
"""Sketches that were judged by the reference of their own run."""
MINUTES: Final = Source("minute", f"tele_minute w {_VERSION}", "w.minute", _BY_CLASS, _ROLLED)
DEVICE_DAYS: Final = Source(
    "day",
    f"tele_device_day w {_VERSION} {_DEVICE}",
    "w.day",
    _BY_DEVICE,
    {
        **_ROLLED,
        "accuracy golden": ("w.golden_ok", "w.golden_n"),
        "accuracy delayed": ("w.delayed_ok", "w.delayed_n"),
    },
)
# The labels of windows come again in sketches, by who gave them: only one of the two counts.
ACCURACY_HOURS: Final[Mapping[str, Source]] = {
    kind: Source(
        "hour",
        f"tele_accuracy w {_VERSION}",
        "w.hour",
        _BY_CLASS,
        {f"accuracy {kind}": ("w.ok", "w.n")},
        where=where,
    )
    for kind, where in {
        "proxy": ("w.kind = 'proxy'", "w.source = 'window'"),
        "golden": ("w.kind = 'golden'",),
        "delayed": ("w.kind = 'delayed'",),
    }.items()
}


_RAW: Final = {"heap_min_free": WINDOWS, "arena_used": SKETCHES, "resets": SKETCHES}
"""Metrics that no rollup has."""


def choose(query: TelemetryQuery, *, now: datetime) -> Source:
    """The table that answers a checked query. Raises QueryError `raw_expired` when it is kept no longer."""
    fine = {"golden": SKETCHES, "delayed": LABELS}.get(query.kind, WINDOWS)
    if query.metric in _RAW:
        return kept(_RAW[query.metric], query, now)
    if query.is_by_device:
        return DEVICE_DAYS if fits(query, DAY_S, now=now) else kept(fine, query, now)
    if fits(query, HOUR_S, now=now):
        _kept_long(query.start, now)
        return ACCURACY_HOURS[query.kind] if query.metric == "accuracy" else hours(query.start, query.end)
    if fine is WINDOWS and query.step_s % MINUTE_S == 0:
        fine = MINUTES
    return kept(fine, query, now)


def fits(query: TelemetryQuery, unit_s: int, *, now: datetime) -> bool:
    """Whether steps and range are whole units; an end that is not over yet may lie anywhere."""
    ends = query.end >= now or query.end.timestamp() % unit_s == 0
    return query.step_s % unit_s == 0 and query.start.timestamp() % unit_s == 0 and ends


def kept(source: Source, query: TelemetryQuery, now: datetime) -> Source:
    """The source, when its rows reach back to the start of the query. Raises QueryError `raw_expired`."""
    days = {SKETCHES.table: 90, LABELS.table: partitions.MONTHS_13}.get(source.table, partitions.RAW_DAYS)
    oldest = partitions.day_of(now - timedelta(days=days))
    is_of_raw = query.metric in _RAW or (query.is_of_bins and query.is_by_device)
    if partitions.day_of(query.start) < oldest and is_of_raw:
        what = query.metric if query.metric in _RAW else f"{query.metric} of single devices"
        raise QueryError(
            "raw_expired",
            f"{what} is kept {days} days, from {oldest:%Y-%m-%d}T00:00:00Z on{_cold(source)}",
            available_from=_midnight(oldest),
        )
    if partitions.day_of(query.start) < oldest:
        unit = "days" if query.is_by_device else "hours"
        raise QueryError(
            "raw_expired",
            f"this is kept {days} days, from {oldest:%Y-%m-%d}T00:00:00Z on; ask for whole UTC {unit}"
            f" (from, to and step) to read 13 months{_cold(source)}",
            least_step_s=DAY_S if query.is_by_device else HOUR_S,
            available_from=_midnight(oldest),
        )
    return source


def _cold(source: Source) -> str:
    """Where else raw rows of a source are."""
    kind = {WINDOWS.table: "window", SKETCHES.table: "sketch"}.get(source.table)
    first = cold.first_day(kind) if kind and cold.is_on() else None
    if first is None:
        return ""
    return f"; raw rows from {first} on are in the cold tier: GET /telemetry/export?kind={kind}"


def _kept_long(start: datetime, now: datetime) -> None:
    oldest = now - timedelta(days=partitions.MONTHS_13)
    if start < oldest - timedelta(days=31):
        first = _midnight(oldest.date().replace(day=1))
        raise QueryError(
            "raw_expired", f"kept are 13 months, from {first:%Y-%m-%dT%H:%M:%SZ} on", available_from=first
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


def hours(start: datetime, end: datetime) -> Source:
    """Compacted hours of [start, end), and minutes for those that are open or had a late record since.

    Rows have the sums of minutes and the first and last minute they are of. Asked apart from the statement
    that reads them: what is compacted in between is read from minutes all the same, which still are there.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT until FROM tele_compaction WHERE name = 'hour'),"
            " ARRAY(SELECT DISTINCT hour FROM tele_dirty WHERE hour >= %s AND hour < %s)",
            [start, end],
        )
        compacted, marked = cursor.fetchone()
    until = min(compacted, end) if compacted else start
    dirty = sorted(hour.astimezone(UTC) for hour in marked if hour < until)
    parts = [
        f"SELECT hour AS at, first_minute, last_minute, {_SUMS} FROM tele_hour"
        " WHERE hour >= %(start)s AND hour < %(until)s AND hour <> ALL(%(dirty)s)",
        f"SELECT minute, minute, minute, {_SUMS} FROM tele_minute"
        " WHERE minute >= %(open_from)s AND minute < %(end)s",
    ]
    parameters: dict[str, Any] = {"until": until, "dirty": dirty, "open_from": max(until, start)}
    if dirty:
        parts.append(
            f"SELECT minute, minute, minute, {_SUMS} FROM tele_minute"
            " WHERE minute >= %(dirty_from)s AND minute < %(dirty_to)s"
            " AND date_trunc('hour', minute, 'UTC') = ANY(%(dirty)s)"
        )
        parameters |= {"dirty_from": dirty[0], "dirty_to": dirty[-1] + timedelta(hours=1)}
    table = f"({' UNION ALL '.join(parts)}) w {_VERSION}"
    return Source("hour", table, "w.at", _BY_CLASS, _ROLLED, parameters=parameters)
