"""Answer a checked query:

from the minute rollup where it can, from raw windows where devices must be told apart.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import OperationalError, connection, transaction
from psycopg import errors as pg_errors

from fleet.telemetry import catalogue
from fleet.telemetry.catalogue import MAX_SERIES, METRICS, TelemetryQuery
from fleet.telemetry.errors import QueryError
from fleet.telemetry.intervals import t_half_width
from fleet.telemetry.selection import Condition, condition

TIMEOUT_S: Final = 5

_LABELS: Final[Mapping[str, Mapping[str, str]]] = {
    "raw": {
        "model": "v.model",
        "version": "v.version",
        "digest": "v.mid",
        "device_class": "d.device_class_id",
        "device": "w.device_id",
    },
    "minute": {
        "model": "v.model",
        "version": "v.version",
        "digest": "v.mid",
        "device_class": "w.device_class",
    },
}
_TIME: Final = {"raw": "w.ts", "minute": "w.minute"}
_TABLE: Final = {
    "raw": "tele_window w JOIN tele_version v ON v.id = w.version_id"
    " LEFT JOIN devices_device d ON d.id = w.device_id",
    "minute": "tele_minute w JOIN tele_version v ON v.id = w.version_id",
}
_US_SUM: Final = {"raw": "w.us_mean::bigint * w.n", "minute": "w.us_sum"}


@dataclass(frozen=True)
class Point:
    """One bucket.

    t: its start. value: None when n is 0. lower, upper: 95 % t interval over devices, None when there
    is none. n_devices: None where the rollup cannot tell. n: samples. partial: data may still arrive."""

    t: datetime
    value: float | None
    lower: float | None
    upper: float | None
    n_devices: int | None
    n: int
    partial: bool


@dataclass(frozen=True)
class Series:
    """Points of one group. labels: group_by field to value. Every bucket of the range has a point."""

    labels: dict[str, str]
    points: list[Point]

    @property
    def n(self) -> int:
        """Samples in all."""
        return sum(point.n for point in self.points)


@dataclass(frozen=True)
class TelemetryResult:
    """An answer. source: `minute` or `raw`. as_of: up to when data can be complete."""

    metric: str
    kind: str
    agg: str
    unit: str
    source: str
    step_s: int
    as_of: datetime
    series: list[Series] = field(default_factory=list)
    series_left_off: int = 0


def query(question: TelemetryQuery, *, now: datetime) -> TelemetryResult:
    """Answer a telemetry query. Raises QueryError with the codes of rest-api.md, and for `q` what
    `fleet.telemetry.selection.condition` raises; never a partial answer.
    """
    selected = condition(question.q, now=now) if question.q else None
    catalogue.check(question, now=now)
    rows = _fetch(question, selected)
    groups: dict[tuple[str, ...], dict[datetime, tuple[Any, ...]]] = {}
    width = len(question.group_by)
    for row in rows:
        labels = tuple("" if label is None else str(label) for label in row[1 : 1 + width])
        groups.setdefault(labels, {})[row[0].astimezone(UTC)] = row[1 + width :]
    as_of = min(now, question.end)
    series = [
        Series(dict(zip(question.group_by, labels, strict=True)), _points(question, found, as_of))
        for labels, found in sorted(groups.items())
    ]
    kept = series
    if question.limit is not None and len(series) > question.limit:
        kept = sorted(series, key=lambda one: -one.n)[: question.limit]
    if len(kept) > MAX_SERIES:
        raise QueryError("too_many_points", f"{len(kept)} series, at most {MAX_SERIES}: filter, or set limit")
    metric = METRICS[question.metric]
    return TelemetryResult(
        metric=metric.name,
        kind=question.kind,
        agg=question.aggregation,
        unit="1" if question.aggregation == "count" else metric.unit,
        source=question.source,
        step_s=question.step_s,
        as_of=as_of,
        series=kept,
        series_left_off=len(series) - len(kept),
    )


def _fetch(question: TelemetryQuery, selected: Condition | None) -> list[tuple[Any, ...]]:
    statement, parameters = _statement(question, selected)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())
    except OperationalError as error:
        if isinstance(error.__cause__, pg_errors.QueryCanceled):
            raise QueryError("query_timeout", f"no answer within {TIMEOUT_S} s: ask for less") from error
        raise


def _statement(question: TelemetryQuery, selected: Condition | None) -> tuple[str, dict[str, Any]]:
    """Rows of (bucket, label..., value, spread, n_devices, n).

    Only constants of this module and of query sets reach the text.
    """
    source, agg = question.source, question.aggregation
    labels = [f"{_LABELS[source][name]} AS g{i}" for i, name in enumerate(question.group_by)]
    names = [f"g{i}" for i in range(len(labels))]
    bucket = f"date_bin(%(step)s * interval '1 s', {_TIME[source]}, 'epoch'::timestamptz) AS bucket"
    where, parameters = _filters(question)
    if selected is not None:
        where = f"{where} AND {selected.sql}"
        parameters |= selected.parameters
    numerator, denominator = _terms(question)
    chosen = ", ".join([bucket, *labels])
    keys = ", ".join(["bucket", *names])
    if agg == "device_mean":
        inner = (
            f"SELECT {chosen}, w.device_id,"
            f" sum({numerator})::float8 AS num, sum({denominator})::bigint AS den"
            f" FROM {_TABLE[source]} WHERE {where} GROUP BY {keys}, w.device_id"
        )
        return (
            f"SELECT {keys}, avg(num / den), stddev_samp(num / den), count(*), sum(den)::bigint"
            f" FROM ({inner}) per_device WHERE den > 0 GROUP BY {keys} ORDER BY {keys}"
        ), parameters
    devices = "count(DISTINCT w.device_id)" if source == "raw" else "NULL"
    values = {
        "mean": f"sum({numerator})::float8 / nullif(sum({denominator}), 0)",
        "max": f"max({numerator})::float8",
        "sum": f"sum({denominator})::float8",
        "count": f"sum({denominator})::float8",
    }
    return (
        f"SELECT {chosen}, {values[agg]}, NULL, {devices}, sum({denominator})::bigint"
        f" FROM {_TABLE[source]} WHERE {where} GROUP BY {keys} ORDER BY {keys}"
    ), parameters


def _terms(question: TelemetryQuery) -> tuple[str, str]:
    """SQL of what is summed above and below the line."""
    if question.metric == "accuracy":
        return "w.lab_ok", "w.lab_n"
    if question.metric == "anomaly_rate":
        return "w.anom_n", "w.n"
    if question.metric == "latency_us":
        return ("w.us_max" if question.aggregation == "max" else _US_SUM[question.source]), "w.n"
    return "w.n", "w.n"


def _filters(question: TelemetryQuery) -> tuple[str, dict[str, Any]]:
    labels = _LABELS[question.source]
    time = _TIME[question.source]
    where = [f"{time} >= %(start)s", f"{time} < %(end)s"]
    parameters: dict[str, Any] = {"start": question.start, "end": question.end, "step": question.step_s}
    for name, values in (
        ("model", question.models),
        ("version", question.versions),
        ("digest", question.digests),
        ("device_class", question.device_classes),
        ("device", question.devices),
    ):
        if values:
            where.append(f"{labels[name]} = ANY(%({name})s)")
            parameters[name] = list(values)
    return " AND ".join(where), parameters


def _points(
    question: TelemetryQuery, found: Mapping[datetime, tuple[Any, ...]], as_of: datetime
) -> list[Point]:
    points = []
    step = timedelta(seconds=question.step_s)
    for start in question.buckets():
        value, spread, n_devices, n = found.get(start.astimezone(UTC), (None, None, 0, 0))
        is_partial = start + step > as_of
        if not n:
            points.append(Point(start, None, None, None, n_devices, 0, is_partial))
            continue
        half = t_half_width(spread, n_devices) if spread is not None else None
        lower = value - half if half is not None else None
        upper = value + half if half is not None else None
        if METRICS[question.metric].unit == "ratio" and lower is not None and upper is not None:
            lower, upper = max(0.0, lower), min(1.0, upper)
        points.append(Point(start, value, lower, upper, n_devices, int(n), is_partial))
    return points
