"""Keyset paging for lists: the URL holds the last key seen, so a page stays put while rows arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest

Row = TypeVar("Row", bound=Model)
PAGE_ROWS = 50
COUNTED = 10_000
"""Rows up to which a list is counted: beyond it says that there are more. To count every row that a filter
finds costs as much as reading all of them, for a number that nobody pages to the end of.
"""


class Total(int):
    """How many rows a list has; is_more: there are more than that, which the filter `num` shows by a plus."""

    is_more: bool

    def __new__(cls, n: int, *, is_more: bool = False) -> Total:
        """n: rows, or the most that were counted."""
        made = super().__new__(cls, n)
        made.is_more = is_more
        return made


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Rows of one page. next_url, first_url: "" when there is nothing further, or this is the first page."""

    rows: list[Row]
    total: Total
    next_url: str
    first_url: str


def page_of(
    request: HttpRequest,
    rows: QuerySet[Row],
    *,
    key: str = "pk",
    is_descending: bool = False,
    is_counted: bool = True,
    most: int | None = COUNTED,
) -> Page[Row]:
    """One page of `rows` in the order of `key`, a unique column, after the value in the parameter `after`.

    A value that cannot be one gives the first page: an old link still opens something true. is_counted: False
    for lists too long to be counted for a page; the total is then -1. most: rows that are counted, None for
    all of them.
    """
    total = counted(rows, most) if is_counted else Total(-1)
    selected = rows.order_by(f"-{key}" if is_descending else key)
    after = request.GET.get("after", "")[:64]
    if after:
        try:
            selected = selected.filter(**{f"{key}__{'lt' if is_descending else 'gt'}": after})
        except (ValueError, TypeError, ValidationError):
            after = ""
    found = list(selected[: PAGE_ROWS + 1]) if total else []  # nothing need not be looked for twice
    next_url = url_with(request, after=_key_of(found[PAGE_ROWS - 1], key)) if len(found) > PAGE_ROWS else ""
    return Page(found[:PAGE_ROWS], total, next_url, url_with(request, after="") if after else "")


def counted(rows: QuerySet[Any], most: int | None = COUNTED) -> Total:
    """How many rows there are, counted up to `most` of them; None counts all."""
    if most is None:
        return Total(rows.count())
    n = rows.order_by()[: most + 1].count()
    return Total(min(n, most), is_more=n > most)


def url_with(request: HttpRequest, **changes: str) -> str:
    """This page's path with some GET parameters set; an empty value removes one."""
    kept: dict[str, Any] = {name: request.GET.getlist(name) for name in request.GET}
    for name, value in changes.items():
        kept[name] = [value]
    pairs = [(name, value) for name, values in kept.items() for value in values if value]
    return f"{request.path}?{urlencode(pairs)}" if pairs else request.path


def _key_of(row: Model, key: str) -> str:
    return str(row.pk if key == "pk" else getattr(row, key))
