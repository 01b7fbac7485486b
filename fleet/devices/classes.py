"""Device classes: what boards of one kind have in common, named by the digest that manifests target."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import F

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.devices.default_classes import DEFAULT_CLASSES, OPERATORS, DefaultClass
from fleet.devices.errors import ClassError
from fleet.devices.models import DeviceClass
from fleet.mqtt.codec.classes import ClassDescription, Operator, sorted_operators
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import Chip
from fleet.mqtt.topics import is_device_id

__all__ = [
    "DEFAULT_CLASSES",
    "change_class",
    "class_id",
    "create_class",
    "ensure_default_classes",
    "get_class",
    "operator_names",
    "operators_of",
    "to_wire",
]
MAX_DESCRIPTION: Final = 256
MAX_ESP_NN: Final = 16
MAX_CUSTOM: Final = 64
_FIRMWARE: Final = re.compile(r"\d{1,5}\.\d{1,5}\.\d{1,5}", re.ASCII)
_NAMES: Final = {code: name for name, code in OPERATORS.items()}


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
    _check_words(firmware_version, esp_nn_version, description)
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


def change_class(
    row: DeviceClass,
    *,
    actor: Actor,
    now: datetime,
    arena_bytes: int | None = None,
    slot_bytes: Sequence[int] | None = None,
    operators: Sequence[Operator] | None = None,
    esp_nn_version: str | None = None,
    firmware_version: str | None = None,
    description: str | None = None,
) -> bool:
    """Change what is given of a class. True when its class id is another one now.

    A new class id makes every verdict on the class stale and no manifest signed before targets it: versions
    are inspected and released again for it, and its devices take models again once their own description
    (their firmware's) says the same. Name and chip stay: a board with another chip is another class. Raises
    ClassError `validation`, `duplicate` (an equal description exists), `stale` when somebody else changed the
    class since `row` was read.
    """
    wire = sorted_operators([*row.operators, *row.custom_operators] if operators is None else operators)
    values: dict[str, Any] = {
        "arena_bytes": row.arena_bytes if arena_bytes is None else arena_bytes,
        "slot_bytes": list(row.slot_bytes if slot_bytes is None else slot_bytes),
        "operators": [code for code in wire if isinstance(code, int)],
        "custom_operators": [code for code in wire if isinstance(code, str)],
        "esp_nn_version": row.esp_nn_version if esp_nn_version is None else esp_nn_version,
        "firmware_version": row.firmware_version if firmware_version is None else firmware_version,
        "description": row.description if description is None else description.strip(),
    }
    _check_words(values["firmware_version"], values["esp_nn_version"], values["description"])
    shape = (row.name, row.chip, values["arena_bytes"], values["slot_bytes"], wire, values["esp_nn_version"])
    values["class_id"] = class_id(*shape).hex()
    changed = {name: value for name, value in values.items() if value != getattr(row, name)}
    before = {name: getattr(row, name) for name in changed}
    try:
        with transaction.atomic():
            if DeviceClass.objects.filter(pk=row.pk, rev=row.rev).update(rev=F("rev") + 1, **values) != 1:
                raise ClassError("stale", f"class {row.name} was changed meanwhile: read it again")
            audit.record(
                actor=actor, verb="class.change", subject_kind="device_class", subject_id=row.name, at=now,
                before=before, after=changed,
            )  # fmt: skip
    except IntegrityError:
        raise ClassError("duplicate", "another class has exactly this description") from None
    row.refresh_from_db()
    return "class_id" in changed


def operators_of(names: Iterable[str]) -> list[Operator]:
    """Builtin codes of schema names as `CONV_2D` or codes as `3`; a name in quotes is a custom operator's.

    Raises ClassError `validation` for a name that TFLM has no kernel for.
    """
    found: list[Operator] = []
    for name in names:
        if 2 < len(name) <= MAX_CUSTOM + 2 and name[0] == name[-1] == '"' and name.isprintable():
            found.append(name[1:-1])
        elif name.upper() in OPERATORS:
            found.append(OPERATORS[name.upper()])
        elif name.isascii() and name.isdigit() and len(name) <= 3 and int(name) in _NAMES:
            found.append(int(name))
        else:
            text = f"{name[:40]!r} is no operator of TFLite Micro; a custom one is written in quotes"
            raise ClassError("validation", text, field="operators")
    return found


def operator_names(row: DeviceClass) -> list[str]:
    """What `operators_of` reads: names of the builtin operators, and the custom ones in quotes."""
    return [_NAMES.get(code, str(code)) for code in row.operators] + [
        f'"{name}"' for name in row.custom_operators
    ]


def _check_words(firmware: str, esp_nn: str, description: str) -> None:
    if not _FIRMWARE.fullmatch(firmware):
        text = "a firmware version is three numbers, as 1.4.0"
        raise ClassError("validation", text, field="firmware_version")
    if len(esp_nn) > MAX_ESP_NN or not esp_nn.isprintable():
        text = f"an ESP-NN version has at most {MAX_ESP_NN} characters"
        raise ClassError("validation", text, field="esp_nn_version")
    if len(description) > MAX_DESCRIPTION or not description.isprintable():
        text = f"a description is one line of at most {MAX_DESCRIPTION} characters"
        raise ClassError("validation", text, field="description")


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
