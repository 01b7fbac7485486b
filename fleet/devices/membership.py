"""Which devices are in the groups a query names: rows of a static one, the stored query of a dynamic one.

A dynamic group's query may name static groups only, so nothing is ever looked up in a circle.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Final

from django.db.models import Exists, OuterRef, Q

from fleet.devices.errors import QueryError
from fleet.devices.models import DeviceGroup, GroupKind, GroupMember
from fleet.devices.query_terms import Value

MAX_DYNAMIC: Final = 64
"""Most stored queries that one condition takes in."""
Expand = Callable[[DeviceGroup], Q]
"""The condition over Device that a group means."""


def listed(group: DeviceGroup) -> Q:
    """Devices that a static group lists."""
    return _rows(Q(group=group))


def in_named(value: Value, *, kind: str, expand: Expand) -> Q:
    """Devices of the group with this name, or of all whose name begins so. kind: `all` or `static`.

    Raises QueryError `query_unknown_field` when there is no group of exactly this name: what compares with
    `!=` would else select every device.
    """
    groups = DeviceGroup.objects.all() if kind == "all" else DeviceGroup.objects.filter(kind=GroupKind.STATIC)
    if value.is_prefix:
        return _any_of(groups.filter(pk__startswith=value.text), expand, value.position)
    group = groups.filter(pk=value.text).first()
    if group is None:
        known = list(groups.values_list("pk", flat=True)[:1000])
        which = "group" if kind == "all" else "static group"
        raise QueryError(
            "query_unknown_field",
            f"there is no {which} {value.text[:40]!r} (position {value.position})",
            position=value.position,
            nearest=difflib.get_close_matches(value.text, known, n=3, cutoff=0.5),
        )
    return expand(group)


def in_any(*, kind: str, expand: Expand) -> Q:
    """Devices that are in a group at all. kind: `all` or `static`."""
    if kind != "all":
        return _rows(Q())
    return _rows(Q()) | _any_of(DeviceGroup.objects.filter(kind=GroupKind.DYNAMIC), expand, 0)


def _any_of(groups: Iterable[DeviceGroup], expand: Expand, position: int) -> Q:
    found = list(groups)
    dynamic = [group for group in found if group.kind == GroupKind.DYNAMIC]
    if len(dynamic) > MAX_DYNAMIC:
        text = f"this takes in {len(dynamic)} dynamic groups, at most {MAX_DYNAMIC} (position {position})"
        raise QueryError("query_syntax", text, position=position, nearest=[])
    static = [group.pk for group in found if group.kind == GroupKind.STATIC]
    parts = [_rows(Q(group__in=static))] if static else []
    return reduce(operator.or_, parts + [expand(group) for group in dynamic], Q(pk__in=[]))


def _rows(which: Q) -> Q:
    return Q(Exists(GroupMember.objects.filter(which, device=OuterRef("pk"))))
