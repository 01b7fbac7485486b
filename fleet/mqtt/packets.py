"""The few MQTT 5 packets of a connection that only publishes: builders, and a reader of the answers.

Bare Python without a socket. What comes from the network is bounded before it is kept, and read strictly: a
broker that does not speak MQTT is told from one that is away. Source: OASIS, MQTT Version 5.0 (2019),
sections 2.1 (remaining length), 2.2.2 (properties), 3.1 to 3.4 and 3.14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.mqtt.codec.errors import CodecError

CONNACK: Final = 0x20
PUBACK: Final = 0x40
DISCONNECT: Final = 0xE0
GOODBYE: Final = bytes((DISCONNECT, 0))
REFUSED: Final = 0x80
"""Reason codes from here on are failures."""
TOO_LARGE: Final = 0x95
MAX_MID: Final = 65_535
MAX_INCOMING_BYTES: Final = 4096
"""Longest packet body that is read; the broker is told, so none should be longer."""
MAX_REMAINING: Final = 268_435_455

_RETAIN, _QOS_1, _PUBLISH, _CONNECT = 0x01, 0x02, 0x30, 0x10
_CLEAN_START, _WITH_PASSWORD, _WITH_USER = 0x02, 0x40, 0x80
_PACKET_LIMIT, _RECEIVE_MAXIMUM, _MAXIMUM_QOS, _MAY_RETAIN = 0x27, 0x21, 0x24, 0x25
_USER_PROPERTY: Final = 0x26
_NUMBERS: Final = {
    0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1
}  # fmt: skip
"""Properties of a CONNACK that are numbers, with their bytes."""
_STRINGS: Final = {0x12: 1, 0x15: 1, 0x16: 1, 0x1A: 1, 0x1C: 1, 0x1F: 1, _USER_PROPERTY: 2}
"""Those that are strings or binary data, with how many of them follow each other."""


@dataclass(frozen=True)
class Connack:
    """The answer to CONNECT. reason: 0 lets us in. receive_maximum: publishes in flight that it takes.

    max_packet_bytes: longest whole packet it takes. is_fit: it takes QoS 1 and keeps retained messages.
    """

    reason: int
    receive_maximum: int = MAX_MID
    max_packet_bytes: int = MAX_REMAINING
    is_fit: bool = True


def connect(name: str, secret: str, *, keepalive_s: int) -> bytes:
    """A CONNECT as user `name` that starts a new session, which ends with its connection."""
    limits = bytes((_PACKET_LIMIT,)) + MAX_INCOMING_BYTES.to_bytes(4, "big")
    body = b"".join(
        (
            _text("MQTT"),
            bytes((5, _CLEAN_START | _WITH_USER | _WITH_PASSWORD)),
            keepalive_s.to_bytes(2, "big"),
            _varint(len(limits)),
            limits,
            _text(name),
            _text(name),
            _text(secret),
        )
    )
    return bytes((_CONNECT,)) + _varint(len(body)) + body


def publish(topic: str, payload: bytes, mid: int, *, retain: bool) -> bytes:
    """A PUBLISH at QoS 1 under the packet id `mid`, 1 to MAX_MID.

    Raises CodecError `topic_bad` for a topic that is empty, too long or has a wildcard, and `too_large`.
    """
    name = topic.encode()
    if not 0 < len(name) <= 65_535 or b"+" in name or b"#" in name or b"\0" in name:
        raise CodecError("topic_bad", "nothing can be published to this topic")
    left = len(name) + len(payload) + 5
    if left > MAX_REMAINING:
        raise CodecError("too_large", f"packet of {left:,} bytes, at most {MAX_REMAINING:,} can be sent")
    first = _PUBLISH | _QOS_1 | (_RETAIN if retain else 0)
    return b"%c%b%b%b%b\0%b" % (
        first,
        _varint(left),
        len(name).to_bytes(2, "big"),
        name,
        mid.to_bytes(2, "big"),
        payload,
    )


class PacketReader:
    """Cuts a stream of bytes, however it arrives in pieces, into packets; keeps one unfinished one."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The packets that `data` completes, in order: (first byte, body).

        Raises CodecError `packet_bad` for a length that is not MQTT's and `too_large` beyond
        MAX_INCOMING_BYTES; the connection is of no use then.
        """
        data = self._held + data
        found = []
        pos, end = 0, len(data)
        while pos + 2 <= end:
            size, start = data[pos + 1], pos + 2
            if size >= 0x80:
                size, start = _read_varint(data, pos + 1)
                if not start:
                    break
                if size > MAX_INCOMING_BYTES:
                    raise CodecError("too_large", f"packet of {size:,} bytes, at most {MAX_INCOMING_BYTES:,}")
            if start + size > end:
                break
            found.append((data[pos], data[start : start + size]))
            pos = start + size
        self._held = data[pos:]
        return found


def read_connack(body: bytes) -> Connack:
    """Read the body of a CONNACK. Raises CodecError `packet_bad`."""
    if len(body) < 3:
        raise CodecError("packet_bad", "CONNACK is too short")
    size, pos = _read_varint(body, 2)
    if not pos or pos + size != len(body):
        raise CodecError("packet_bad", "the properties of CONNACK do not fill it")
    numbers = _read_properties(body[pos:])
    receive_maximum = numbers.get(_RECEIVE_MAXIMUM, MAX_MID)
    max_packet_bytes = numbers.get(_PACKET_LIMIT, MAX_REMAINING)
    if not receive_maximum or not max_packet_bytes:
        raise CodecError("packet_bad", "CONNACK allows nothing to be sent")
    is_fit = numbers.get(_MAXIMUM_QOS, 1) == 1 and numbers.get(_MAY_RETAIN, 1) == 1
    return Connack(body[1], receive_maximum, max_packet_bytes, is_fit)


def read_puback(body: bytes) -> tuple[int, int]:
    """(packet id, reason) of a PUBACK body; its properties are text for people and not read.

    Raises CodecError `packet_bad`.
    """
    if len(body) < 2:
        raise CodecError("packet_bad", "PUBACK is too short")
    return body[0] << 8 | body[1], body[2] if len(body) > 2 else 0


def _read_properties(data: bytes) -> dict[int, int]:
    """The numbers among a CONNACK's properties; the others are checked for their form and left."""
    numbers: dict[int, int] = {}
    seen: set[int] = set()
    pos, end = 0, len(data)
    while pos < end:
        name = data[pos]
        pos += 1
        if name in seen and name != _USER_PROPERTY:
            raise CodecError("packet_bad", f"property {name:#x} comes twice")
        seen.add(name)
        if name in _NUMBERS:
            size = _NUMBERS[name]
            numbers[name] = int.from_bytes(data[pos : pos + size], "big")
            pos += size
        elif name in _STRINGS:
            for _ in range(_STRINGS[name]):
                pos += 2 + int.from_bytes(data[pos : pos + 2], "big")
        else:
            raise CodecError("packet_bad", f"property {name:#x} is none of a CONNACK")
    if pos != end:
        raise CodecError("packet_bad", "a property is cut off")
    return numbers


def _read_varint(data: bytes, pos: int) -> tuple[int, int]:
    """(value, position behind it); (0, 0) while it is not all there. Raises CodecError `packet_bad`."""
    value = 0
    for n in range(4):
        if pos + n >= len(data):
            return 0, 0
        byte = data[pos + n]
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            if n and not byte:
                raise CodecError("packet_bad", "a length is not in its shortest form")
            return value, pos + n + 1
    raise CodecError("packet_bad", "a length has more than four bytes")


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    found = bytearray()
    while value:
        found.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
    return bytes(found)


def _text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw
