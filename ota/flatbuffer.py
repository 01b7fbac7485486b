"""A bounded, read-only FlatBuffer reader for bytes nobody vouches for.

Every offset, length and alignment is checked against the buffer before it is followed, and every step is
charged to a budget, so that a small file whose offsets all point at one large table cannot buy unbounded
work. Alignment is checked because a microcontroller traps on the unaligned loads that x86 forgives.

Source of the format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_SCALARS = {
    "u8": struct.Struct("<B"),
    "i8": struct.Struct("<b"),
    "u16": _U16,
    "u32": _U32,
    "i32": _I32,
    "u64": _U64,
    "i64": struct.Struct("<q"),
    "f32": struct.Struct("<f"),
}
STEPS_MAX = 200_000
"""Tables, vectors and strings one file may make us visit; a large TFLM model needs about 10,000."""
STRING_MAX = 256
"""Longest part of a string that is kept, in bytes."""


class FlatBufferError(Exception):
    """The bytes are no FlatBuffer of the expected form. path: the field, e.g.
    `subgraphs[0].tensors[3].shape`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


@dataclass(slots=True)
class Buffer:
    """The bytes under inspection and what is left of the budget."""

    data: bytes
    steps_left: int = field(default=STEPS_MAX)
    _sound: set[int] = field(default_factory=set)  # vtables whose fields were compared; tables share them

    def charge(self, path: str, steps: int = 1) -> None:
        """Take `steps` from the budget; FlatBufferError once it is used up."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise FlatBufferError(path, f"more than {STEPS_MAX:,} parts in one file")

    def u32(self, at: int, path: str) -> int:
        """The little-endian u32 at `at`; FlatBufferError when it is not wholly inside, or misaligned."""
        if at % 4 or at < 0 or at + 4 > len(self.data):
            raise FlatBufferError(path, f"offset {at} is outside the file or misaligned")
        return int(_U32.unpack_from(self.data, at)[0])

    def root(self, path: str = "model") -> Table:
        """The root table."""
        if len(self.data) < 8:
            raise FlatBufferError(path, f"{len(self.data)} bytes are too few for a root table")
        return self.table(self.follow(0, path), path)

    def table(self, at: int, path: str) -> Table:
        """The table at byte `at`, its vtable and inline part checked to lie inside the file."""
        self.charge(path)
        end = len(self.data)
        if at % 4 or at < 4 or at + 4 > end:
            raise FlatBufferError(path, f"table offset {at} is outside the file or misaligned")
        vtable = at - _I32.unpack_from(self.data, at)[0]
        if vtable % 2 or vtable < 4 or vtable + 4 > end:
            raise FlatBufferError(path, f"vtable offset {vtable} is outside the file or misaligned")
        vtable_bytes = _U16.unpack_from(self.data, vtable)[0]
        inline_bytes = _U16.unpack_from(self.data, vtable + 2)[0]
        if vtable_bytes < 4 or vtable_bytes % 2 or vtable + vtable_bytes > end:
            raise FlatBufferError(path, f"vtable of {vtable_bytes} bytes does not fit the file")
        if inline_bytes < 4 or at + inline_bytes > end:
            raise FlatBufferError(path, f"table of {inline_bytes} bytes does not fit the file")
        if vtable not in self._sound:
            self._check_fields(vtable, vtable_bytes, inline_bytes, path)
            self._sound.add(vtable)
        return Table(self, at, vtable, vtable_bytes, inline_bytes, path)

    def _check_fields(self, vtable: int, vtable_bytes: int, inline_bytes: int, path: str) -> None:
        """Also a field that nobody reads here must lie inside its table: a device refuses it."""
        fields = struct.unpack_from(f"<{(vtable_bytes - 4) // 2}H", self.data, vtable + 4)
        self.charge(path, len(fields) // 8)
        for offset in fields:
            if offset and not 4 <= offset < inline_bytes:
                raise FlatBufferError(
                    path, f"field offset {offset} is outside its table of {inline_bytes} bytes"
                )

    def follow(self, at: int, path: str) -> int:
        """Where the offset stored at `at` leads; FlatBufferError when it points at itself or outside."""
        distance = self.u32(at, path)
        if distance < 4 or at + distance + 4 > len(self.data):
            raise FlatBufferError(path, f"offset {distance} points at itself or outside the file")
        return at + distance


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector that lies wholly inside the file. at: first element; count: elements of `item_bytes`."""

    buffer: Buffer
    at: int
    count: int
    item_bytes: int
    path: str

    def scalars(self, kind: str, *, at_most: int) -> tuple[int, ...]:
        """All elements as integers; FlatBufferError when there are more than `at_most`."""
        if self.count > at_most:
            raise FlatBufferError(self.path, f"{self.count:,} elements, at most {at_most:,} are accepted")
        self.buffer.charge(self.path, 1 + self.count // 8)
        packer = _SCALARS[kind]
        stop = self.at + self.count * self.item_bytes
        return tuple(int(value) for (value,) in packer.iter_unpack(self.buffer.data[self.at : stop]))

    def raw(self) -> bytes:
        """The elements' bytes."""
        return self.buffer.data[self.at : self.at + self.count * self.item_bytes]

    def first(self, kind: str) -> int | float | None:
        """The first element, None when there is none."""
        if self.count == 0:
            return None
        value: int | float = _SCALARS[kind].unpack_from(self.buffer.data, self.at)[0]
        return value

    def tables(self, *, at_most: int) -> list[Table]:
        """The tables a vector of offsets points at; FlatBufferError when there are more than `at_most`."""
        if self.count > at_most:
            raise FlatBufferError(self.path, f"{self.count:,} entries, at most {at_most:,} are accepted")
        found = []
        for index in range(self.count):
            here = self.at + 4 * index
            path = f"{self.path}[{index}]"
            found.append(self.buffer.table(self.buffer.follow(here, path), path))
        return found


@dataclass(frozen=True, slots=True)
class Table:
    """One table; fields are read by their number in the schema (0 is the first)."""

    buffer: Buffer
    at: int
    vtable: int
    vtable_bytes: int
    inline_bytes: int
    path: str

    def _slot(self, number: int, size: int, path: str) -> int | None:
        entry = 4 + 2 * number
        if entry + 2 > self.vtable_bytes:
            return None
        offset = _U16.unpack_from(self.buffer.data, self.vtable + entry)[0]
        if offset == 0:
            return None
        if offset < 4 or offset + size > self.inline_bytes or (self.at + offset) % size:
            raise FlatBufferError(path, f"field offset {offset} is outside its table or misaligned")
        return int(self.at + offset)

    def has(self, number: int) -> bool:
        """True when the field is present."""
        entry = 4 + 2 * number
        if entry + 2 > self.vtable_bytes:
            return False
        return bool(_U16.unpack_from(self.buffer.data, self.vtable + entry)[0])

    def scalar(self, number: int, kind: str, name: str, default: int = 0) -> int:
        """An integer field, `default` when absent. kind: u8 i8 u16 u32 i32 u64 i64."""
        packer = _SCALARS[kind]
        at = self._slot(number, packer.size, f"{self.path}.{name}")
        return default if at is None else int(packer.unpack_from(self.buffer.data, at)[0])

    def _target(self, number: int, name: str) -> int | None:
        path = f"{self.path}.{name}"
        at = self._slot(number, 4, path)
        if at is None:
            return None
        return self.buffer.follow(at, path)

    def table(self, number: int, name: str) -> Table | None:
        """A sub-table, None when absent."""
        at = self._target(number, name)
        return None if at is None else self.buffer.table(at, f"{self.path}.{name}")

    def vector(self, number: int, item_bytes: int, name: str) -> Vector | None:
        """A vector of elements of `item_bytes`, None when absent; its whole extent is inside the file."""
        path = f"{self.path}.{name}"
        at = self._target(number, name)
        if at is None:
            return None
        self.buffer.charge(path)
        count = self.buffer.u32(at, path)
        first = at + 4
        if count and first % item_bytes:
            raise FlatBufferError(path, f"{item_bytes}-byte elements at misaligned offset {first}")
        if count > (len(self.buffer.data) - first) // item_bytes:
            raise FlatBufferError(
                path, f"{count:,} elements of {item_bytes} bytes run past the end of the file"
            )
        return Vector(self.buffer, first, count, item_bytes, path)

    def tables(self, number: int, name: str, *, at_most: int) -> list[Table]:
        """The tables of a vector-of-tables field; empty when absent."""
        found = self.vector(number, 4, name)
        return [] if found is None else found.tables(at_most=at_most)

    def text(self, number: int, name: str) -> bytes | None:
        """A text field as C reads it: up to its first zero byte; None when absent.

        FlatBufferError when the zero byte behind it, which its length does not count, is not there.
        """
        found = self.vector(number, 1, name)
        if found is None:
            return None
        stop = found.at + found.count
        if self.buffer.data[stop : stop + 1] != b"\0":
            raise FlatBufferError(found.path, "the text does not end in a zero byte")
        self.buffer.charge(found.path, found.count // 64)
        return self.buffer.data[found.at : stop].partition(b"\0")[0]

    def string(self, number: int, name: str) -> str:
        """A text field, cut to STRING_MAX bytes, undecodable bytes replaced; empty when absent.

        FlatBufferError as `text`.
        """
        return (self.text(number, name) or b"")[:STRING_MAX].decode("utf-8", "replace")
