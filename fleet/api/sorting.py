"""`?sort=field,-field`: in which orders a list can be asked for.

Every list declares its fields once (`Sorts`). A list that can grow long allows one field at a time, each with
an index of (field, key) or a comment that says what bounds it; short ones allow up to three. The unique key
ends every order, in the direction of the field before it, so that one index serves both directions. A null
comes before every value, and so last in descending order: who never did something is no newest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db.models import F, Model, OrderBy
from ninja.params.functions import Query

from fleet.api.errors import ApiProblem
from fleet.ranks import Ranked

SCHEMA: Final = "x-sort"
"""Under this name a parameter's schema says what `documented` makes of it."""
_TOLD: Final = 40


@dataclass(frozen=True)
class Part:
    """One field of an order. path: of the model, or the alias under which `rank` stands in a query."""

    path: str
    is_descending: bool
    is_nullable: bool = False
    rank: Ranked | None = None

    def by(self) -> OrderBy:
        """As ORDER BY."""
        if self.is_descending:
            return F(self.path).desc(nulls_last=True if self.is_nullable else None)
        return F(self.path).asc(nulls_first=True if self.is_nullable else None)

    def value_of(self, row: Model) -> Any:
        """What a cursor keeps of a row: a JSON type, which a filter reads back exactly."""
        found: Any = row
        for name in (self.rank.path if self.rank else self.path).split("__"):
            found = getattr(found, name)
        if self.rank is not None:
            return self.rank.rank(found)
        if isinstance(found, datetime):
            return found.isoformat()
        return str(found) if isinstance(found, UUID) else found


@dataclass(frozen=True)
class Order:
    """A whole order: its last part is unique. text: as it would be asked for, the same for the same order."""

    parts: tuple[Part, ...]
    text: str


class Sorts:
    """The orders of one list."""

    def __init__(
        self,
        model: type[Model],
        fields: Mapping[str, str | Ranked],
        *,
        default: str,
        key: str = "id",
        most: int = 1,
    ) -> None:
        """fields: name in the answer -> column. default: the order without `sort`. key: a unique column.
        most: fields of one order.
        """
        self._fields, self._default, self._key, self._most = fields, default, key, most
        self._model = model
        self.order("")  # a default that is none fails at import

    @property
    def names(self) -> list[str]:
        """Fields that may be named."""
        return list(self._fields)

    def parameter(self) -> Any:
        """The query parameter `sort`, as a default of a view's argument."""
        made = Query("")
        made.json_schema_extra |= self.schema()  # what `Query` takes beside its own names gets lost
        return made

    def schema(self) -> dict[str, Any]:
        """What the parameter's schema says beside its type."""
        names = [sign + name for name in self.names for sign in ("", "-")]
        told = f"Fields, - in front: descending; null is before every value. Default: {self._default}"
        return {SCHEMA: {"names": names, "most": self._most}, "description": told}

    def order(self, asked: str) -> Order:
        """The order that somebody asks for. Raises ApiProblem `query_unknown_field` naming the allowed ones,
        and `query_syntax` for an empty, repeated or superfluous field.
        """
        parts: dict[str, Part] = {}
        texts = (asked or self._default).split(",")
        position = 0
        for text in texts:
            name = text.removeprefix("-")
            if name not in self._fields:
                raise self._problem("query_unknown_field", f"there is no order by {name[:_TOLD]!r}", position)
            if name in parts:
                raise self._problem("query_syntax", f"{name} is named twice", position)
            if len(parts) == self._most:
                raise self._problem("query_syntax", f"at most {self._most} can be named here", position)
            parts[name] = self._part(len(parts), self._fields[name], text.startswith("-"))
            position += len(text) + 1
        found = list(parts.values())
        if all(part.path != self._key for part in found):
            found.append(Part(self._key, found[-1].is_descending))
        return Order(tuple(found), ",".join(texts))

    def _part(self, n: int, column: str | Ranked, is_descending: bool) -> Part:
        if isinstance(column, Ranked):
            return Part(f"sort_{n}", is_descending, rank=column)
        return Part(column, is_descending, _is_nullable(self._model, column))

    def _problem(self, code: str, text: str, position: int) -> ApiProblem:
        allowed = self.names
        detail = f"sort: {text}; allowed: {', '.join(allowed)}"
        entry = {"pointer": "/sort", "code": code, "message": detail}
        return ApiProblem(code, detail, errors=[entry], allowed=allowed, position=position)


def documented(parameter: dict[str, Any]) -> dict[str, Any]:
    """A parameter as OpenAPI tells it: `sort` as a list with commas, whose members are named."""
    told = parameter["schema"].get(SCHEMA)
    if told is None:
        return parameter
    names = {"type": "array", "items": {"type": "string", "enum": told["names"]}, "maxItems": told["most"]}
    names["uniqueItems"] = True
    return {**parameter, "schema": names, "style": "form", "explode": False}


def _is_nullable(model: type[Model], path: str) -> bool:
    found = False
    for name in path.split("__"):
        field = model._meta.get_field(name)
        found = found or bool(getattr(field, "null", False))
        if field.related_model is not None:
            model = field.related_model
    return found
