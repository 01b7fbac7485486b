"""Two cohorts side by side: the waves of a rollout and its control, or any two selections.

The device is the unit, as for gates: each device has one mean over the range, an arm is the mean of those,
and intervals are Student's over devices. A gate asks `outcomes.device_outcomes` for the same means, over each
device's own span of exposure, and stops at any time; what is here looks once, at one range for everybody.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from fleet.telemetry import catalogue, cohorts, gap_times, sources, statements
from fleet.telemetry.catalogue import METRICS, TelemetryQuery
from fleet.telemetry.errors import QueryError
from fleet.telemetry.intervals import t_half_width, welch_half_width
from fleet.telemetry.rows import rows_of
from fleet.telemetry.selection import condition


@dataclass(frozen=True)
class Arm:
    """Devices of one side. value: mean of their means, None without any. lower, upper: 95 % interval, None
    below two devices. n: samples.
    """

    n_devices: int
    n: int
    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Difference:
    """a - b with its 95 % interval, None below two devices. n_devices: those that it is over."""

    value: float
    lower: float | None
    upper: float | None
    n_devices: int


@dataclass(frozen=True)
class Comparison:
    """An answer. source, as_of, gaps: as in `series.TelemetryResult`.

    difference: of the arms as if they were different devices (Welch). paired: over the devices that are in
    both, each against itself; None when there are none. Where `paired` is over most devices it is the one to
    read: the same device before and after resembles itself.
    """

    metric: str
    kind: str
    unit: str
    source: str
    start: datetime
    end: datetime
    as_of: datetime
    a: Arm
    b: Arm
    difference: Difference | None
    paired: Difference | None
    gaps: int


def compare(
    metric: str,
    start: datetime,
    end: datetime,
    *,
    now: datetime,
    kind: str = "",
    rollout: UUID | None = None,
    a: str = "",
    b: str = "",
    q: str = "",
) -> Comparison:
    """Two arms over [start, end): the windows that the queries `a` and `b` select, of those that `q` selects.

    rollout: arm a is the devices that were drawn for its waves, b its control, each narrowed by `a` and `b`;
    what an arm's devices ran before they were offered anything counts too, unless `a` names the version.
    Whole UTC days reach 13 months back, any other range as far as raw rows. Raises QueryError
    `arms_required`, `agg_not_supported` for a metric without means of devices, what `series.query` raises.
    """
    if rollout is None and not (a and b):
        raise QueryError("arms_required", "name a rollout, or what both arms are: a and b")
    asked = TelemetryQuery(metric, start, end, sources.DAY_S, kind=kind, agg="device_mean", q=q)
    catalogue.check(asked)
    if asked.is_estimate:
        raise QueryError("unknown_kind", "an estimate is no measurement: arms are compared by labels")
    source = sources.choose(asked, now=now)
    scope = condition(q, now=now)
    parameters: dict[str, Any] = dict(scope.parameters)
    sides = []
    for text, is_control in ((a, False), (b, True)):
        found = condition(text, now=now, beside=parameters)
        parameters = dict(found.parameters)
        drawn = "true"
        if rollout is not None:
            drawn = cohorts.arm_condition(rollout, is_control=is_control, parameters=parameters)
        sides.append(f"({found.sql} AND {drawn})")
    (row,) = rows_of(
        _statement(asked, source, scope.sql, sides),
        {**parameters, **source.parameters, "start": start, "end": end},
    )
    is_ratio = METRICS[metric].unit == "ratio"
    arms = [_arm(*row[at : at + 4], is_ratio=is_ratio) for at in (0, 4)]
    return Comparison(
        metric=metric,
        kind=kind,
        unit=METRICS[metric].unit,
        source=source.name,
        start=start,
        end=end,
        as_of=min(now, end),
        a=arms[0],
        b=arms[1],
        difference=_difference(row),
        paired=_paired(*row[8:11]),
        gaps=gap_times.touching(
            start, end, where=f"{scope.sql} AND ({sides[0]} OR {sides[1]})", parameters=parameters
        ),
    )


def _statement(asked: TelemetryQuery, source: sources.Source, scope: str, sides: list[str]) -> str:
    """One row: mean, spread, devices and samples of a, then of b, then mean, spread and devices of a - b."""
    above, below = statements.terms(asked, source)
    sums = ", ".join(
        f"sum({sql}) FILTER (WHERE {side})::float8 AS {name}"
        for name, sql, side in (
            ("an", above, sides[0]),
            ("ad", below, sides[0]),
            ("bn", above, sides[1]),
            ("bd", below, sides[1]),
        )
    )
    where = " AND ".join(
        [f"{source.time} >= %(start)s", f"{source.time} < %(end)s", *source.where, scope,
         f"({sides[0]} OR {sides[1]})"]
    )  # fmt: skip
    return (
        "SELECT avg(a), stddev_samp(a), count(a), coalesce(sum(ad), 0),"
        " avg(b), stddev_samp(b), count(b), coalesce(sum(bd), 0),"
        " avg(a - b), stddev_samp(a - b), count(a - b)"
        " FROM (SELECT an / nullif(ad, 0) AS a, ad, bn / nullif(bd, 0) AS b, bd"
        f" FROM (SELECT {sums} FROM {source.table} WHERE {where} GROUP BY w.device_id) x) y"
    )


def _arm(mean: float | None, spread: float | None, devices: int, n: float, *, is_ratio: bool) -> Arm:
    half = t_half_width(spread, devices) if spread is not None else None
    if mean is None or half is None:
        return Arm(devices, int(n), mean, None, None)
    lower, upper = mean - half, mean + half
    return Arm(
        devices,
        int(n),
        mean,
        max(0.0, lower) if is_ratio else lower,
        min(1.0, upper) if is_ratio else upper,
    )


def _difference(row: tuple[Any, ...]) -> Difference | None:
    mean_a, spread_a, n_a, _, mean_b, spread_b, n_b = row[:7]
    if mean_a is None or mean_b is None:
        return None
    half = welch_half_width(spread_a or 0.0, n_a, spread_b or 0.0, n_b)
    return _around(mean_a - mean_b, half, n_a + n_b)


def _paired(mean: float | None, spread: float | None, n: int) -> Difference | None:
    if mean is None:
        return None
    return _around(mean, t_half_width(spread, n) if spread is not None else None, n)


def _around(value: float, half: float | None, n: int) -> Difference:
    if half is None:
        return Difference(value, None, None, n)
    return Difference(value, value - half, value + half, n)
