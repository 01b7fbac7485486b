"""Groups of devices: static ones list their members, dynamic ones store a query (rollouts.md 1).

Every change is one conditional UPDATE of the group's revision with its audit row; a refusal changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import Count, F, QuerySet

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices.errors import GroupError, QueryError
from fleet.devices.models import Device, DeviceGroup, GroupKind, GroupMember
from fleet.devices.query import parse
from fleet.devices.query_terms import comparisons
from fleet.devices.selection import group_where, where
from fleet.mqtt.topics import is_device_id

BATCH: Final = 5_000
MAX_GROUPS: Final = 1_000
SAMPLE: Final = 8


def create(
    name: str, *, kind: str, actor: Actor, now: datetime, q: str = "", description: str = ""
) -> DeviceGroup:
    """Make a group: an empty static one, or a dynamic one with its query.

    Raises GroupError `validation` or `duplicate`, QueryError for a query that is none.
    """
    if not is_device_id(name):
        raise GroupError("validation", "a name is 1..32 of a-z, 0-9 and -, not starting with -", field="name")
    if kind not in GroupKind.values:
        raise GroupError("validation", "kind is static or dynamic", field="kind")
    row = DeviceGroup(
        name=name,
        kind=kind,
        q=_query(kind, q, now=now),
        description=_description(description),
        created_at=now,
        created_by=actor.name,
        changed_at=now,
    )
    try:
        with transaction.atomic():
            if DeviceGroup.objects.count() >= MAX_GROUPS:
                raise GroupError(
                    "validation", f"there are {MAX_GROUPS} groups already, at most as many can be"
                )
            row.save(force_insert=True)
            _record(row, "group.create", actor, now, after={"kind": kind, "q": row.q})
    except IntegrityError:
        raise GroupError("duplicate", f"a group {name!r} exists already", field="name") from None
    return row


def change(
    group: DeviceGroup, *, actor: Actor, now: datetime, q: str | None = None, description: str | None = None
) -> DeviceGroup:
    """Change the query of a dynamic group, or a description. The kind stays.

    Raises as `create`, and GroupError `stale` when somebody else changed the group since it was read.
    """
    values: dict[str, Any] = {}
    if q is not None:
        values["q"] = _query(group.kind, q, now=now)
    if description is not None:
        values["description"] = _description(description)
    before = {name: getattr(group, name) for name in values}
    with transaction.atomic():
        _claim(group, now, **values)
        _record(group, "group.change", actor, now, before=before, after=values)
    return group


def set_members(
    group: DeviceGroup,
    ids: Sequence[str],
    *,
    actor: Actor,
    now: datetime,
    lines: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Make exactly these devices the members of a static group: {"members": n, "added": n, "removed": n}.

    lines: where an import names each device. Raises GroupError `immutable` for a dynamic group,
    `unknown_device` (with the line), `stale`; then no member changes.
    """
    if group.kind != GroupKind.STATIC:
        raise GroupError("immutable", f"{group.name} is dynamic: its query says who is in it")
    wanted = set(ids)
    _check_known(list(dict.fromkeys(ids)), lines or {})
    with transaction.atomic():
        _claim(group, now)
        old = set(GroupMember.objects.filter(group=group).values_list("device_id", flat=True))
        gone, new = sorted(old - wanted), sorted(wanted - old)
        for start in range(0, len(gone), BATCH):
            GroupMember.objects.filter(group=group, device_id__in=gone[start : start + BATCH]).delete()
        for start in range(0, len(new), BATCH):
            rows = [GroupMember(group=group, device_id=pk) for pk in new[start : start + BATCH]]
            GroupMember.objects.bulk_create(rows)
        answer = {"members": len(wanted), "added": len(new), "removed": len(gone)}
        sample = {"added_first": new[:SAMPLE], "removed_first": gone[:SAMPLE]}
        _record(group, "group.members", actor, now, before={"members": len(old)}, after={**answer, **sample})
    return answer


def add_members(group: DeviceGroup, ids: Sequence[str], *, actor: Actor, now: datetime) -> dict[str, int]:
    """Add these devices to a static group, whoever is in it: {"members": n, "added": n}.

    Unlike `set_members` it takes no revision from its caller: what others added meanwhile stays. Raises
    GroupError `immutable` for a dynamic group, `unknown_device`; then no member changes.
    """
    if group.kind != GroupKind.STATIC:
        raise GroupError("immutable", f"{group.name} is dynamic: its query says who is in it", field="group")
    wanted = list(dict.fromkeys(ids))
    _check_known(wanted, {})
    with transaction.atomic():
        # the row is locked until commit: of two who add at a time the second one sees what the first added
        found = DeviceGroup.objects.filter(pk=group.pk)
        if found.update(rev=F("rev") + 1, changed_at=now) != 1:
            raise GroupError("not_found", f"there is no group {group.name} any more", field="group")
        rows = GroupMember.objects.filter(group=group)
        old = set(rows.values_list("device_id", flat=True))
        new = [pk for pk in wanted if pk not in old]
        for start in range(0, len(new), BATCH):
            batch = [GroupMember(group=group, device_id=pk) for pk in new[start : start + BATCH]]
            GroupMember.objects.bulk_create(batch)
        answer = {"members": len(old) + len(new), "added": len(new)}
        after = {**answer, "added_first": new[:SAMPLE]}
        _record(group, "group.add", actor, now, before={"members": len(old)}, after=after)
    group.refresh_from_db()
    return answer


def delete(group: DeviceGroup, *, actor: Actor, now: datetime) -> None:
    """Remove a group. Raises GroupError `in_use` when the stored query of another one names it, `stale`."""
    with transaction.atomic():
        for other in DeviceGroup.objects.filter(kind=GroupKind.DYNAMIC).exclude(pk=group.pk):
            if group.pk in _named(other.q):
                raise GroupError("in_use", f"the query of group {other.name} names {group.name}")
        _claim(group, now)
        _record(group, "group.delete", actor, now, before={"kind": group.kind, "q": group.q})
        DeviceGroup.objects.filter(pk=group.pk).delete()


def members(group: DeviceGroup, *, now: datetime) -> QuerySet[Device]:
    """Devices in service that are in the group now. Raises GroupError `group_query_invalid`."""
    return Device.objects.filter(group_where(group, now=now), retired_at=None)


def member_counts(names: Collection[str]) -> dict[str, int]:
    """Devices in service that static groups list, by group; one that lists nobody is absent.

    Two queries over indexes, whatever the groups hold: everybody who is listed, less those who are retired.
    """
    rows = GroupMember.objects.filter(group__in=names).order_by()
    listed, gone = (
        dict(part.values_list("group").annotate(n=Count("*")))
        for part in (rows, rows.filter(device__in=Device.objects.filter(retired_at__isnull=False)))
    )
    return {name: n - gone.get(name, 0) for name, n in listed.items()}


def preview(q: str, *, now: datetime) -> dict[str, Any]:
    """What a query selects: {"count": n, "sample": [id, ...], "classes": {name: n}}. Raises QueryError."""
    return summary(Device.objects.filter(where(parse(q), now=now), retired_at=None))


def summary(devices: QuerySet[Device]) -> dict[str, Any]:
    """As `preview`, for any selection of devices."""
    classes = dict(devices.order_by().values_list("device_class_id").annotate(n=Count("*")))
    return {
        "count": sum(classes.values()),
        "sample": list(devices.order_by("pk").values_list("pk", flat=True)[:SAMPLE]),
        "classes": dict(sorted(classes.items())),
    }


def _query(kind: str, q: str, *, now: datetime) -> str:
    """The query to store. It is compiled once, so that a group it names is known to exist."""
    q = q.strip()
    if kind == GroupKind.STATIC:
        if q:
            raise GroupError("validation", "a static group lists its members and has no query", field="q")
        return ""
    where(parse(q), now=now, groups="static")
    return q


def _description(text: str) -> str:
    text = text.strip()
    if len(text) > 256 or not text.isprintable():
        raise GroupError(
            "validation", "a description is one line of at most 256 characters", field="description"
        )
    return text


def _named(q: str) -> set[str]:
    """Groups that a stored query names; none in one that is no query any more."""
    try:
        found = [one for one in comparisons(parse(q)) if one.field == "group" and one.operator != "=null="]
    except QueryError:
        return set()
    return {value.text for one in found for value in one.values if not value.is_prefix}


def _check_known(ids: list[str], lines: Mapping[str, int]) -> None:
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        found = Device.objects.filter(pk__in=batch, retired_at=None).values_list("pk", flat=True)
        known = set(found)
        for device_id in batch:
            if device_id not in known:
                line = lines.get(device_id, 0)
                where_ = f"line {line}: " if line else ""
                raise GroupError(
                    "unknown_device",
                    f"{where_}no device is called {device_id[:40]!r}",
                    line=line,
                    field="devices",
                )


def _claim(group: DeviceGroup, now: datetime, **values: Any) -> None:
    """Take the next revision. Raises GroupError `stale` for all but one of those who read the same one."""
    found = DeviceGroup.objects.filter(pk=group.pk, rev=group.rev)
    if found.update(rev=F("rev") + 1, changed_at=now, **values) != 1:
        raise GroupError("stale", f"group {group.name} was changed meanwhile: read it again")
    group.rev += 1
    for name, value in {**values, "changed_at": now}.items():
        setattr(group, name, value)


def _record(
    group: DeviceGroup,
    verb: str,
    actor: Actor,
    now: datetime,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    audit.record(
        actor=actor, verb=verb, subject_kind="group", subject_id=group.pk, at=now, before=before, after=after
    )
