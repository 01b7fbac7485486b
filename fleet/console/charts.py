"""Geometry of bars and charts. Everything becomes SVG attributes, since no inline style is allowed.

Positions are percentages of the drawing, so a chart is right at every width and its text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Scale = Callable[[datetime], float]
Height = Callable[[float], float]
MAX_POINTS = 600
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
LEAST_LABELLED = 5.0


@dataclass(frozen=True)
class Segment:
    """A part of a bar. x, width: percent of the bar. text: the number printed on it, "" where it would not
    fit.
    """

    label: str
    count: int
    css: str
    x: float
    width: float
    text: str
    url: str = ""

    @property
    def middle(self) -> float:
        """Where its number stands, percent."""
        return self.x + self.width / 2


def bar(parts: Iterable[tuple[str, int, str, str]], total: int) -> list[Segment]:
    """Segments of a bar from (label, count, css class, url); parts of zero are left out.

    total: what the whole bar means; less than the sum counts as the sum. The rest of the bar stays empty.
    """
    shown = [part for part in parts if part[1] > 0]
    whole = max(total, sum(part[1] for part in shown), 1)
    segments, at = [], 0.0
    for label, count, css, url in shown:
        width = 100.0 * count / whole
        text = str(count) if width >= LEAST_LABELLED else ""
        segments.append(Segment(label, count, css, round(at, 3), round(width, 3), text, url))
        at += width
    return segments


@dataclass(frozen=True)
class Tick:
    """A mark on an axis. at: percent from the top or the left."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A single measured value. x, y: percent."""

    x: float
    y: float
    title: str = ""


@dataclass(frozen=True)
class Line:
    """One series. runs: polylines in a 1000 x 1000 box, broken where a bucket is empty. dash: SVG dash
    pattern.
    """

    label: str
    css: str
    dash: str
    runs: list[str]
    dots: list[Dot]
    bands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Limit:
    """A horizontal line that means something. y: percent from the top. shift: of its label, pixels down."""

    y: float
    label: str
    css: str
    shift: int = 0


@dataclass(frozen=True)
class Chart:
    """A drawn chart. title: a sentence that says what it shows."""

    title: str
    lines: list[Line]
    xs: list[Tick]
    ys: list[Tick]
    limits: list[Limit]
    height: int = 260

    @property
    def plot_height(self) -> int:
        """Height of the plotting area; the rest holds the labels of the x axis."""
        return self.height - 38

    @property
    def label_y(self) -> int:
        """Where the labels of the x axis stand."""
        return self.plot_height + 20

    @property
    def is_empty(self) -> bool:
        """True when nothing was measured."""
        return not any(line.runs or line.dots for line in self.lines)


@dataclass(frozen=True)
class Sample:
    """One bucket of a series. value None: nothing was measured, which is a gap, not zero."""

    at: datetime
    value: float | None
    lower: float | None = None
    upper: float | None = None


DASHES = ("", "7 4", "2 4", "9 3 2 3", "4 3", "1 3")


def time_chart(
    title: str,
    series: Mapping[str, Sequence[Sample]],
    *,
    start: datetime,
    end: datetime,
    unit: str,
    height: int = 260,
    floor: float | None = None,
    ceiling: float | None = None,
) -> Chart:
    """Lines over time. unit: `ratio` (0..1, printed in percent) or `us` (printed in ms).

    floor, ceiling: bounds the axis never leaves, e.g. 0 and 1 for a share.
    """
    thinned = {label: thin(samples) for label, samples in series.items()}
    values = [
        value
        for samples in thinned.values()
        for sample in samples
        for value in (sample.value, sample.lower, sample.upper)
        if value is not None
    ]
    low, high, step = axis(values, floor=floor, ceiling=ceiling)
    span_s = max((end - start).total_seconds(), 1.0)

    def x(at: datetime) -> float:
        return (at - start).total_seconds() / span_s * 1000.0

    def y(value: float) -> float:
        return 1000.0 * (high - value) / (high - low)

    lines = [
        _line(label, f"c{index % 6 + 1}", DASHES[index % 6], samples, x, y)
        for index, (label, samples) in enumerate(thinned.items())
    ]
    ys = [Tick(round(y(mark) / 10, 2), amount(mark, unit, step)) for mark in marks(low, high, step)]
    return Chart(title, lines, time_ticks(start, end), ys, [], height)


def trace_chart(title: str, trace: Sequence[Sequence[float]], *, limit: float, promote_limit: float) -> Chart:
    """The two evidence processes of a gate over pairs, log10. trace: [t, log10 E, log10 N] as stored."""
    most = max([1.0, *(point[0] for point in trace)])
    bounds = [math.log10(limit), math.log10(promote_limit)]
    values = [0.0, *bounds, *(value for point in trace for value in point[1:])]
    low = max(-3.0, math.floor(min(values)))
    high = min(9.0, max(3.0, math.ceil(max(values))))

    def y(value: float) -> float:
        return 1000.0 * (high - max(low, min(high, value))) / (high - low)

    def x(t: float) -> float:
        return 1000.0 * t / most

    lines = []
    for column, (label, css, dash) in enumerate(
        (("E, evidence for harm", "harm", ""), ("N, evidence that it is not worse", "proof", "6 4")), start=1
    ):
        points = [(x(0), y(0.0)), *((x(point[0]), y(point[column])) for point in trace)]
        lines.append(Line(label, css, dash, [polyline(points)] if trace else [], []))
    ys = [Tick(round(y(mark) / 10, 2), power(mark)) for mark in range(int(low), int(high) + 1)]
    limits = [
        Limit(round(y(bounds[0]) / 10, 2), f"E halts at {limit:g}", "tone-bad", -3),
        Limit(round(y(bounds[1]) / 10, 2), f"N passes at {promote_limit:g}", "tone-good", 11),
    ]
    xs = [Tick(0.0, "0"), Tick(100.0, f"{most:g} pairs")]
    return Chart(title, lines, xs, ys[:: 2 if len(ys) > 7 else 1], limits, 210)


@dataclass(frozen=True)
class Spark:
    """A curve without axes. runs: polylines in a 1000 x 100 box, broken where nobody measured."""

    title: str
    runs: list[str]


def spark(
    name: str,
    values: Sequence[tuple[datetime, float | None]],
    *,
    start: datetime,
    end: datetime,
    unit: str,
    gap: timedelta = timedelta(hours=1, minutes=1),
) -> Spark:
    """A small curve over [start, end] that says its least, most and last value. unit: as `amount` takes it.

    The axis begins at 0 and ends at the most; two values further apart than `gap` are not joined.
    """
    known = [(at, value) for at, value in values if value is not None and start <= at <= end]
    if not known:
        return Spark(f"{name}: nothing was counted in the last 24 hours", [])
    top = max(value for _, value in known) or 1.0
    span_s = max((end - start).total_seconds(), 1.0)
    runs: list[list[tuple[float, float]]] = []
    before: datetime | None = None
    for at, value in known:
        if before is None or at - before > gap:
            runs.append([])
        runs[-1].append(((at - start).total_seconds() / span_s * 1000.0, 96.0 - 92.0 * value / top))
        before = at
    least, most, last = min(value for _, value in known), top, known[-1][1]
    if max(value for _, value in known) == 0:
        most = 0.0
    words = ", ".join(
        f"{word} {amount(value, unit, 0.001 if unit == 'ratio' else 1)}"
        for word, value in (("least", least), ("most", most), ("now", last))
    )
    return Spark(f"{name} over 24 hours: {words}", [polyline(run) for run in runs if len(run) > 1])


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: int) -> str:
    """A power of ten as an axis label: 1, 10, 100, 10³, 10⁻²."""
    return f"{10**exponent}" if 0 <= exponent <= 2 else "10" + str(exponent).translate(_SUPERSCRIPT)


def thin(samples: Sequence[Sample]) -> list[Sample]:
    """At most MAX_POINTS samples, evenly taken, the last one kept."""
    step = max(1, math.ceil(len(samples) / MAX_POINTS))
    return [sample for index, sample in enumerate(samples) if (len(samples) - 1 - index) % step == 0]


def axis(
    values: Sequence[float], *, floor: float | None = None, ceiling: float | None = None
) -> tuple[float, float, float]:
    """Lower end, upper end and step of an axis that holds the values with some air; (0, 1, 0.25) for none."""
    if not values:
        return 0.0, 1.0, 0.25
    low, high = min(values), max(values)
    air = (high - low) * 0.12 or max(abs(high) * 0.1, 1e-6)
    low, high = low - air, high + air
    if floor is not None:
        low = max(low, floor)
    if ceiling is not None:
        high = min(high, ceiling)
    if high <= low:
        high = low + 1e-6
    step = nice((high - low) / 4)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high, step


def nice(rough: float) -> float:
    """The round step next above `rough`, which is positive."""
    size = 10.0 ** math.floor(math.log10(rough))
    return next(factor * size for factor in _NICE if factor * size >= rough * 0.999)


def marks(low: float, high: float, step: float) -> list[float]:
    """Multiples of the step from low to high."""
    first, last = round(low / step), round(high / step)
    return [index * step for index in range(first, last + 1)]


def amount(value: float, unit: str, step: float) -> str:
    """An axis label in its unit, with as many digits as the step needs."""
    if unit == "ratio":
        return f"{value * 100:.{digits(step * 100)}f} %"
    if unit == "us":
        return f"{value / 1000:.{digits(step / 1000)}f} ms"
    return f"{value:g}"


def digits(step: float) -> int:
    """Decimals that print every multiple of the step exactly, at most 4."""
    return next((n for n in range(4) if abs(round(step, n) - step) < step * 1e-6), 4)


def time_ticks(start: datetime, end: datetime) -> list[Tick]:
    """About five round times, UTC."""
    span_s = max((end - start).total_seconds(), 1.0)
    steps = (
        10,
        30,
        60,
        120,
        300,
        600,
        900,
        1800,
        3600,
        7200,
        10_800,
        21_600,
        43_200,
        86_400,
        2 * 86_400,
        7 * 86_400,
    )
    step_s = next((step for step in steps if span_s / step <= 6), 30 * 86_400)
    text = "%H:%M:%S" if step_s < 60 else "%H:%M" if step_s < 86_400 else "%d %b"
    at = datetime.fromtimestamp(math.ceil(start.timestamp() / step_s) * step_s, tz=start.tzinfo)
    ticks = []
    while at <= end:
        ticks.append(Tick(round((at - start).total_seconds() / span_s * 100, 2), at.strftime(text)))
        at += timedelta(seconds=step_s)
    return ticks


def polyline(points: Iterable[tuple[float, float]]) -> str:
    """The `points` attribute."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(label: str, css: str, dash: str, samples: Sequence[Sample], x: Scale, y: Height) -> Line:
    runs: list[list[tuple[float, float]]] = [[]]
    bands: list[list[tuple[float, float, float]]] = [[]]
    for sample in samples:
        if sample.value is None:
            runs.append([])
            bands.append([])
            continue
        runs[-1].append((x(sample.at), y(sample.value)))
        if sample.lower is not None and sample.upper is not None:
            bands[-1].append((x(sample.at), y(sample.lower), y(sample.upper)))
    dots = [Dot(round(run[0][0] / 10, 2), round(run[0][1] / 10, 2)) for run in runs if len(run) == 1]
    areas = [
        polyline([*((px, low) for px, low, _ in band), *((px, high) for px, _, high in reversed(band))])
        for band in bands
        if len(band) > 1
    ]
    return Line(label, css, dash, [polyline(run) for run in runs if len(run) > 1], dots, areas)
