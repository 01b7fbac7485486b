"""Device classes: what boards of one kind have in common, named by the digest that manifests target."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.devices.default_classes import DEFAULT_CLASSES, DefaultClass
from fleet.devices.errors import ClassError
from fleet.devices.models import DeviceClass
from fleet.mqtt.codec.classes import ClassDescription, Operator, sorted_operators
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import Chip
from fleet.mqtt.topics import is_device_id

__all__ = ["DEFAULT_CLASSES", "class_id", "create_class", "ensure_default_classes", "get_class", "to_wire"]


def class_id(
    name: str,
    chip: str,
    arena_bytes: int,
    slot_bytes: Sequence[int],
    operators: Sequence[Operator],
    esp_nn_version: str = "",
) -> bytes:
    """The 16 bytes of SPEC.md section 9. operators: builtin codes and custom names in any order.

    Raises ClassError `validation` for an unknown chip, a slot that is not whole chunks or any other value
    outside the format.
    """
    try:
        number = Chip.from_label(chip)
    except KeyError:
        known = ", ".join(sorted(member.label for member in Chip))
        raise ClassError("validation", f"unknown chip {chip[:20]!r}, one of {known}", field="chip") from None
    try:
        return ClassDescription(
            name, number, arena_bytes, tuple(slot_bytes), sorted_operators(operators), esp_nn_version
        ).class_id
    except (CodecError, ValueError, TypeError) as error:
        raise ClassError("validation", f"not a device class: {error}") from error


def create_class(
    name: str,
    *,
    chip: str,
    arena_bytes: int,
    slot_bytes: Sequence[int],
    operators: Sequence[Operator],
    now: datetime,
    actor: Actor = SYSTEM,
    esp_nn_version: str = "",
    firmware_version: str = "1.0.0",
    description: str = "",
) -> DeviceClass:
    """Add a device class. slot_bytes: whole chunks of 4096 per slot, 1 to 4 slots.

    Raises ClassError `validation` or `duplicate` (the name, or an equal description under another name).
    """
    if not is_device_id(name):
        raise ClassError("validation", "a name is 1..32 of a-z, 0-9 and -, not starting with -", field="name")
    wire = sorted_operators(operators)
    digest = class_id(name, chip, arena_bytes, slot_bytes, wire, esp_nn_version).hex()
    row = DeviceClass(
        name=name,
        chip=chip,
        arena_bytes=arena_bytes,
        slot_bytes=list(slot_bytes),
        operators=[code for code in wire if isinstance(code, int)],
        custom_operators=[code for code in wire if isinstance(code, str)],
        esp_nn_version=esp_nn_version,
        firmware_version=firmware_version,
        class_id=digest,
        description=description,
        created_at=now,
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            audit.record(
                actor=actor,
                verb="class.create",
                subject_kind="device_class",
                subject_id=name,
                at=now,
                after={"class_id": digest, "chip": chip, "arena_bytes": arena_bytes},
            )
    except IntegrityError:
        raise ClassError("duplicate", f"a device class {name!r} exists already", field="name") from None
    return row


def ensure_default_classes(now: datetime) -> list[DeviceClass]:
    """Add those classes of DEFAULT_CLASSES whose name is free; returns the new ones.

    One that was changed stays so.
    """
    known = set(DeviceClass.objects.values_list("name", flat=True))
    return [_create(entry, now) for entry in DEFAULT_CLASSES if entry.name not in known]


def _create(entry: DefaultClass, now: datetime) -> DeviceClass:
    return create_class(
        entry.name,
        chip=entry.chip,
        arena_bytes=entry.arena_bytes,
        slot_bytes=entry.slot_bytes,
        operators=entry.operators,
        esp_nn_version=entry.esp_nn_version,
        firmware_version=entry.firmware_version,
        description=entry.description,
        now=now,
    )


def get_class(name: str) -> DeviceClass:
    """The class called `name`. Raises ClassError `unknown_class`, naming those that exist."""
    row = DeviceClass.objects.filter(pk=name).first()
    if row is None:
        known = ", ".join(DeviceClass.objects.values_list("name", flat=True)) or "none: run `manage.py setup`"
        raise ClassError("unknown_class", f"no device class {name[:40]!r}; there are: {known}", field="class")
    return row


def to_wire(row: DeviceClass) -> dict[str, Any]:
    """What a device is told about its class at enrolment (SPEC.md section 10)."""
    return {
        "arena_bytes": row.arena_bytes,
        "slot_bytes": row.slot_bytes,
        "operators": [*row.operators, *row.custom_operators],
        "esp_nn_version": row.esp_nn_version,
    }
