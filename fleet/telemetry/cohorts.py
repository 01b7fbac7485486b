"""Devices by the rollout, arm or group they are in: as series of an answer, and as a condition.

A rollout and its arms are the membership that was frozen at its start, whatever the devices became since. A
group is what it selects now. Telemetry knows no rollouts: the layer that does registers how to look them up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet

from fleet.devices import selection as device_selection
from fleet.devices.errors import QueryError as SyntaxRefused
from fleet.devices.models import Device, DeviceGroup
from fleet.devices.query import parse
from fleet.devices.query_terms import Comparison, Kind, Query, Value, comparisons
from fleet.telemetry.catalogue import MAX_SERIES, TelemetryQuery
from fleet.telemetry.errors import QueryError
from fleet.telemetry.fields import FIELDS
from fleet.telemetry.selection import inline
from fleet.telemetry.sources import Source

Arms = Callable[[Sequence[UUID]], "QuerySet[Any, Any]"]
_POSITIVE: Final = ("==", "=in=")


@dataclass
class _Hooks:
    arms: Arms | None = None


_hooks = _Hooks()


def register_arms(arms: Arms) -> None:
    """Say which devices some rollouts have: rows of values (device_id, of_rollout text, of_arm text).

    of_arm: `control` or `wave-<n>`. Called once, when the layer that knows rollouts is loaded.
    """
    _hooks.arms = arms


def narrowing(question: TelemetryQuery) -> list[Query]:
    """What the filters by rollout and group mean, as parts of a query."""
    found: list[Query] = []
    for field, kind, names in (
        ("rollout", Kind.TEXT, question.rollouts),
        ("group", Kind.SET, question.groups),
    ):
        if names:
            found.append(Comparison(field, "=in=", tuple(Value(name) for name in names), kind))
    return found


def joined(source: Source, question: TelemetryQuery, parameters: dict[str, Any], *, now: datetime) -> Source:
    """The source with a row for each rollout, arm or group of a row's device; its values go to `parameters`.

    Nothing changes for a question that does not group by them. A device that is in two groups, or in two
    rollouts, counts in the series of each. Raises QueryError `group_by_not_supported` when the rollouts are
    not named, or an arm could be of several; GroupError for a group whose stored query is none.
    """
    grouped = set(question.group_by)
    table, labels = source.table, dict(source.labels)
    if grouped & {"rollout", "arm"}:
        ids = _rollouts(question)
        if not ids or (len(ids) > 1 and "rollout" not in grouped):
            raise QueryError(
                "group_by_not_supported",
                f"{'rollout' if 'rollout' in grouped else 'arm'} needs a filter to "
                f"{'rollouts' if 'rollout' in grouped else 'one rollout'}: rollout==<id>",
            )
        table += f" JOIN ({_arm_rows(ids, parameters)}) m ON m.device_id = w.device_id"
        labels |= {"rollout": "m.of_rollout", "arm": "m.of_arm"}
    if "group" in grouped:
        table += f" JOIN ({_group_rows(question, parameters, now)}) h ON h.device_id = w.device_id"
        labels["group"] = "h.name"
    return replace(source, table=table, labels=labels)


def arm_condition(rollout: UUID, *, is_control: bool, parameters: dict[str, Any]) -> str:
    """SQL over `w`: its device was drawn as control of this rollout, or for one of its waves."""
    rows = _arm_rows([rollout], parameters)
    compared = "=" if is_control else "<>"
    return f"w.device_id IN (SELECT m.device_id FROM ({rows}) m WHERE m.of_arm {compared} 'control')"  # noqa: S608


def _arm_rows(ids: Sequence[UUID], parameters: dict[str, Any]) -> str:
    if _hooks.arms is None:
        raise QueryError("group_by_not_supported", "rollouts are not known here")
    return inline(_hooks.arms(ids), parameters)


def _rollouts(question: TelemetryQuery) -> list[UUID]:
    """The rollouts that the filters or the query name; what is no id is of nobody."""
    found = []
    for text in dict.fromkeys([*question.rollouts, *_named(question.q, "rollout")]):
        try:
            found.append(UUID(text))
        except ValueError as error:
            raise QueryError("group_by_not_supported", f"{text[:40]!r} is no rollout's id") from error
    if len(found) > MAX_SERIES:
        raise QueryError("group_by_not_supported", f"at most {MAX_SERIES} rollouts")
    return found


def _group_rows(question: TelemetryQuery, parameters: dict[str, Any], now: datetime) -> str:
    names = [*question.groups, *_named(question.q, "group")]
    groups = DeviceGroup.objects.filter(pk__in=names) if names else DeviceGroup.objects.all()
    found = list(groups.order_by("pk")[: MAX_SERIES + 1])
    if len(found) > MAX_SERIES:
        raise QueryError(
            "group_by_not_supported", f"there are more than {MAX_SERIES} groups: filter to some of them"
        )
    parts = []
    for group in found:
        rows = Device.objects.filter(device_selection.group_where(group, now=now)).order_by().values("id")
        try:
            sql = inline(rows, parameters)
        except EmptyResultSet:
            continue
        name = f"q{len(parameters)}"
        parameters[name] = group.pk
        parts.append(f"SELECT x.id AS device_id, %({name})s::text AS name FROM ({sql}) x")  # noqa: S608
    return " UNION ALL ".join(parts) or "SELECT ''::text AS device_id, ''::text AS name WHERE false"


def _named(q: str, field: str) -> list[str]:
    """Whole names that a query compares a field with, and does not exclude."""
    if not q:
        return []
    try:
        found = comparisons(parse(q, FIELDS))
    except SyntaxRefused:
        return []
    return [
        value.text
        for one in found
        if one.field == field and one.operator in _POSITIVE
        for value in one.values
        if not value.is_prefix
    ]
