"""What model runs did on devices, several of them at once: accuracy of each kind, anomalies, latency.

The device is the unit, as in `comparison`: each device has one share over the range, a figure is the mean of
those, and its interval is Student's over devices. Three kinds of accuracy stand side by side and are never
added (rollouts.md 10.5). Two statements, however many runs.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from fleet.telemetry import percentiles
from fleet.telemetry.catalogue import MEASURED, TelemetryQuery
from fleet.telemetry.intervals import t_half_width
from fleet.telemetry.rows import rows_of

DAYS: Final = 7
"""Whole UTC days that a figure is over, the present one included."""
PERCENTS: Final = (50, 95, 99)
KINDS: Final = MEASURED
_SHARES: Final = (*KINDS, "anomaly_rate")
_ONE_STEP_S: Final = 86_400 * 36_500
"""A step so long that a range is one bucket."""
# Sums of a bigint are numeric, which costs a long number's arithmetic for each row of each device; as float8
# they are as exact up to 2^53. A run has one number here under however many names devices gave its digest.
_STATEMENT: Final = """
SELECT (SELECT mid FROM tele_version WHERE id = x.run),
    avg(golden), stddev_samp(golden), count(golden), coalesce(sum(golden_n), 0),
    avg(delayed), stddev_samp(delayed), count(delayed), coalesce(sum(delayed_n), 0),
    avg(proxy), stddev_samp(proxy), count(proxy), coalesce(sum(lab_n), 0),
    avg(anomalous), stddev_samp(anomalous), count(anomalous), coalesce(sum(n), 0)
FROM (
    SELECT v.run, sum(w.n::float8) AS n, sum(w.golden_n::float8) AS golden_n,
        sum(w.delayed_n::float8) AS delayed_n, sum(w.lab_n::float8) AS lab_n,
        sum(w.golden_ok::float8) / nullif(sum(w.golden_n::float8), 0) AS golden,
        sum(w.delayed_ok::float8) / nullif(sum(w.delayed_n::float8), 0) AS delayed,
        sum(w.lab_ok::float8) / nullif(sum(w.lab_n::float8), 0) AS proxy,
        sum(w.anom_n::float8) / nullif(sum(w.n::float8), 0) AS anomalous
    FROM tele_device_day w
    JOIN (
        SELECT id, min(id) OVER (PARTITION BY mid) AS run FROM tele_version WHERE mid = ANY(%(mids)s)
    ) v ON v.id = w.version_id
    WHERE w.day >= %(start)s AND w.day < %(end)s
    GROUP BY v.run, w.device_id
) x GROUP BY x.run
"""


@dataclass(frozen=True)
class Figure:
    """A share in [0, 1] as a mean over devices. lower, upper: 95 % interval, None below two devices.
    n: what was counted: vectors, labels or inferences.
    """

    value: float
    lower: float | None
    upper: float | None
    n_devices: int
    n: int


@dataclass(frozen=True)
class FieldFigures:
    """One run. accuracy: kind to figure; a kind that nothing was counted of is absent. latency_us:
    `p50`, `p95`, `p99` of all inferences from histograms, empty without any; latency_n: inferences in them.
    """

    accuracy: dict[str, Figure] = field(default_factory=dict)
    anomaly_rate: Figure | None = None
    latency_us: dict[str, float] = field(default_factory=dict)
    latency_n: int = 0


def span(now: datetime) -> tuple[datetime, datetime]:
    """[start, end) of what figures are over: DAYS whole UTC days with the present one."""
    today = datetime.combine(now.astimezone(UTC).date(), time.min, UTC)
    return today - timedelta(days=DAYS - 1), today + timedelta(days=1)


def field_figures(mids: Collection[str], *, now: datetime) -> dict[str, FieldFigures]:
    """Figures of model runs by mid (16 hex digits) over `span`; every mid has an answer, empty if it was
    never heard of. Raises QueryError `query_timeout`.
    """
    wanted = sorted(set(mids))
    if not wanted:
        return {}
    start, end = span(now)
    shares = {
        row[0]: {name: _figure(*row[at : at + 4]) for name, at in zip(_SHARES, range(1, 17, 4), strict=True)}
        for row in rows_of(_STATEMENT, {"mids": wanted, "start": start, "end": end})
    }
    latency = _latency(wanted, start, end, now)
    found = {}
    for mid in wanted:
        known = shares.get(mid, {})
        quantiles, n = latency.get(mid, ({}, 0))
        found[mid] = FieldFigures(
            {kind: figure for kind in KINDS if (figure := known.get(kind)) is not None},
            known.get("anomaly_rate"),
            quantiles,
            n,
        )
    return found


def _figure(mean: float | None, spread: float | None, devices: int, n: Any) -> Figure | None:
    if mean is None:
        return None
    half = t_half_width(spread, devices) if spread is not None else None
    if half is None:
        return Figure(mean, None, None, devices, int(n))
    return Figure(mean, max(0.0, mean - half), min(1.0, mean + half), devices, int(n))


def _latency(
    mids: list[str], start: datetime, end: datetime, now: datetime
) -> dict[str, tuple[dict[str, float], int]]:
    question = TelemetryQuery(
        "latency_us", start, end, _ONE_STEP_S, agg="p50", group_by=("digest",), digests=tuple(mids)
    )
    source = percentiles.choose(question, now=now)
    rows = rows_of(*percentiles.statement(question, source, None))
    found: dict[str, tuple[dict[str, float], int]] = {}
    for percent in PERCENTS:
        for _, mid, value, _, _, n in percentiles.answer(percent, rows):
            if value is not None:
                found.setdefault(mid, ({}, n))[0][f"p{percent}"] = value
    return found
