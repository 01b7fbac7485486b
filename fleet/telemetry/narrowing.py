"""Telemetry queries of people and tokens that are limited to groups of devices (`fleet.devices.limits`)."""

from collections.abc import Collection
from typing import Final

from fleet.devices.models import DeviceGroup
from fleet.devices.query import parse
from fleet.telemetry.fields import FIELDS

NOTHING: Final = "id==-"
"""No device is called so: names do not begin with a dash."""


def narrowed(q: str, limit: Collection[str] | None) -> str:
    """A query that counts only what devices inside the limit reported; `q` itself without a limit.

    A limit whose groups are all gone counts nothing. Raises QueryError of `fleet.devices` for a query that is
    none: it is read alone first, so that a stray parenthesis does not reach beyond the ones put around it.
    """
    if limit is None:
        return q
    names = sorted(DeviceGroup.objects.filter(name__in=limit).values_list("name", flat=True))
    own = f"group=in=({','.join(names)})" if names else NOTHING
    if not q:
        return own
    parse(q, FIELDS)
    return f"({q});{own}"
