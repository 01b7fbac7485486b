"""Answer a checked query: from the rollup that can, from raw rows where none can."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet.telemetry import catalogue, cohorts, estimates, gap_times, percentiles, sources, statements
from fleet.telemetry.catalogue import MAX_SERIES, METRICS, TelemetryQuery
from fleet.telemetry.errors import QueryError
from fleet.telemetry.intervals import t_half_width
from fleet.telemetry.rows import rows_of as rows_of
from fleet.telemetry.selection import Condition, condition
from fleet.telemetry.sources import Source


@dataclass(frozen=True)
class Point:
    """One bucket.

    t: its start. value: None when n is 0, and in a series with a reason. lower, upper: 95 % t interval over
    devices, None when there is none; of estimates: `estimates.answer`. n_devices: None where the rollup
    cannot tell. n: samples. partial: data may still arrive."""

    t: datetime
    value: float | None
    lower: float | None
    upper: float | None
    n_devices: int | None
    n: int
    partial: bool


@dataclass(frozen=True)
class Series:
    """Points of one group. labels: group_by field to value. Every bucket of the range has a point.

    reason: why an estimate has no values (`estimates.py`), "" when it has.
    """

    labels: dict[str, str]
    points: list[Point]
    reason: str = ""

    @property
    def n(self) -> int:
        """Samples in all."""
        return sum(point.n for point in self.points)


@dataclass(frozen=True)
class TelemetryResult:
    """An answer. source: `day`, `hour`, `minute` or `raw`. as_of: up to when data can be complete. gaps: open
    and lost telemetry gaps that touch the range and whose devices count (`gap_times.touching`). calibrations:
    the lines behind estimates, each with what it was fitted from.
    """

    metric: str
    kind: str
    agg: str
    unit: str
    source: str
    step_s: int
    as_of: datetime
    series: list[Series] = field(default_factory=list)
    series_left_off: int = 0
    gaps: int = 0
    calibrations: list[dict[str, Any]] = field(default_factory=list)


def query(question: TelemetryQuery, *, now: datetime) -> TelemetryResult:
    """Answer a telemetry query. Raises QueryError with the codes of rest-api.md, and for `q` what
    `fleet.telemetry.selection.condition` raises; never a partial answer.
    """
    narrowing = cohorts.narrowing(question)
    selected = condition(question.q, *narrowing, now=now) if question.q or narrowing else None
    catalogue.check(question)
    choose = percentiles.choose if question.is_of_bins else sources.choose
    asked = estimates.of_confidence(question) if question.is_estimate else question
    bound = dict(selected.parameters) if selected else {}
    source = cohorts.joined(choose(asked, now=now), question, bound, now=now)
    source = replace(source, parameters={**source.parameters, **bound})
    guessed = None
    if question.is_estimate:
        beside = selected.parameters if selected else {}
        guessed = estimates.answer(question, source, selected, beside, now=now)
    rows = guessed.rows if guessed else _fetch(question, source, selected)
    reasons = guessed.reasons if guessed else {}
    groups: dict[tuple[str, ...], dict[datetime, tuple[Any, ...]]] = {}
    width = len(question.label_names)
    for row in rows:
        labels = tuple("" if label is None else str(label) for label in row[1 : 1 + width])
        groups.setdefault(labels, {})[row[0].astimezone(UTC)] = row[1 + width :]
    as_of = min(now, question.end)
    series = [
        Series(
            dict(zip(question.label_names, labels, strict=True)),
            _points(question, found, as_of),
            reasons.get(labels, ""),
        )
        for labels, found in sorted(groups.items())
    ]
    kept = series
    if question.limit is not None and len(series) > question.limit:
        kept = sorted(series, key=lambda one: -_weight(question, one))[: question.limit]
    if len(kept) > MAX_SERIES:
        raise QueryError("too_many_points", f"{len(kept)} series, at most {MAX_SERIES}: filter, or set limit")
    metric = METRICS[question.metric]
    return TelemetryResult(
        metric=metric.name,
        kind=question.kind,
        agg=question.aggregation,
        unit="1" if question.aggregation == "count" else metric.unit,
        source=source.name,
        step_s=question.step_s,
        as_of=as_of,
        series=kept,
        series_left_off=len(series) - len(kept),
        gaps=_gaps(question, selected),
        calibrations=guessed.used if guessed else [],
    )


def _weight(question: TelemetryQuery, one: Series) -> float:
    """By what a limit keeps series: samples, those of the class where each class has a series."""
    if question.metric != "class_mix":
        return one.n
    is_share = question.aggregation == "mean"
    return sum((point.value or 0) * (point.n if is_share else 1) for point in one.points)


def _gaps(question: TelemetryQuery, selected: Condition | None) -> int:
    scope, parameters = statements.scope_of(question, sources.DEVICE_DAYS.labels, selected)
    return gap_times.touching(question.start, question.end, where=" AND ".join(scope), parameters=parameters)


def _fetch(question: TelemetryQuery, source: Source, selected: Condition | None) -> list[tuple[Any, ...]]:
    if not question.is_of_bins:
        return rows_of(*statements.statement(question, source, selected))
    rows = rows_of(*percentiles.statement(question, source, selected))
    if question.percentile is not None:
        return percentiles.answer(question.percentile, rows)
    return percentiles.mix(rows, is_share=question.aggregation == "mean")


def _points(
    question: TelemetryQuery, found: Mapping[datetime, tuple[Any, ...]], as_of: datetime
) -> list[Point]:
    points = []
    step = timedelta(seconds=question.step_s)
    for start in question.buckets():
        value, spread, n_devices, n = found.get(start.astimezone(UTC), (None, None, 0, 0))
        is_partial = start + step > as_of
        if not n or value is None:
            points.append(Point(start, None, None, None, n_devices, int(n or 0), is_partial))
            continue
        half = spread if question.is_estimate or spread is None else t_half_width(spread, n_devices)
        lower = value - half if half is not None else None
        upper = value + half if half is not None else None
        if METRICS[question.metric].unit == "ratio" and lower is not None and upper is not None:
            value, lower, upper = (min(1.0, max(0.0, one)) for one in (value, lower, upper))
        points.append(Point(start, value, lower, upper, n_devices, int(n), is_partial))
    return points
