"""Checks that turn decoded CBOR into typed fields, each failure with one code and the name of the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from fleet.mqtt.codec.cbor import MAX_UINT
from fleet.mqtt.codec.errors import CodecError

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
UINT16_MAX, UINT32_MAX = 2**16 - 1, 2**32 - 1
_PRINTABLE = re.compile(r"[ -~]*", re.ASCII)


@dataclass(frozen=True)
class Shape:
    """A reader of fields that raises `error(code, text)`, `range` for uplinks and `schema` for documents."""

    code: str
    error: Callable[[str, str], Exception] = CodecError

    def fail(self, text: str) -> Exception:
        """The error to raise for a field that is wrong in the way `text` says."""
        return self.error(self.code, text)

    def map(
        self, value: Any, what: str, *, required: Collection[int], optional: Collection[int] = ()
    ) -> dict[int, Any]:
        """A map that has every required key and none beyond required and optional."""
        if type(value) is not dict:
            raise self.fail(f"{what} is not a map")
        missing = [key for key in required if key not in value]
        if missing:
            raise self.fail(f"{what} lacks key {missing[0]}")
        if len(value) > len(required) and any(key not in required and key not in optional for key in value):
            raise self.fail(f"{what} has a key that format 1 does not know")
        return value

    def array(self, value: Any, what: str, *, least: int = 0, most: int | None = None) -> list[Any]:
        """An array of `least` to `most` items."""
        if type(value) is not list or len(value) < least or (most is not None and len(value) > most):
            raise self.fail(f"{what} is not an array of {least}..{'' if most is None else most} items")
        return value

    def integer(self, value: Any, what: str, least: int, most: int) -> int:
        """An integer of least..most, both included."""
        if type(value) is not int or not least <= value <= most:
            raise self.fail(f"{what} is not an integer of {least}..{most}")
        return value

    def uint(self, value: Any, what: str, most: int = MAX_UINT) -> int:
        """An unsigned integer of at most `most`."""
        return self.integer(value, what, 0, most)

    def raw(self, value: Any, what: str, *sizes: int) -> bytes:
        """A byte string of one of the given sizes."""
        if type(value) is not bytes or len(value) not in sizes:
            raise self.fail(f"{what} is not {' or '.join(map(str, sizes))} bytes")
        return value

    def text(self, value: Any, what: str, *, least: int = 0, most: int) -> str:
        """Text of `least` to `most` printable ASCII bytes: no NUL for the database, no control codes."""
        if type(value) is not str or not least <= len(value) <= most or not _PRINTABLE.fullmatch(value):
            raise self.fail(f"{what} is not printable ASCII of {least}..{most} bytes")
        return value
