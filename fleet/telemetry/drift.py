"""Has a distribution moved since the reference? The stability index (`psi.py`) of sketches' histograms.

By model run and device class, over the whole fleet; single devices are judged in `shifts.py`, which also
looks at the input. What may alarm is judged at a third of ALPHA each: the classes, the distances of
embeddings, and the moments of the input. Confidence is told and never alarms: a fault can raise it.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleet.telemetry import histograms
from fleet.telemetry.catalogue import MAX_POINTS, MAX_RANGE, MAX_SERIES
from fleet.telemetry.errors import QueryError
from fleet.telemetry.fields import is_by_device
from fleet.telemetry.histograms import CLASS, CONFIDENCE, DISTANCE, HOUR_S, Counts
from fleet.telemetry.psi import LEAST, MANY, OF, bins_of, psi, psi_limit
from fleet.telemetry.selection import condition
from fleet.telemetry.series import rows_of

NAMES: Final[Mapping[int, str]] = {CLASS: "class", DISTANCE: "distance", CONFIDENCE: "confidence"}
ALARMS: Final = (CLASS, DISTANCE)
Group = tuple[int, str, int]  # version id, device class, metric


@dataclass(frozen=True)
class DriftPoint:
    """One window. value: PSI; limit: what it may be; both None with fewer than LEAST inferences. n: those."""

    t: datetime
    value: float | None
    limit: float | None
    n: int

    @property
    def is_flagged(self) -> bool:
        """Whether the window is over its limit."""
        return self.value is not None and self.limit is not None and self.value > self.limit


@dataclass(frozen=True)
class DriftSeries:
    """One statistic of a model run and device class.

    state: `drift`, `quiet`, `insufficient` (fewer than OF judged windows), `no_reference`, or `shown` for
    confidence, which never alarms. reference_n: inferences in the reference, 0 without one.
    """

    labels: dict[str, str]
    statistic: str
    state: str
    reference_n: int
    points: list[DriftPoint]


@dataclass(frozen=True)
class DriftResult:
    """An answer, as `series.TelemetryResult`."""

    step_s: int
    as_of: datetime
    series: list[DriftSeries]
    source: str = "hour"
    gaps: int | None = None


def answer(*, start: datetime, end: datetime, step_s: int, q: str = "", now: datetime) -> DriftResult:
    """Each statistic by model run and device class in windows of step_s, whole hours, against its reference.

    q: over model, version and digest. Raises QueryError `range_invalid`, `range_too_wide`,
    `step_not_supported`, `too_many_points`, `group_by_not_supported` for a query about devices, and what
    `selection.condition` raises.
    """
    _check(start, end, step_s)
    if q and is_by_device(q):
        raise QueryError("group_by_not_supported", "drift is by model, version and digest, not by device")
    selected = condition(q, now=now) if q else None
    where = f" AND {selected.sql}" if selected else ""
    found = windows(start, end, step_s, where, dict(selected.parameters) if selected else {})
    references = stored_references()
    names = _names({version_id for version_id, _, _ in found})
    series = []
    for group, buckets in sorted(found.items()):
        version_id, device_class, metric = group
        reference = references.get(group)
        points = [_point(at, counts, reference) for at, counts in sorted(buckets.items())]
        labels = {**names[version_id], "device_class": device_class}
        n = int(reference[0].sum()) if reference else 0
        series.append(DriftSeries(labels, NAMES[metric], _state(metric, points, n), n, points))
    if len(series) > MAX_SERIES * len(NAMES):
        raise QueryError("too_many_points", f"{len(series)} series: narrow the query")
    return DriftResult(step_s, min(now, end), series)


def _check(start: datetime, end: datetime, step_s: int) -> None:
    if start.tzinfo is None or end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if start >= end:
        raise QueryError("range_invalid", "from is not before to")
    if end - start > MAX_RANGE:
        raise QueryError("range_too_wide", "at most 13 months")
    if step_s < HOUR_S or step_s % HOUR_S:
        raise QueryError("step_not_supported", "windows of drift are whole hours")
    if start.timestamp() % HOUR_S:
        raise QueryError("range_invalid", "drift begins at a whole hour")
    points = math.ceil((end - start) / timedelta(seconds=step_s))
    if points > MAX_POINTS:
        least = math.ceil((end - start).total_seconds() / MAX_POINTS / HOUR_S) * HOUR_S
        raise QueryError("too_many_points", f"{points:,} windows: step {least} s fits", least_step_s=least)


def _point(at: datetime, counts: Counts, reference: tuple[Counts, float] | None) -> DriftPoint:
    n = int(counts.sum())
    if reference is None or n < LEAST:
        return DriftPoint(at, None, None, n)
    base, factor = reference
    bins = bins_of(base, counts)
    limit = psi_limit(bins, int(base.sum()), n) * factor
    return DriftPoint(at, psi(base[:bins], counts[:bins]), limit, n)


def _state(metric: int, points: Sequence[DriftPoint], reference_n: int) -> str:
    if not reference_n:
        return "no_reference"
    if metric not in ALARMS:
        return "shown"
    judged = [point for point in points if point.value is not None][-OF:]
    if sum(point.is_flagged for point in judged) >= MANY:
        return "drift"
    return "quiet" if len(judged) == OF else "insufficient"


def windows(
    start: datetime, end: datetime, step_s: int, where: str, parameters: dict[str, Any]
) -> dict[Group, dict[datetime, Counts]]:
    """Histograms by group and window. where: further SQL about `w`. One statement, as for percentiles."""
    asked = {"start": start, "end": end, "step": step_s, "metrics": list(NAMES), **parameters}
    bucket = "date_bin(%(step)s * interval '1 s', {at}, %(start)s) AS bucket"
    named = "w.version_id, w.device_class, w.metric"
    within = "w.metric = ANY(%(metrics)s) AND {at} >= %(start)s AND {at} < %(end)s"
    rows = rows_of(
        f"SELECT {bucket.format(at='w.start')}, {named}, w.first_bin, w.counts, w.n::numeric FROM tele_hist w"
        f" WHERE w.span_s = {HOUR_S} AND {within.format(at='w.start')}{where}"
        f" UNION ALL (SELECT {bucket.format(at='w.hour')}, {named}, w.bin, NULL, sum(w.n)"
        f" FROM tele_hist_live w WHERE {within.format(at='w.hour')}{where} GROUP BY bucket, {named}, w.bin)",
        asked,
    )
    found: dict[Group, dict[datetime, Counts]] = defaultdict(dict)
    for at, version_id, device_class, metric, number, packed, n in rows:
        buckets = found[version_id, device_class, metric]
        counts = buckets.setdefault(at.astimezone(UTC), histograms.empty(metric))
        if packed is None:
            counts[number] += int(n)
        else:
            histograms.add_packed(counts, number, packed)
    return found


def stored_references() -> dict[Group, tuple[Counts, float]]:
    """The reference of each group and its inflation (`baselines.py`)."""
    found = {}
    for version_id, device_class, metric, first_bin, data, factor in rows_of(
        "SELECT version_id, device_class, metric, first_bin, counts, inflation FROM tele_baseline", {}
    ):
        counts = histograms.empty(metric)
        histograms.add_packed(counts, first_bin, data)
        found[version_id, device_class, metric] = (counts, factor)
    return found


def _names(version_ids: set[int]) -> dict[int, dict[str, str]]:
    rows = rows_of(
        "SELECT id, model, version, mid FROM tele_version WHERE id = ANY(%(ids)s)", {"ids": list(version_ids)}
    )
    return {number: {"model": model, "version": label, "digest": mid} for number, model, label, mid in rows}
