"""The windows a query's text selects, as one SQL condition.

Runs by their names, devices by every field of the device list, rollouts by their frozen membership. The
parser and the meaning of device fields are those of `fleet.devices`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet

from fleet.devices import selection
from fleet.devices.errors import QueryError
from fleet.devices.models import Device
from fleet.devices.query import parse
from fleet.devices.query_terms import DEVICE_FIELDS, Comparison, Either, Query, comparisons
from fleet.devices.version_order import version_key
from fleet.telemetry.fields import FIELDS, RUN_FIELDS
from fleet.telemetry.models import Version

_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=lt=": operator.lt,
    "=le=": operator.le,
    "=gt=": operator.gt,
    "=ge=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """SQL over `w`, a row with version_id and, when `fields.is_by_device`, device_id; parameters by name."""

    sql: str
    parameters: Mapping[str, Any]


Members = Callable[[str | None], "QuerySet[Any, Any]"]


@dataclass
class _Hooks:
    members: Members | None = None


_hooks = _Hooks()


def register_members(members: Members) -> None:
    """Say which device ids a rollout's frozen set has, by its id as text; None: any rollout's.

    Called once, when the layer that knows rollouts is loaded.
    """
    _hooks.members = members


def condition(text: str, *also: Query, now: datetime, beside: Mapping[str, Any] | None = None) -> Condition:
    """Understand a query, "" for none; `also`: further parts that must match. `now`: what ages count from.

    beside: parameters of another condition of the same statement; the answer's parameters have them too.
    Raises QueryError of `fleet.devices` with the position, GroupError for a group whose stored query is none.
    """
    parts = [*([parse(text, FIELDS)] if text else []), *also]
    parameters = dict(beside or {})
    compiler = _Compiler(now, parameters)
    return Condition(" AND ".join(compiler.sql(part) for part in parts) or "true", parameters)


def inline(rows: QuerySet[Any, Any], parameters: dict[str, Any]) -> str:
    """A query set as SQL whose values are bound by name: they go to `parameters`. Raises EmptyResultSet."""
    sql, values = rows.query.sql_with_params()
    rest = iter(values)

    def bound(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%%"
        name = f"q{len(parameters)}"
        parameters[name] = next(rest)
        return f"%({name})s"

    return re.sub(r"%%|%s", bound, sql)


class _Compiler:
    def __init__(self, now: datetime, parameters: dict[str, Any]) -> None:
        self.now = now
        self.parameters = parameters

    def sql(self, query: Query) -> str:
        if all(one.field in RUN_FIELDS for one in comparisons(query)):
            runs = [run.pk for run in Version.objects.all() if _matches(query, run)]
            return f"w.version_id = ANY({self._bound(runs)})"
        if all(one.field in _DEVICE_ONLY or _is_family(one) for one in comparisons(query)):
            where = selection.where(query, now=self.now)
            return self._among(Device.objects.filter(where).order_by().values("pk"))
        if isinstance(query, Comparison):
            return self._of_rollout(query)
        joined = " OR " if isinstance(query, Either) else " AND "
        return "(" + joined.join(self.sql(part) for part in query.parts) + ")"

    def _of_rollout(self, one: Comparison) -> str:
        if _hooks.members is None:
            raise QueryError(
                "query_unknown_field", "rollouts are not known here", position=one.position, nearest=[]
            )
        if one.operator == "=null=":
            inside = self._among(_hooks.members(None))
            return f"NOT {inside}" if one.values[0].text == "true" else inside
        parts = []
        for value in one.values:
            if value.is_prefix:
                raise QueryError(
                    "query_syntax", "rollout takes whole ids, no star", position=value.position, nearest=[]
                )
            parts.append(self._among(_hooks.members(value.text)))
        inside = "(" + " OR ".join(parts) + ")"
        if one.operator in ("==", "=in="):
            return inside
        return f"({self._among(_hooks.members(None))} AND NOT {inside})"

    def _bound(self, value: Any) -> str:
        name = f"q{len(self.parameters)}"
        self.parameters[name] = value
        return f"%({name})s"

    def _among(self, rows: QuerySet[Any, Any]) -> str:
        """Windows of these devices: a query set's SQL with its values bound by name."""
        try:
            return f"w.device_id IN ({inline(rows, self.parameters)})"
        except EmptyResultSet:
            return "false"


_DEVICE_ONLY: Final = frozenset(DEVICE_FIELDS.names)


def _is_family(one: Comparison) -> bool:
    return one.field not in FIELDS.names


def _matches(query: Query, run: Version) -> bool:
    if isinstance(query, Comparison):
        return _compares(query, {"model": run.model, "version": run.version, "digest": run.mid}[query.field])
    found = (_matches(part, run) for part in query.parts)
    return any(found) if isinstance(query, Either) else all(found)


def _compares(one: Comparison, held: str) -> bool:
    """One comparison with what a run is called; a missing name matches only `=null=true`."""
    if one.operator == "=null=":
        return (not held) == (one.values[0].text == "true")
    if not held:
        return False
    if one.operator in _ORDERS:
        key = version_key(held)
        return bool(key) and _ORDERS[one.operator](key, version_key(one.values[0].text))
    is_in = any(
        held.startswith(text) if value.is_prefix else held == text
        for value in one.values
        for text in _spelled(one, value.text)
    )
    return is_in != (one.operator in ("!=", "=out="))


def _spelled(one: Comparison, text: str) -> Sequence[str]:
    return (text.lower(),) if one.field == "digest" else (text,)
