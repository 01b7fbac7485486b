"""Keyset paging with an opaque, signed cursor bound to its list and filter."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from django.core import signing
from django.db.models import Model, QuerySet

from fleet.api.errors import ApiProblem

MAX_LIMIT = 500
_SALT = "fleet.api.paging"
Row = TypeVar("Row", bound=Model)


def page(
    rows: QuerySet[Row],
    *,
    key: str,
    limit: int,
    cursor: str,
    filters: dict[str, Any],
    render: Callable[[Row], Any],
    is_descending: bool = False,
    total: bool = False,
) -> dict[str, Any]:
    """One page of `rows` ordered by the unique column `key`: {"items", "next", "total"?}.

    Raises ApiProblem `limit` (outside 1..500, never clamped) and `cursor_mismatch` (changed, or of another
    list or filter).
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ApiProblem("limit", f"limit is {limit}, allowed are 1 to {MAX_LIMIT}")
    bound = _digest(rows.model.__name__, key, is_descending, filters)
    selected = rows.order_by(f"-{key}" if is_descending else key)
    if cursor:
        selected = selected.filter(**{f"{key}__{'lt' if is_descending else 'gt'}": _open(cursor, bound)})
    found = list(selected[: limit + 1])
    answer: dict[str, Any] = {"items": [render(row) for row in found[:limit]], "next": None}
    if len(found) > limit:
        last = getattr(found[limit - 1], key)
        answer["next"] = signing.dumps([bound, last if isinstance(last, int) else str(last)], salt=_SALT)
    if total:
        answer["total"] = rows.count()
    return answer


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _open(cursor: str, bound: str) -> Any:
    try:
        of, last = signing.loads(cursor, salt=_SALT)
    except (signing.BadSignature, ValueError, TypeError):
        raise ApiProblem("cursor_mismatch", "this cursor was not made here") from None
    if of != bound:
        raise ApiProblem("cursor_mismatch", "this cursor belongs to another list or filter")
    return last
