"""Tags and attributes: what people say about a device, for queries and groups. One or many by import."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices import time_zones
from fleet.devices.errors import GroupError
from fleet.devices.models import Device
from fleet.devices.records import Record

MAX_TAGS: Final = 32
MAX_ATTRIBUTES: Final = 32
MAX_VALUE: Final = 128
BATCH: Final = 5_000
_TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,31}")
_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def revision(device: Device) -> str:
    """What changes exactly when tags or attributes do: the device's ETag."""
    said = json.dumps([device.tags, device.attributes], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def label(
    device: Device,
    *,
    actor: Actor,
    now: datetime,
    tags: Sequence[Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> bool:
    """Set a device's tags, and merge attributes: a value of None removes its key. False when nothing changes.

    tags, attributes: None leaves them. Raises GroupError `validation` naming the field, `stale` when somebody
    else changed them since `device` was read.
    """
    new_tags = device.tags if tags is None else checked_tags(tags)
    new_attributes = _merged(device.attributes, {} if attributes is None else checked_attributes(attributes))
    if (new_tags, new_attributes) == (device.tags, device.attributes):
        return False
    before = {"tags": device.tags, "attributes": device.attributes}
    with transaction.atomic():
        same = Device.objects.filter(pk=device.pk, tags=device.tags, attributes=device.attributes)
        if same.update(tags=new_tags, attributes=new_attributes) != 1:
            raise GroupError("stale", "the tags or attributes were changed meanwhile: read them again")
        audit.record(
            actor=actor,
            verb="device.label",
            subject_kind="device",
            subject_id=device.pk,
            at=now,
            before=before,
            after={"tags": new_tags, "attributes": new_attributes},
        )
    device.tags, device.attributes = new_tags, new_attributes
    return True


def import_labels(
    records: Sequence[Record], *, actor: Actor, now: datetime, dry_run: bool = False
) -> dict[str, int]:
    """Set tags and attributes of many devices: {"lines": n, "changed": n}. Either every line or none.

    A field `tags` replaces the tags, in CSV separated by blanks; `attr.<key>` sets an attribute, empty
    removes it. A field that is absent is left. Raises GroupError `validation` or `unknown_device` with the
    line.
    """
    changes = [(record, *_change(record)) for record in records]
    with transaction.atomic():
        rows = _locked({record.device_id: record.line for record in records})
        changed: list[Device] = []
        for record, tags, attributes in changes:
            device = rows[record.device_id]
            found = (device.tags if tags is None else tags, _imported(device, attributes, record.line))
            if found != (device.tags, device.attributes):
                device.tags, device.attributes = found
                changed.append(device)
        answer = {"lines": len(records), "changed": len(changed)}
        if dry_run or not changed:
            return answer
        for start in range(0, len(changed), BATCH):
            Device.objects.bulk_update(
                changed[start : start + BATCH], ["tags", "attributes"], batch_size=1000
            )
        audit.record(
            actor=actor,
            verb="device.import",
            subject_kind="devices",
            subject_id="*",
            at=now,
            after={**answer, "changed_first": [device.pk for device in changed[:8]]},
        )
    return answer


def checked_tags(tags: Sequence[Any]) -> list[str]:
    """Tags sorted, each once. Raises GroupError `validation`."""
    if len(tags) > MAX_TAGS:
        raise GroupError("validation", f"a device has at most {MAX_TAGS} tags, not {len(tags)}", field="tags")
    for tag in tags:
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            text = f"{str(tag)[:40]!r} is no tag: 1 to 32 of a-z, A-Z, 0-9, ._:/- and no sign first"
            raise GroupError("validation", text, field="tags")
    return sorted(set(tags))


def checked_attributes(attributes: Mapping[str, Any]) -> dict[str, str | None]:
    """Attributes as they came; None removes. `tz` is a zone of the IANA database: a wrong one would let the
    device be offered a model at another hour than its windows say. Raises GroupError `validation`.
    """
    for key, value in attributes.items():
        if not _KEY.fullmatch(key):
            text = f"{key[:40]!r} is no key: 1 to 32 of a-z, 0-9, _ and -, beginning with a letter"
            raise GroupError("validation", text, field=f"attributes.{key[:40]}")
        if value is not None and not _is_value(value):
            text = (
                f"the value of {key} is not a text of 1 to {MAX_VALUE} characters without control characters"
            )
            raise GroupError("validation", text, field=f"attributes.{key}")
        if key == time_zones.ATTRIBUTE and value is not None and time_zones.find(value) is None:
            text = f"{value[:40]!r} is no time zone: a name of the IANA database, as Europe/Berlin or UTC"
            raise GroupError("validation", text, field=f"attributes.{key}")
    return dict(attributes)


def _is_value(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_VALUE and value.isprintable()


def _merged(old: dict[str, str], new: Mapping[str, str | None]) -> dict[str, str]:
    merged = {key: value for key, value in {**old, **new}.items() if value is not None}
    if len(merged) > MAX_ATTRIBUTES:
        text = f"a device has at most {MAX_ATTRIBUTES} attributes, not {len(merged)}"
        raise GroupError("validation", text, field="attributes")
    return merged


def _change(record: Record) -> tuple[list[str] | None, dict[str, str | None]]:
    """Tags and attributes that a line sets."""
    try:
        tags: list[str] | None = None
        attributes: dict[str, Any] = {}
        for name, value in record.fields.items():
            if name == "tags":
                given = value.split() if isinstance(value, str) else value
                if not isinstance(given, list):
                    raise GroupError(
                        "validation", "tags is a list, or texts separated by blanks", field="tags"
                    )
                tags = checked_tags(given)
            elif name.startswith("attr."):
                attributes[name.removeprefix("attr.")] = None if value == "" else value
            else:
                text = f"there is no column {name[:40]!r}: id, tags and attr.<key>"
                raise GroupError("validation", text, field=name[:40])
        return tags, checked_attributes(attributes)
    except GroupError as error:
        raise GroupError(
            error.code, f"line {record.line}: {error.text}", field=error.field, line=record.line
        ) from error


def _imported(device: Device, attributes: Mapping[str, str | None], line: int) -> dict[str, str]:
    try:
        return _merged(device.attributes, attributes)
    except GroupError as error:
        raise GroupError(error.code, f"line {line}: {error.text}", field=error.field, line=line) from error


def _locked(lines: Mapping[str, int]) -> dict[str, Device]:
    """The devices of these ids, locked, since an import may set one attribute of many.

    Raises GroupError `unknown_device` with the first line that names none.
    """
    ids = sorted(lines)
    rows: dict[str, Device] = {}
    for start in range(0, len(ids), BATCH):
        found = Device.objects.filter(pk__in=ids[start : start + BATCH], retired_at=None)
        found = found.order_by("pk").select_for_update().only("id", "tags", "attributes")
        rows |= {row.pk: row for row in found}
    for device_id, line in lines.items():
        if device_id not in rows:
            raise GroupError("unknown_device", f"line {line}: no device is called {device_id!r}", line=line)
    return rows
