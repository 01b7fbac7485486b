"""Geometry of the anomaly grid: a row of hours for each device, each hour a bar as high as its share.

Height says what colour would, so the grid reads without it; an hour without inferences is left empty, and one
without anomalies keeps its line on the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fleet.console.templatetags.console import num, percent

HEIGHT = 30
LEAST = 3.0


@dataclass(frozen=True)
class Cell:
    """One hour. x, width: percent. y, height: pixels; height 0 for no anomaly."""

    x: float
    width: float
    y: float
    height: float
    title: str


@dataclass(frozen=True)
class Strip:
    """One device's hours. said: its highest hour in words."""

    device_id: str
    cells: list[Cell]
    said: str


@dataclass(frozen=True)
class Hour:
    """Anomalous of all inferences in an hour. ratio: None when there was none."""

    at: datetime
    ratio: float | None
    n: int


def strips(devices: Sequence[tuple[str, Sequence[Hour]]]) -> list[Strip]:
    """Rows on one scale, whose top is the highest share of all hours. Every device has the same hours."""
    most = max((hour.ratio or 0.0 for _, hours in devices for hour in hours), default=0.0)
    return [Strip(name, _cells(hours, most or 1.0), _said(hours)) for name, hours in devices]


def _cells(hours: Sequence[Hour], most: float) -> list[Cell]:
    width = 100.0 / max(len(hours), 1)
    found = []
    for n, hour in enumerate(hours):
        if hour.ratio is None:
            continue
        height = max(LEAST, (HEIGHT - 2) * hour.ratio / most) if hour.ratio else 0.0
        found.append(
            Cell(
                round(n * width, 3), round(width * 0.86, 3), round(HEIGHT - 1 - height, 2), round(height, 2),
                f"{hour.at:%a %H:%M}: {percent(hour.ratio)} of {num(hour.n)}",
            )
        )  # fmt: skip
    return found


def _said(hours: Sequence[Hour]) -> str:
    known = [hour for hour in hours if hour.ratio is not None]
    if not known:
        return "no inference in this time"
    top = max(known, key=lambda hour: hour.ratio or 0.0)
    return f"up to {percent(top.ratio)}, in the hour from {top.at:%H:%M}"
