"""Deterministic CBOR (RFC 8949 section 4.2.1), the small subset the protocol uses.

Unsigned and negative integers of at most 64 bits, byte strings, UTF-8 text, arrays, maps with unsigned or
text keys, and one outer tag. No floats, no simple values, no indefinite lengths. cbor2 accepts longer
integers, unsorted and duplicate keys and trailing bytes, so the decoder here is our own; tests compare it
with cbor2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fleet.mqtt.codec.errors import CodecError

MAX_UINT = 2**64 - 1
MAX_MAP_KEY = 31


@dataclass(frozen=True)
class Tag:
    """A tagged item; only the outermost item of a message is one."""

    number: int
    value: Any


def head(major: int, value: int) -> bytes:
    """The shortest head of a major type with an argument of at most 64 bits."""
    top = major << 5
    if value < 24:
        return bytes((top | value,))
    if value < 0x100:
        return bytes((top | 24, value))
    if value < 0x1_0000:
        return bytes((top | 25,)) + value.to_bytes(2, "big")
    if value < 0x1_0000_0000:
        return bytes((top | 26,)) + value.to_bytes(4, "big")
    return bytes((top | 27,)) + value.to_bytes(8, "big")


_SMALL: Final = tuple(bytes((number,)) for number in range(24))


def encode(obj: object) -> bytes:
    """Encode ints, bytes, str, lists or tuples, dicts and `Tag` in the one deterministic way.

    Map keys are sorted by their encoding. Raises TypeError for anything else (bool, float and None among
    them) and ValueError for an integer beyond 64 bits or a key listed twice: both are faults of the caller.
    """
    # The exact types first: a worker encodes thousands of documents a second.
    if type(obj) is int and 0 <= obj < 24:
        return _SMALL[obj]
    if type(obj) is bytes:
        return head(2, len(obj)) + obj
    if type(obj) is list:
        return head(4, len(obj)) + b"".join(map(encode, obj))
    if isinstance(obj, int) and not isinstance(obj, bool):
        if 0 <= obj <= MAX_UINT:
            return head(0, obj)
        if -MAX_UINT - 1 <= obj < 0:
            return head(1, -1 - obj)
        raise ValueError("integer needs more than 64 bits")
    if isinstance(obj, bytes | bytearray | memoryview):
        raw = bytes(obj)
        return head(2, len(raw)) + raw
    if isinstance(obj, str):
        text = obj.encode("utf-8")
        return head(3, len(text)) + text
    if isinstance(obj, list | tuple):
        return head(4, len(obj)) + b"".join([encode(item) for item in obj])
    if isinstance(obj, dict):
        pairs = {encode(_key(key)): encode(value) for key, value in obj.items()}
        if len(pairs) != len(obj):
            raise ValueError("a map key is listed twice")
        return head(5, len(pairs)) + b"".join([key + pairs[key] for key in sorted(pairs)])
    if isinstance(obj, Tag):
        return head(6, obj.number) + encode(obj.value)
    raise TypeError(f"{type(obj).__name__} has no place in protocol CBOR")


def _key(key: object) -> object:
    if type(key) is int and key >= 0:
        return key
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool) and key >= 0):
        return int(key) if isinstance(key, int) else key
    raise TypeError("map keys are unsigned integers or text")


class _Reader:
    """One pass over untrusted bytes. Every step checks what is left before it reads or recurses."""

    __slots__ = ("code", "data", "end", "items_left", "max_depth", "pos")

    def __init__(self, data: bytes, max_depth: int, max_items: int, code: str) -> None:
        self.data = data
        self.pos = 0
        self.end = len(data)
        self.max_depth = max_depth
        self.items_left = max_items
        self.code = code

    def fail(self, text: str) -> CodecError:
        return CodecError(self.code, f"{text} at byte {self.pos}")

    def argument(self, info: int) -> int:
        """The argument of a head whose first byte is read; refuses longer than shortest forms."""
        if info < 24:
            return info
        if info > 27:
            raise self.fail("indefinite length or reserved head")
        size = 1 << (info - 24)
        if self.end - self.pos < size:
            raise self.fail("truncated head")
        value = int.from_bytes(self.data[self.pos : self.pos + size], "big")
        self.pos += size
        least = 24 if size == 1 else 1 << (size * 4)
        if value < least:
            raise self.fail("integer or length not in shortest form")
        return value

    def item(self, depth: int, *, may_tag: bool = False) -> Any:
        """One item. `depth` counts the arrays, maps and tags around it."""
        self.items_left -= 1
        if self.items_left < 0:
            raise self.fail("too many items")
        if self.pos >= self.end:
            raise self.fail("truncated")
        first = self.data[self.pos]
        self.pos += 1
        major = first >> 5
        if major == 7:
            raise self.fail("float or simple value")
        value = self.argument(first & 31)
        if major == 0:
            return value
        if major == 1:
            return -1 - value
        if major <= 3:
            return self.string(major, value)
        if depth >= self.max_depth:
            raise self.fail("nested too deeply")
        if major == 4:
            if value > self.end - self.pos:
                raise self.fail("truncated array")
            return self.array(value, depth)
        if major == 5:
            return self.map(value, depth)
        if not may_tag:
            raise self.fail("tag")
        return Tag(value, self.item(depth + 1))

    def array(self, count: int, depth: int) -> list[Any]:
        """The items of an array.

        Telemetry is arrays of small unsigned integers: those of at most three bytes are read here, without a
        call each. Everything else, and every fault, goes the way of any item.
        """
        if count > self.items_left:
            raise self.fail("too many items")
        data, last, items = self.data, self.end - 2, []
        for _ in range(count):
            pos = self.pos
            first = data[pos] if pos < last else 0xFF
            if first < 24:
                value, size = first, 1
            elif first == 24 and data[pos + 1] >= 24:
                value, size = data[pos + 1], 2
            elif first == 25 and data[pos + 1]:
                value, size = data[pos + 1] << 8 | data[pos + 2], 3
            else:
                items.append(self.item(depth + 1))
                continue
            self.pos = pos + size
            self.items_left -= 1
            items.append(value)
        if self.items_left < 0:
            raise self.fail("too many items")
        return items

    def string(self, major: int, size: int) -> bytes | str:
        if size > self.end - self.pos:
            raise self.fail("truncated string")
        raw = self.data[self.pos : self.pos + size]
        self.pos += size
        if major == 2:
            return raw
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("text is not UTF-8") from None

    def map(self, count: int, depth: int) -> dict[int | str, Any]:
        if count > (self.end - self.pos) // 2:
            raise self.fail("truncated map")
        result: dict[int | str, Any] = {}
        before = b""
        for _ in range(count):
            start = self.pos
            key = self.item(depth + 1)
            is_number = type(key) is int and 0 <= key <= MAX_MAP_KEY
            if not is_number and type(key) is not str:
                raise self.fail("map key is not text or a number of 0..31")
            encoded = self.data[start : self.pos]
            if encoded <= before:
                raise self.fail("map keys unsorted or twice")
            before = encoded
            result[key] = self.item(depth + 1)
        return result


def decode_strict(
    data: bytes,
    *,
    max_bytes: int,
    max_depth: int = 6,
    max_items: int = 4096,
    code: str = "cbor_bad",
    may_tag: bool = False,
) -> Any:
    """Decode one deterministic item that fills `data` exactly.

    max_depth counts arrays, maps and tags inside each other. may_tag admits a tag as the outermost item.
    Raises CodecError `too_large` above max_bytes, unread, and `code` for everything that is not one
    deterministically encoded item: truncated, trailing bytes, longer integers, floats, simple values,
    indefinite lengths, unsorted or duplicate keys, text that is not UTF-8, too deep, too many items.
    """
    if len(data) > max_bytes:
        raise CodecError("too_large", f"{len(data):,} bytes, at most {max_bytes:,} are accepted")
    reader = _Reader(bytes(data), max_depth, max_items, code)
    value = reader.item(0, may_tag=may_tag)
    if reader.pos != reader.end:
        raise reader.fail("trailing bytes")
    return value
