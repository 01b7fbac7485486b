"""The filter box of device pages: what was typed, what it selects, and where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q
from django.http import HttpRequest

from fleet.devices.errors import GroupError, QueryError
from fleet.devices.query import MAX_CHARS, parse
from fleet.devices.query_terms import DEVICE_FIELDS, Both, Comparison, Query, Value, Vocabulary, show
from fleet.devices.selection import where

EXAMPLES = ("class==s3-8m;fw=ge=1.4.0", "tag==line-2,tag==line-3", "slot.0.version=lt=2.0.0;online==true")


@dataclass(frozen=True)
class Asked:
    """What a person asked for.

    q: the query as typed. error: why it selects nothing, None when it is understood. condition: over Device;
    None without a query or with one that is wrong.
    """

    q: str
    error: dict[str, Any] | None = None
    condition: Q | None = None


def asked(request: HttpRequest, *, now: datetime) -> Asked:
    """The query in the URL's parameter q."""
    return ask(request.GET.get("q", ""), now=now)


def ask(q: str, *, now: datetime) -> Asked:
    """Understand a query, or say where it is wrong: it never selects anything then."""
    q = q[: MAX_CHARS + 1].strip()
    if not q:
        return Asked("")
    try:
        return Asked(q, condition=where(parse(q), now=now))
    except (QueryError, GroupError) as error:
        return Asked(q, error=explained(q, error))


def explained(q: str, error: QueryError | GroupError) -> dict[str, Any]:
    """What a page shows: code, text, and the query cut at the place that is wrong.

    A group's own query is wrong at a place that is not in `q`: then nothing is cut.
    """
    at = error.position if error.code != "group_query_invalid" else None
    wrong = "" if at is None else q[at : at + 1]
    return {
        "code": error.code,
        "text": error.text,
        "nearest": error.nearest,
        "is_placed": at is not None,
        "before": "" if at is None else q[:at],
        "wrong": wrong,
        "after": "" if at is None else q[at + 1 :],
    }


def narrowed(q: str, **fields: str) -> str:
    """A query and `field==value` for each value that is not empty, as one query. `q` is one, or empty."""
    parts: list[Query] = []
    if q:
        query = parse(q)
        parts += query.parts if isinstance(query, Both) else (query,)
    for name, value in fields.items():
        kind = DEVICE_FIELDS.kind_of(name)
        if value and kind is not None:
            parts.append(Comparison(name, "==", (Value(value),), kind))
    return show(parts[0] if len(parts) == 1 else Both(tuple(parts))) if parts else ""


def help_of_fields(fields: Vocabulary = DEVICE_FIELDS) -> list[str]:
    """Every field that a query may name, as people read them."""
    return fields.shown()
