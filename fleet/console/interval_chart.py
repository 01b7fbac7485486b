"""Two values with their intervals on one axis, and how they differ, in words and as SVG geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.console import charts
from fleet.console.charts import Tick

ROW = 46


@dataclass(frozen=True)
class Whisker:
    """One value with its interval. x, low, high: percent from the left; low, high None without an interval.
    y: pixels.
    """

    name: str
    css: str
    dash: str
    text: str
    x: float
    low: float | None
    high: float | None
    y: int


@dataclass(frozen=True)
class IntervalChart:
    """A drawn comparison. title: a sentence that says what it shows."""

    title: str
    whiskers: list[Whisker]
    xs: list[Tick]

    @property
    def height(self) -> int:
        """Pixels of the plotting area."""
        return ROW * len(self.whiskers)

    @property
    def label_y(self) -> int:
        """Where the labels of the axis stand."""
        return self.height + 20


@dataclass(frozen=True)
class Value:
    """What is drawn: None without any measurement."""

    name: str
    value: float | None
    lower: float | None
    upper: float | None


def intervals(title: str, values: Sequence[Value], *, unit: str) -> IntervalChart:
    """Values under one another; those that are None are left out. unit: as of `charts.time_chart`."""
    known = [one for one in values if one.value is not None]
    numbers = [n for one in known for n in (one.value, one.lower, one.upper) if n is not None]
    bounds = (0.0, 1.0) if unit == "ratio" else (0.0, None)
    low, high, step = charts.axis(numbers, floor=bounds[0], ceiling=bounds[1])

    def x(value: float) -> float:
        return round(100.0 * (value - low) / (high - low), 2)

    whiskers = [
        Whisker(
            one.name,
            f"c{n + 1}",
            charts.DASHES[n],
            said(one.value, one.lower, one.upper, unit),
            x(one.value or 0.0),
            None if one.lower is None else x(one.lower),
            None if one.upper is None else x(one.upper),
            ROW * n + ROW // 2,
        )
        for n, one in enumerate(known)
    ]
    xs = [Tick(x(mark), charts.amount(mark, unit, step)) for mark in charts.marks(low, high, step)]
    return IntervalChart(title, whiskers, xs if known else [])


def said(value: float | None, lower: float | None, upper: float | None, unit: str) -> str:
    """A value with its interval: `86.1 % (84.8 to 87.4)`."""
    if value is None:
        return "nothing measured"
    step = 0.001 if unit == "ratio" else _step(value)
    text = charts.amount(value, unit, step)
    if lower is None or upper is None:
        return f"{text} (no interval)"
    low, high = charts.amount(lower, unit, step), charts.amount(upper, unit, step)
    return f"{text} ({low.rpartition(' ')[0]} to {high.rpartition(' ')[0]})"


def difference(value: float, lower: float | None, upper: float | None, unit: str) -> str:
    """How far a is from b, for a sentence that begins with A: whether for certain, and within what."""
    word, sign = ("higher", 1.0) if value >= 0 else ("lower", -1.0)
    size = _plain(abs(value), unit)
    if lower is None or upper is None:
        return f"{size} {word} than B; one device on a side has no interval"
    if lower <= 0 <= upper:
        span = f"from {_plain(-lower, unit)} lower to {_plain(upper, unit)} higher"
        return f"{size} {word} than B, which may be chance: the 95 % interval goes {span}"
    ends = sorted((lower * sign, upper * sign))
    first = _plain(ends[0], unit).rpartition(" ")[0]
    return f"{size} {word} than B for certain (95 %: {first} to {_plain(ends[1], unit)})"


def _plain(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value * 100:.1f} points"
    return charts.amount(value, unit, _step(value))


def _step(value: float) -> float:
    """Of microseconds: how exactly they are worth printing."""
    return 10.0 if abs(value) < 10_000 else 100.0
