"""Has a distribution moved since the reference? Population stability index of sketches' histograms.

    PSI = sum (p - q) ln(p / q), both sides with 0.5 added to every bin.

With no change PSI is about chi2(B - 1) (1 / n_ref + 1 / n_win) for B bins, so the limit follows from how much
was seen, instead of the usual 0.1 and 0.25. Windows that follow each other are alike, which makes clean ones
move more than that: the limit is multiplied by the median inflation of the reference's own windows. What may
alarm is judged at a third of ALPHA each: the classes and the distances of embeddings (moments of the input,
the third, are not judged here yet). Confidence is told and never alarms: a fault can raise it.

Sources: B. Yurdakul and J. Naranjo, Statistical properties of the population stability index, Journal of Risk
Model Validation 14 (2020); E. B. Wilson and M. M. Hilferty, PNAS 17 (1931), for the quantile of chi2.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from fleet.telemetry import histograms
from fleet.telemetry.catalogue import MAX_POINTS, MAX_RANGE, MAX_SERIES
from fleet.telemetry.errors import QueryError
from fleet.telemetry.fields import is_by_device
from fleet.telemetry.histograms import CLASS, CONFIDENCE, DISTANCE, HOUR_S, Counts
from fleet.telemetry.selection import condition
from fleet.telemetry.series import rows_of

ALPHA: Final = 0.001
LEAST: Final = 200
"""Inferences that a window needs to be judged."""
OF, MANY = 5, 3
"""Drift is MANY flagged windows among the last OF that were judged."""
NAMES: Final[Mapping[int, str]] = {CLASS: "class", DISTANCE: "distance", CONFIDENCE: "confidence"}
ALARMS: Final = (CLASS, DISTANCE)
Group = tuple[int, str, int]  # version id, device class, metric


def psi(reference: Counts, seen: Counts) -> float:
    """Population stability index of two histograms of the same bins; 0 when they are alike."""
    p, q = (
        (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
        for counts in (np.asarray(reference), np.asarray(seen))
    )
    return float(((p - q) * np.log(p / q)).sum())


def chi2_quantile(probability: float, df: int) -> float:
    """Quantile of chi2 with df >= 1 degrees of freedom; within 4 % in the upper half, from df 5 on 1 %."""
    part = 2 / (9 * df)
    return float(df * max(0.0, 1 - part + NormalDist().inv_cdf(probability) * math.sqrt(part)) ** 3)


def psi_limit(bins: int, n_reference: int, n_seen: int, *, alpha: float = ALPHA / 3) -> float:
    """PSI that a share alpha of windows exceeds although nothing changed. bins: at least 2."""
    return chi2_quantile(1 - alpha, bins - 1) * (1 / n_reference + 1 / n_seen)


def inflation(reference: Counts, windows: Sequence[Counts]) -> float:
    """How much more the reference's own windows move than chance alone makes them: median, at least 1."""
    ratios = []
    for one in windows:
        n = int(one.sum())
        if n >= LEAST:
            bins = bins_of(reference, one)
            expected = chi2_quantile(0.5, bins - 1) * (1 / int(reference.sum()) + 1 / n)
            ratios.append(psi(reference[:bins], one[:bins]) / expected)
    return max(1.0, float(np.median(ratios))) if ratios else 1.0


def bins_of(*found: Counts) -> int:
    """Bins up to the last one that any of the histograms uses, at least 2."""
    used = [int(np.flatnonzero(counts)[-1]) for counts in found if counts.any()]
    return max(2, *(last + 1 for last in used)) if used else 2


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
