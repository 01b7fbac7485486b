"""The devices a query selects, as one SQL condition: what each field of the query language means here.

Every comparison is true or not true, never unknown: a missing value makes it not true, except `=null=true`.
What only upper layers know (the model behind a digest, the name of an operator) they register at start-up.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any, Final

from django.db.models import (
    BigIntegerField,
    Case,
    DecimalField,
    Exists,
    ExpressionWrapper,
    F,
    Func,
    JSONField,
    Lookup,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.fields import BooleanField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.db.models.lookups import (
    Exact,
    GreaterThan,
    GreaterThanOrEqual,
    LessThan,
    LessThanOrEqual,
    Regex,
    StartsWith,
)

from fleet.devices import membership
from fleet.devices.errors import GroupError, QueryError
from fleet.devices.models import Device, DeviceGroup, DeviceSlot, GroupKind, Presence
from fleet.devices.query import parse
from fleet.devices.query_terms import Comparison, Either, Query, comparisons, decimal, moment
from fleet.devices.query_terms import Value as Text
from fleet.devices.version_order import version_key

STOPPED: Final = 2
"""Bit of a bank's flags: it runs nothing, whatever it holds."""
_ALWAYS: Final = Q(pk__isnull=False)
_SUFFIXES: Final = {"=lt=": "lt", "=le=": "lte", "=gt=": "gt", "=ge=": "gte"}
_LOOKUPS: Final[dict[str, type[Lookup[Any]]]] = {
    "=lt=": LessThan,
    "=le=": LessThanOrEqual,
    "=gt=": GreaterThan,
    "=ge=": GreaterThanOrEqual,
}
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=lt=": operator.lt,
    "=le=": operator.le,
    "=gt=": operator.gt,
    "=ge=": operator.ge,
}


@dataclass(frozen=True)
class RunName:
    """What a digest in a slot is called. run: hex as devices report it."""

    run: str
    model: str
    version: str


@dataclass
class _Names:
    runs: Callable[[], Iterable[RunName]] = tuple
    operators: Callable[[], dict[str, int]] = dict


_names = _Names()


def register_names(*, runs: Callable[[], Iterable[RunName]], operators: Callable[[], dict[str, int]]) -> None:
    """Say how digests and operators are called. Called once, when the layer that knows is loaded."""
    _names.runs, _names.operators = runs, operators


def selected(text: str, *, now: datetime) -> QuerySet[Device]:
    """Devices in service that a query selects. Raises QueryError; `now` is what ages count back from."""
    return Device.objects.filter(where(parse(text), now=now), retired_at=None)


def where(query: Query, *, now: datetime, groups: str = "all") -> Q:
    """The condition over Device that a query means.

    groups: `all`, or `static` for the query of a dynamic group, which cannot look into other dynamic ones.
    Raises QueryError `query_unknown_field` for a group that does not exist, and what `group_where` raises.
    """
    if isinstance(query, Comparison):
        return _Condition(query, now, groups).built()
    parts = [where(part, now=now, groups=groups) for part in query.parts]
    return reduce(operator.or_ if isinstance(query, Either) else operator.and_, parts)


def failing(query: Query, device_id: str, *, now: datetime) -> list[Comparison]:
    """The comparisons that keep a device out: of an `and` the first that fails, of an `or` every part's.

    Empty when the query means the device, or there is no such device. One database query for all of them.
    """
    leaves = {f"is_{n}": one for n, one in enumerate(comparisons(query))}
    tests = {name: ExpressionWrapper(where(one, now=now), BooleanField()) for name, one in leaves.items()}
    row = Device.objects.filter(pk=device_id).annotate(**tests).values(*tests).first()
    if row is None:
        return []
    answers = {id(one): bool(row[name]) for name, one in leaves.items()}
    return _failing(query, answers)


def _failing(query: Query, answers: dict[int, bool]) -> list[Comparison]:
    if isinstance(query, Comparison):
        return [] if answers[id(query)] else [query]
    parts = [_failing(part, answers) for part in query.parts]
    if isinstance(query, Either):
        return [one for part in parts for one in part] if all(parts) else []
    return next((part for part in parts if part), [])


def group_where(group: DeviceGroup, *, now: datetime) -> Q:
    """The condition over Device that a group means.

    Raises GroupError `group_query_invalid` when the stored query is no longer one, with the position in it.
    """
    if group.kind == GroupKind.STATIC:
        return membership.listed(group)
    try:
        return where(parse(group.q), now=now, groups="static")
    except QueryError as error:
        raise GroupError(
            "group_query_invalid",
            f"the query of group {group.name} is no longer one: {error.text}",
            field="q",
            position=error.position,
            nearest=error.nearest,
        ) from error


class _Condition:
    """One comparison as a condition."""

    def __init__(self, one: Comparison, now: datetime, groups: str) -> None:
        self.one = one
        self.now = now
        self.groups = groups

    def built(self) -> Q:
        one = self.one
        if one.operator == "=null=":
            present = self._present()
            return ~present if one.values[0].text == "true" else present
        if one.operator in _SUFFIXES:
            return self._ordered(one.values[0].text)
        equal = reduce(operator.or_, [self._equal(value) for value in one.values])
        return self._present() & ~equal if one.operator in ("!=", "=out=") else equal

    def _group(self, group: DeviceGroup) -> Q:
        return group_where(group, now=self.now)

    @property
    def _slot(self) -> tuple[int, str]:
        _, number, part = self.one.field.split(".")
        return int(number), part

    @property
    def _attribute(self) -> str:
        return self.one.field.removeprefix("attr.")

    def _present(self) -> Q:
        name = self.one.field
        if name.startswith("attr."):
            return Q(attributes__has_key=self._attribute)
        if name.startswith("slot."):
            return self._in_slot(_ran(self._slot[1]))
        if name == "group":
            return membership.in_any(kind=self.groups, expand=self._group)
        if name == "arena_free":
            return Q(pk__in=DeviceSlot.objects.values("device"))
        return {
            "fw": Q(firmware_version__gt=""),
            "tag": ~Q(tags=[]),
            "op": ~Q(operators=[]),
            "last_seen": Q(last_seen_at__isnull=False),
        }.get(name, _ALWAYS)

    def _equal(self, value: Text) -> Q:
        name = self.one.field
        if name.startswith("attr."):
            if value.is_prefix:
                return Q(StartsWith(KeyTextTransform(self._attribute, "attributes"), value.text))
            return Q(attributes__contains={self._attribute: value.text})
        if name.startswith("slot."):
            return self._slot_equal(value)
        if name == "group":
            return membership.in_named(value, kind=self.groups, expand=self._group)
        if name == "tag":
            return _begins("tags", value.text) if value.is_prefix else Q(tags__contains=[value.text])
        if name == "op":
            return _operator(value)
        if name == "online":
            is_online = Q(presence=Presence.ONLINE)
            return is_online if value.text == "true" else ~is_online
        if name == "arena_free":
            return Q(Exact(_arena_free(), int(value.text)))
        if name == "chip":
            return _text("chip", value) & Q(chip__gt="") | Q(chip="") & _text("device_class__chip", value)
        return _text({"id": "pk", "class": "device_class__name", "fw": "firmware_version"}[name], value) & (
            Q(firmware_version__gt="") if name == "fw" else _ALWAYS
        )

    def _ordered(self, text: str) -> Q:
        name, suffix = self.one.field, _SUFFIXES[self.one.operator]
        lookup = _LOOKUPS[self.one.operator]
        if name.startswith("attr."):
            return Q(lookup(_as_number(self._attribute), decimal(text)))
        if name.startswith("slot."):
            return self._slot_ordered(text)
        if name == "arena_free":
            return Q(lookup(_arena_free(), int(text)))
        if name == "fw":
            return Q(firmware_key__gt="") & Q(**{f"firmware_key__{suffix}": version_key(text)})
        column = {"last_seen": "last_seen_at", "enrolled_at": "enrolled_at"}[name]
        return Q(**{f"{column}__{suffix}": moment(text, self.now)})

    def _in_slot(self, which: Q) -> Q:
        rows = DeviceSlot.objects.filter(which, device=OuterRef("pk"), slot=self._slot[0])
        return Q(Exists(rows))

    def _slot_equal(self, value: Text) -> Q:
        part = self._slot[1]
        if part == "digest":
            return self._in_slot(_ran() & _text("run", Text(value.text.lower(), value.is_prefix)))
        if part == "seq":
            return self._in_slot(_ran() & Q(run_seq=int(value.text)))
        same = str.startswith if value.is_prefix else operator.eq
        return self._in_slot(_ran() & Q(run__in=_runs(lambda name: same(getattr(name, part), value.text))))

    def _slot_ordered(self, text: str) -> Q:
        if self._slot[1] == "seq":
            return self._in_slot(_ran() & Q(**{f"run_seq__{_SUFFIXES[self.one.operator]}": int(text)}))
        order, key = _ORDERS[self.one.operator], version_key(text)
        runs = _runs(lambda name: bool(found := version_key(name.version)) and order(found, key))
        return self._in_slot(_ran() & Q(run__in=runs))


def _ran(part: str = "digest") -> Q:
    """A slot that runs something that has this part."""
    runs = Q(run__gt="") & Q(Exact(F("run_flags").bitand(STOPPED), 0))
    if part == "seq":
        return runs & Q(run_seq__isnull=False)
    return runs if part == "digest" else runs & Q(run__in=_runs(lambda name: True))


def _runs(is_meant: Callable[[RunName], bool]) -> Sequence[str]:
    return [name.run for name in _names.runs() if is_meant(name)]


def _text(column: str, value: Text) -> Q:
    return Q(**{f"{column}__startswith": value.text}) if value.is_prefix else Q(**{column: value.text})


def _begins(column: str, prefix: str) -> Q:
    """A JSON list of texts that holds one with this beginning."""
    found = Func(
        F(column),
        Value({"with": prefix}, output_field=JSONField()),
        function="jsonb_path_exists",
        template="%(function)s(%(expressions)s)",
        arg_joiner=", '$[*] ? (@ starts with $with)'::jsonpath, ",
        output_field=BooleanField(),
    )
    return Q(Exact(found, True))


def _operator(value: Text) -> Q:
    """Devices that link an operator, by builtin code, by schema name or by a custom operator's name."""
    codes = _names.operators()
    if value.is_prefix:
        found = [code for name, code in codes.items() if name.startswith(value.text)]
        return reduce(
            operator.or_, [Q(operators__contains=[code]) for code in found], _begins("operators", value.text)
        )
    if value.text.isascii() and value.text.isdigit() and len(value.text) <= 9:
        return Q(operators__contains=[int(value.text)])
    return Q(operators__contains=[codes.get(value.text, value.text)])


def _arena_free() -> Any:
    """Bytes of the class's arena that no slot uses; NULL for a device that never reported a slot."""
    rows = DeviceSlot.objects.filter(device=OuterRef("pk")).order_by().values("device")
    used = rows.annotate(used=Sum("arena_used")).values("used")
    return F("device_class__arena_bytes") - Subquery(used, output_field=BigIntegerField())


def _as_number(key: str) -> Any:
    """An attribute as a number, NULL when its text is none: the cast runs only for what it can take."""
    text = KeyTextTransform(key, "attributes")
    number = DecimalField(max_digits=21, decimal_places=6)
    is_number = Q(Regex(KeyTextTransform(key, "attributes"), r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$"))
    return Case(When(is_number, then=Cast(text, number)), output_field=number)
