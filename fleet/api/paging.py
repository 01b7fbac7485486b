"""Keyset paging with an opaque, signed cursor bound to its list, filter and order.

What is behind a cursor is read range by range: first what equals the last row in all fields but the last,
then in all but the last two, and so on. Each range is one interval of an index, where one condition with OR
would make the database walk from the list's beginning; nulls are ranges of their own. A page mostly needs one
or two.

A row whose sorted value changes between two pages may be seen twice or not at all, as in every paging by key;
rows that come, go or stay do not disturb the others.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from django.core import signing
from django.db.models import Model, QuerySet

from fleet.api.errors import ApiProblem
from fleet.api.sorting import Order

MAX_LIMIT = 500
_SALT = "fleet.api.paging"
Row = TypeVar("Row", bound=Model)


def page(
    rows: QuerySet[Row],
    *,
    order: Order,
    limit: int,
    cursor: str,
    filters: dict[str, Any],
    render: Callable[[Row], Any],
    total: bool = False,
) -> dict[str, Any]:
    """One page of `rows` in an order of its list: {"items", "next", "total"?}.

    Raises ApiProblem `limit` (outside 1..500, never clamped) and `cursor_mismatch` (changed, or of another
    list, filter or order).
    """
    bound = _bound(limit, rows.model.__name__, order.text, filters)
    found = _behind(rows, order, cursor, bound, limit)
    answer = _answer(found, order, bound, limit, render)
    if total:
        answer["total"] = rows.count()
    return answer


def merged_page(
    sources: Sequence[QuerySet[Any]],
    *,
    order: Order,
    limit: int,
    cursor: str,
    filters: dict[str, Any],
    render: Callable[[Any], Any],
) -> dict[str, Any]:
    """One page of several tables as one list, in an order of the key alone, unique among all of them.

    Raises as `page`.
    """
    bound = _bound(limit, [rows.model.__name__ for rows in sources], order.text, filters)
    (part,) = order.parts
    found = [row for rows in sources for row in _behind(rows, order, cursor, bound, limit)]
    found.sort(key=lambda row: getattr(row, part.path), reverse=part.is_descending)
    return _answer(found, order, bound, limit, render)


def _behind(rows: QuerySet[Row], order: Order, cursor: str, bound: str, limit: int) -> list[Row]:
    """The next rows, one more than a page has if there are that many."""
    ranks = {part.path: part.rank.expression() for part in order.parts if part.rank is not None}
    ordered = rows.alias(**ranks).order_by(*(part.by() for part in order.parts))
    found: list[Row] = []
    for condition in _ranges(order, _open(cursor, bound)) if cursor else [{}]:
        found += ordered.filter(**condition)[: limit + 1 - len(found)]
        if len(found) > limit:
            break
    return found


def _answer(
    found: list[Row], order: Order, bound: str, limit: int, render: Callable[[Row], Any]
) -> dict[str, Any]:
    cursor = None
    if len(found) > limit:
        last = [part.value_of(found[limit - 1]) for part in order.parts]
        cursor = signing.dumps([bound, last], salt=_SALT)
    return {"items": [render(row) for row in found[:limit]], "next": cursor}


def _ranges(order: Order, last: list[Any]) -> Iterator[dict[str, Any]]:
    """Conditions that together mean "behind `last`", in the order of the list."""
    for n in reversed(range(len(order.parts))):
        same: dict[str, Any] = {}
        for part, value in zip(order.parts[:n], last, strict=False):
            same |= {f"{part.path}__isnull": True} if value is None else {part.path: value}
        part, value = order.parts[n], last[n]
        if value is not None:
            yield {**same, f"{part.path}__{'lt' if part.is_descending else 'gt'}": value}
            if part.is_nullable and part.is_descending:
                yield {**same, f"{part.path}__isnull": True}
        elif not part.is_descending:
            yield {**same, f"{part.path}__isnull": False}


def _bound(limit: int, *parts: Any) -> str:
    """What a cursor of this list is bound to."""
    if not 1 <= limit <= MAX_LIMIT:
        raise ApiProblem("limit", f"limit is {limit}, allowed are 1 to {MAX_LIMIT}")
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _open(cursor: str, bound: str) -> list[Any]:
    try:
        of, last = signing.loads(cursor, salt=_SALT)
    except (signing.BadSignature, ValueError, TypeError):
        raise ApiProblem("cursor_mismatch", "this cursor was not made here") from None
    if of != bound:
        raise ApiProblem("cursor_mismatch", "this cursor belongs to another list, filter or order")
    return list(last)
