"""Filters of pages that set figures beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import template

register = template.Library()


@register.filter
def item(row: Sequence[Any], index: int) -> Any:
    """An element of a list by a number that is itself a variable."""
    return row[index]


@register.filter
def signed(value: float) -> str:
    """A change as a share: `+12 %`, `−3.4 %`, `±0 %`."""
    if abs(value) < 0.0005:
        return "±0 %"
    return f"{'+' if value > 0 else '−'}{abs(value) * 100:.{0 if abs(value) >= 0.1 else 1}f} %"
