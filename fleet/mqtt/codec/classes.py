"""Operator lists, class descriptions and the short digests made of them (SPEC.md sections 1, 6 and 9)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import Chip
from fleet.mqtt.codec.shape import INT32_MAX, UINT16_MAX, UINT32_MAX, Shape

CUSTOM_OPERATOR = 32
MAX_OPERATORS = 256
MAX_CLASS_BYTES = 4096

Operator = int | str
"""A builtin operator code, or the name of a custom operator."""

Firmware = tuple[int, int, int]
"""Firmware version: major, minor, patch."""


def sorted_operators(operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """Operators in wire order without duplicates: builtin codes rising, then custom names."""
    unique = set(operators)
    builtin = sorted(op for op in unique if isinstance(op, int))
    return (*builtin, *sorted((op for op in unique if isinstance(op, str)), key=str.encode))


def encode_operators(operators: Iterable[Operator]) -> list[Any]:
    """The CBOR array of an operator list, in the order given."""
    return [op if isinstance(op, int) else [CUSTOM_OPERATOR, op] for op in operators]


def parse_operators(value: Any, what: str, shape: Shape) -> tuple[Operator, ...]:
    """An operator list in wire order. Raises the shape's error when malformed, unsorted or doubled."""
    operators: list[Operator] = []
    for item in shape.array(value, what, most=MAX_OPERATORS):
        if type(item) is int:
            code = shape.uint(item, what, INT32_MAX)
            if code == CUSTOM_OPERATOR:
                raise shape.fail(f"{what} has a custom operator without its name")
            operators.append(code)
        else:
            pair = shape.array(item, what, least=2, most=2)
            shape.integer(pair[0], what, CUSTOM_OPERATOR, CUSTOM_OPERATOR)
            operators.append(shape.text(pair[1], what, least=1, most=64))
    if tuple(operators) != sorted_operators(operators):
        raise shape.fail(f"{what} is not sorted or lists an operator twice")
    return tuple(operators)


def parse_firmware(value: Any, what: str, shape: Shape) -> Firmware:
    """A firmware version of three numbers below 65,536."""
    parts = shape.array(value, what, least=3, most=3)
    major, minor, patch = (shape.uint(part, what, UINT16_MAX) for part in parts)
    return major, minor, patch


def opset_digest(operators: Iterable[Operator]) -> bytes:
    """SHA-256 of the CBOR array of an operator list, as `reported` key 7 has it."""
    return hashlib.sha256(encode(encode_operators(operators))).digest()


def build_id(firmware: str, esp_nn: str, chip: Chip) -> bytes:
    """4 bytes that name a firmware build in telemetry."""
    return hashlib.sha256(b"\0".join((firmware.encode(), esp_nn.encode(), chip.label.encode()))).digest()[:4]


def name_hash(model_name: str) -> bytes:
    """8 bytes that stand for a model name in a device's records."""
    return hashlib.sha256(model_name.encode()).digest()[:8]


@dataclass(frozen=True)
class ClassDescription:
    """What devices of one class have in common; its digest is the class id that manifests target.

    slot_bytes: capacity per slot for model and golden blob, whole chunks. operators: in wire order.
    """

    name: str
    chip: Chip
    arena_bytes: int
    slot_bytes: tuple[int, ...]
    operators: tuple[Operator, ...]
    esp_nn: str

    def encode(self) -> bytes:
        """Its deterministic bytes. Raises CodecError `schema` for values outside the format."""
        payload = encode(
            {
                0: 1,
                1: self.name,
                2: self.chip,
                3: self.arena_bytes,
                4: list(self.slot_bytes),
                5: encode_operators(self.operators),
                6: self.esp_nn,
            }
        )
        ClassDescription.parse(payload)
        return payload

    @property
    def class_id(self) -> bytes:
        """SHA-256 of the bytes, first 16."""
        return hashlib.sha256(self.encode()).digest()[:16]

    @classmethod
    def parse(cls, payload: bytes) -> ClassDescription:
        """Read a class description. Raises CodecError `too_large` or `schema`."""
        shape = Shape("schema")
        item = decode_strict(payload, max_bytes=MAX_CLASS_BYTES, code="schema")
        fields = shape.map(item, "class description", required=range(7))
        shape.integer(fields[0], "format", 1, 1)
        slots = shape.array(fields[4], "slot capacities", least=1, most=4)
        capacities = tuple(shape.uint(slot, "slot capacity", UINT32_MAX) for slot in slots)
        if any(capacity % 4096 for capacity in capacities):
            raise CodecError("schema", "a slot capacity is not in whole chunks")
        return cls(
            name=shape.text(fields[1], "class name", least=1, most=64),
            chip=Chip(shape.uint(fields[2], "chip", max(Chip))),
            arena_bytes=shape.uint(fields[3], "arena", INT32_MAX),
            slot_bytes=capacities,
            operators=parse_operators(fields[5], "operators", shape),
            esp_nn=shape.text(fields[6], "esp-nn version", most=64),
        )
