"""What a query consists of: comparisons and how they are joined, the fields devices have, the text of values.

Bare Python. `fleet.devices.query` reads a text into these, `fleet.devices.selection` turns them into SQL.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Final

ORDERING: Final = ("=lt=", "=le=", "=gt=", "=ge=")
OPERATORS: Final = ("==", "!=", *ORDERING, "=in=", "=out=", "=null=")
PLAIN: Final = re.compile(r"[^\s()\"';,=!<>*\\]+")
"""A value that needs no quotes."""
_DECIMAL: Final = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,6})?")
_AGE: Final = re.compile(r"-([0-9]{1,6})([smhd])")
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Kind(Enum):
    """What a field holds, which decides the comparisons it takes."""

    TEXT = "a text"
    SET = "a set of texts"
    VERSION = "a version"
    ATTRIBUTE = "a text, ordered when it is a number"
    NUMBER = "a whole number"
    TIME = "a time"
    FLAG = "true or false"


@dataclass(frozen=True)
class Value:
    """One value of a comparison. is_prefix: a star follows it. position: where it begins in the text."""

    text: str
    is_prefix: bool = False
    position: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True)
class Comparison:
    """`field operator values`; one value, except for `=in=` and `=out=`."""

    field: str
    operator: str
    values: tuple[Value, ...]
    kind: Kind
    position: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True)
class Both:
    """Every part must match. No part is a `Both`, and there are at least two."""

    parts: tuple[Query, ...]


@dataclass(frozen=True)
class Either:
    """One part must match. No part is an `Either`, and there are at least two."""

    parts: tuple[Query, ...]


Query = Comparison | Both | Either


@dataclass(frozen=True)
class Vocabulary:
    """The fields that a query may name.

    names: field -> kind. families: a pattern of the whole name, its kind, and how people read it.
    """

    names: Mapping[str, Kind]
    families: tuple[tuple[re.Pattern[str], Kind, str], ...] = ()

    def kind_of(self, name: str) -> Kind | None:
        """What a field holds; None when there is no such field."""
        if name in self.names:
            return self.names[name]
        return next((kind for shape, kind, _ in self.families if shape.fullmatch(name)), None)

    def shown(self) -> list[str]:
        """Every field as people read it."""
        return [*self.names, *(shown for _, _, shown in self.families)]


DEVICE_FIELDS: Final = Vocabulary(
    names={
        "id": Kind.TEXT,
        "class": Kind.TEXT,
        "chip": Kind.TEXT,
        "fw": Kind.VERSION,
        "group": Kind.SET,
        "tag": Kind.SET,
        "online": Kind.FLAG,
        "last_seen": Kind.TIME,
        "enrolled_at": Kind.TIME,
        "op": Kind.SET,
        "arena_free": Kind.NUMBER,
    },
    families=(
        (re.compile(r"attr\.[a-z][a-z0-9_-]{0,31}"), Kind.ATTRIBUTE, "attr.<key>"),
        (re.compile(r"slot\.[0-3]\.model"), Kind.TEXT, "slot.<n>.model"),
        (re.compile(r"slot\.[0-3]\.version"), Kind.VERSION, "slot.<n>.version"),
        (re.compile(r"slot\.[0-3]\.seq"), Kind.NUMBER, "slot.<n>.seq"),
        (re.compile(r"slot\.[0-3]\.digest"), Kind.TEXT, "slot.<n>.digest"),
    ),
)
"""What a query about devices may name (rollouts.md 1)."""


def show(query: Query) -> str:
    """The query as canonical text; `parse` reads the same query back."""
    if isinstance(query, Comparison):
        return show_comparison(query)
    if isinstance(query, Either):
        return ",".join(show(part) for part in query.parts)
    return ";".join(f"({show(part)})" if isinstance(part, Either) else show(part) for part in query.parts)


def show_comparison(one: Comparison) -> str:
    """One comparison as canonical text."""
    values = ",".join(_show_value(value) for value in one.values)
    is_list = one.operator in ("=in=", "=out=")
    return f"{one.field}{one.operator}({values})" if is_list else f"{one.field}{one.operator}{values}"


def comparisons(query: Query) -> Iterator[Comparison]:
    """Every comparison, from left to right."""
    if isinstance(query, Comparison):
        yield query
    else:
        for part in query.parts:
            yield from comparisons(part)


def moment(text: str, now: datetime) -> datetime | None:
    """The time that a value of kind TIME means: RFC 3339 with offset, or an age before `now` as -30s, -15m,
    -12h, -7d. None for anything else.
    """
    if found := _AGE.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    if not _MOMENT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def decimal(text: str) -> Decimal | None:
    """The number that an attribute's text is, for its ordering; None when it is none."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def _show_value(value: Value) -> str:
    star = "*" if value.is_prefix else ""
    if not value.text and value.is_prefix:
        return star
    if PLAIN.fullmatch(value.text):
        return value.text + star
    escaped = value.text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"{star}'
