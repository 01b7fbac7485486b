"""Limits of people and tokens to groups of devices: what is outside does not exist for them.

A limit is a set of names; a device is inside when it is in one of these groups now. None is no limit, and a
group that no longer exists holds nothing, so that deleting one never opens more.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from datetime import datetime
from functools import reduce

from django.db.models import Q

from fleet.devices.errors import GroupError
from fleet.devices.models import Device, DeviceGroup
from fleet.devices.selection import group_where

NOTHING = Q(pk__in=[])


def inside(limit: Collection[str] | None, *, now: datetime) -> Q:
    """The condition over Device that a limit means.

    A group whose stored query is no longer one counts as empty.
    """
    if limit is None:
        return Q()
    parts = []
    for group in DeviceGroup.objects.filter(name__in=limit):
        try:
            parts.append(group_where(group, now=now))
        except GroupError:
            continue
    return reduce(operator.or_, parts, NOTHING)


def is_inside(limit: Collection[str] | None, device_id: str, *, now: datetime) -> bool:
    """True when there is such a device inside the limit."""
    return Device.objects.filter(inside(limit, now=now), pk=device_id).exists()


def check(names: Collection[str]) -> None:
    """Raise GroupError `unknown_group` for the first name that no group has."""
    known = set(DeviceGroup.objects.filter(name__in=names).values_list("name", flat=True))
    for name in names:
        if name not in known:
            raise GroupError("unknown_group", f"no group is called {name[:40]!r}", field="groups")
