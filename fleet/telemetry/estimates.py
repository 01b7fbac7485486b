"""Accuracy of kind `estimate`: mean confidence through the line of its model run and device class.

An early hint without labels, and blind to faults: an offset of the sensor took accuracy from .81 to .31 while
mean confidence rose from .88 to .92. So a series has values only when every run and class in it has a line
(`calibrations.py`) and drift was quiet over the whole range. Otherwise all its values are None and it says
why:

    uncalibrated   a run on a class that it counts has no reference of drift yet, or too few labels in it
    drift_unknown  no sketch of it was judged in the range by a reference of its own, or the range or the
                   day before it reaches back to where retention takes what was judged (90 days)
    drift_active   more devices drift than clean ones do, for certain

Drift is that of single devices (`judging.py`), against the run's reference and not against each other: MANY
flagged sketches of the last OF, as the alert rule sees it, somewhere in the range or when it began. Its share
of the judged devices counts by its lower bound (Wilson, 99 %) against CLEAN_RATE, as in the alert of a part
of the fleet; of five devices one is enough. The newest three quarters of an hour are not judged yet: what
began then is not known to anybody.

Gates do not read this, nor does anything add it to what was measured.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from fleet.telemetry import calibrations, cohorts, partitions, sources, statements
from fleet.telemetry.calibration_models import Calibration
from fleet.telemetry.catalogue import TelemetryQuery
from fleet.telemetry.intervals import share_at_least
from fleet.telemetry.lines import Line
from fleet.telemetry.models import Version
from fleet.telemetry.psi import CLEAN_RATE, MANY, OF
from fleet.telemetry.rows import rows_of
from fleet.telemetry.selection import Condition
from fleet.telemetry.sources import Source

UNCALIBRATED, DRIFT_UNKNOWN, DRIFT_ACTIVE = "uncalibrated", "drift_unknown", "drift_active"
BACK: Final = timedelta(days=1)
"""How far before the range a device's state at its start is looked for."""
_RUN, _CLASS = "run", "class of run"
Labels = tuple[str, ...]


@dataclass(frozen=True)
class Estimates:
    """rows: (bucket, label..., value, half of the interval, devices, inferences), value None where the series
    has a reason. reasons: by the labels of a series, absent where it has values. used: the lines.
    """

    rows: list[tuple[Any, ...]]
    reasons: dict[Labels, str]
    used: list[dict[str, Any]]


@dataclass(frozen=True)
class _Part:
    """What one run and class has in a bucket. spread: of its devices' confidence, None where unknown."""

    key: tuple[int, str]
    confidence: float
    spread: float | None
    devices: int | None
    n: int


def of_confidence(question: TelemetryQuery) -> TelemetryQuery:
    """The question about confidence that a question about estimates rests on."""
    return replace(question, metric="confidence", kind="", agg=question.aggregation)


def answer(
    question: TelemetryQuery, source: Source, selected: Condition | None, bound: Mapping[str, Any],
    *, now: datetime,
) -> Estimates:  # fmt: skip
    """Estimates from a source of confidence. bound: parameters of `selected`. Raises QueryError
    `query_timeout`.
    """
    width = len(question.group_by)
    asked = replace(of_confidence(question), group_by=(*question.group_by, _RUN, _CLASS))
    labels = {**source.labels, _RUN: "w.version_id", _CLASS: source.labels["device_class"]}
    found: dict[tuple[datetime, Labels], list[_Part]] = defaultdict(list)
    for row in rows_of(*statements.statement(asked, replace(source, labels=labels), selected)):
        bucket, *names, run, device_class, confidence, spread, devices, n = row
        if n:
            key = (run, "" if device_class is None else str(device_class))
            found[bucket, _texts(names)].append(_Part(key, confidence, spread, devices, int(n)))
    known = calibrations.lines(part.key for parts in found.values() for part in parts)
    reasons = {
        one: UNCALIBRATED for (_, one), parts in found.items() if any(part.key not in known for part in parts)
    }
    hopeful = {one for _, one in found} - set(reasons)
    if hopeful:
        judged = _drift(question, selected, bound, now=now)
        kept_from = now - timedelta(days=partitions.TABLES["tele_drift"].keep_days)
        is_kept = partitions.day_of(question.start - BACK) >= partitions.day_of(kept_from)
        for one in hopeful:
            devices, drifting = judged.get(one, (0, 0))
            if devices and share_at_least(drifting, max(drifting, devices)) > CLEAN_RATE:
                reasons[one] = DRIFT_ACTIVE
            elif not devices or not is_kept:
                reasons[one] = DRIFT_UNKNOWN
    lines = {key: line for key, (line, _) in known.items()}
    rows = []
    for (bucket, one), parts in sorted(found.items()):
        value = half = None
        if one not in reasons:
            value, half = _together(parts, lines, question.aggregation == "device_mean")
        counted = [part.devices for part in parts if part.devices is not None]
        devices = sum(counted) if counted else None
        rows.append((bucket, *one[:width], value, half, devices, sum(part.n for part in parts)))
    return Estimates(rows, reasons, _told(row for _, row in known.values()))


def _together(
    parts: Sequence[_Part], lines: Mapping[tuple[int, str], Line], is_of_devices: bool
) -> tuple[float, float]:
    """(estimate, half of its 95 % interval) of the runs and classes of a bucket.

    Of devices: the interval is over devices, of which each lies around its line as those did that it was
    fitted over. Pooled: it is of the lines alone, because the devices behind a rollup are not known.
    """
    weights = [float(part.devices or 0) if is_of_devices else float(part.n) for part in parts]
    total = sum(weights)
    values = [lines[part.key].at(part.confidence) for part in parts]
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
    variance = 0.0
    for part, weight, value in zip(parts, weights, values, strict=True):
        line, share = lines[part.key], weight / total
        variance += share**2 * line.variance(part.confidence)
        if is_of_devices:
            spread = (line.slope * (part.spread or 0.0)) ** 2 + (value - mean) ** 2 + line.residual**2
            variance += share * spread / total
    quantile = max(lines[part.key].quantile for part in parts)
    return mean, quantile * math.sqrt(variance)


def _drift(
    question: TelemetryQuery, selected: Condition | None, bound: Mapping[str, Any], *, now: datetime
) -> dict[Labels, tuple[int, int]]:
    """Devices that were judged in the range, and those that drifted in it or when it began, by the labels of
    a series; the latter may not have been judged since.
    """
    parameters = dict(bound)
    source = cohorts.joined(sources.JUDGED, question, parameters, now=now)
    source = replace(source, parameters=parameters)
    names = [f"g{i}" for i in range(len(question.group_by))]
    chosen = "".join(f"{source.labels[name]} AS g{i}, " for i, name in enumerate(question.group_by))
    keys = "".join(f"{name}, " for name in names)
    scope, values = statements.scope_of(question, source.labels, selected)
    where = " AND ".join([f"{source.time} < %(end)s", *source.where, *scope])
    own = "x.device_id = f.device_id AND x.version_id = f.version_id AND x.reference <> 'peers'"
    same = "".join(f" AND j.{name} IS NOT DISTINCT FROM s.{name}" for name in names)
    rows = rows_of(
        f"""
        WITH judged AS (
            SELECT {keys}count(*) AS n FROM (
                SELECT DISTINCT {chosen}w.device_id FROM {source.table}
                WHERE {where} AND {source.time} >= %(start)s
            ) x {f"GROUP BY {keys.rstrip(', ')}" if names else ""}
        ), flagged AS (
            SELECT {chosen}w.device_id, w.version_id FROM {source.table}
            WHERE {where} AND {source.time} >= %(before)s AND w.worst > 1
            GROUP BY {keys}w.device_id, w.version_id HAVING count(*) >= {MANY}
        ), drifting AS (
            SELECT {keys}count(DISTINCT f.device_id) AS n FROM flagged f WHERE EXISTS (
                SELECT 1 FROM (
                    SELECT lead(x.ts) OVER w AS following,
                        count(*) FILTER (WHERE x.worst > 1) OVER (w ROWS {OF - 1} PRECEDING) AS flagged
                    FROM tele_drift x WHERE {own} AND x.ts >= %(before)s AND x.ts < %(end)s
                    WINDOW w AS (ORDER BY x.ts, x.seq)
                ) s WHERE s.flagged >= {MANY} AND (s.following IS NULL OR s.following >= %(start)s)
            ) {f"GROUP BY {keys.rstrip(', ')}" if names else ""}
        )
        SELECT {"".join(f"j.{name}, " for name in names)}j.n, coalesce(s.n, 0)
        FROM judged j LEFT JOIN drifting s ON true{same}
        """,
        {
            **source.parameters,
            **values,
            "start": question.start,
            "before": question.start - BACK,
            "end": question.end,
        },
    )
    return {_texts(row[:-2]): (int(row[-2]), int(row[-1])) for row in rows}


def _texts(labels: Iterable[Any]) -> Labels:
    return tuple("" if label is None else str(label) for label in labels)


def _told(rows: Iterable[Calibration]) -> list[dict[str, Any]]:
    """The lines of an answer, as it tells them."""
    kept = sorted(rows, key=lambda row: (row.version_id, row.device_class))
    runs = Version.objects.in_bulk({row.version_id for row in kept})
    return [
        {
            "model": runs[row.version_id].model, "version": runs[row.version_id].version,
            "digest": runs[row.version_id].mid, "device_class": row.device_class, "kind": row.kind,
            "labels": row.n, "devices": row.devices, "from": row.started_at, "to": row.ended_at,
            "made_at": row.made_at,
        }
        for row in kept
    ]  # fmt: skip
