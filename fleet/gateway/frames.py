"""The few frames of MQTT 5 that a subscriber needs, as bytes: a reader that bytes may reach in any pieces,
and what is written. No sockets here.

MQTT 5 and not 3.1.1 for one property: Receive Maximum, by which a subscriber says itself how much may be on
its way to it un-acknowledged. Over 3.1.1 the broker's `max_inflight_messages` holds for every device as well;
at 200 a transaction cannot take more than 200 messages. Source: MQTT Version 5.0, OASIS Standard, chapters 2
and 3.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9
UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 10, 11, 12, 13, 14

MOST_BYTES: Final = 131_072
"""Of a frame. The broker is told a Maximum Packet Size of half of it and never sends us larger ones; a
longer one is no MQTT of ours. Refusing it by hand would make it come again for ever."""
PACKET_BYTES: Final = MOST_BYTES // 2
PING: Final = bytes((PINGREQ << 4, 0))
GOODBYE: Final = bytes((DISCONNECT << 4, 0))
_TOPICS_CACHED: Final = 50_000
_ACK_HEAD: Final = PUBACK << 12 | 2


class FrameError(Exception):
    """The other side does not speak MQTT as agreed: end the connection. Its text never has received bytes."""


class Publish(NamedTuple):
    """A message. mid: its number, 0 for QoS 0."""

    topic: str
    payload: bytes
    mid: int
    is_again: bool
    is_retained: bool


@dataclass(frozen=True)
class Answer:
    """Any other frame. code: 0 or the reason code of a CONNACK or DISCONNECT; of a SUBACK the largest."""

    kind: int
    code: int = 0
    is_session_present: bool = False


class FrameReader:
    """Frames out of a stream of bytes. After a FrameError it is of no further use."""

    def __init__(self) -> None:
        self._rest = b""
        self._topics: dict[bytes, str] = {}

    def feed(self, data: bytes) -> list[Publish | Answer]:
        """The frames that are complete with these bytes, in order; an incomplete one waits for more.

        At most MOST_BYTES wait. Raises FrameError for a length that is malformed or beyond MOST_BYTES, a
        frame that contradicts its length, QoS 2, a message without a number, and kinds no subscriber gets.
        """
        buffer = self._rest + data if self._rest else data
        end, at = len(buffer), 0
        found: list[Publish | Answer] = []
        while end - at >= 2:
            first, size, body = buffer[at], buffer[at + 1], at + 2
            if size >= 0x80:
                head = _varint(buffer, at + 1, end)
                if head is None:
                    break
                size, body = head
                if size > MOST_BYTES:
                    raise FrameError(f"a frame of {size:,} bytes, at most {MOST_BYTES:,} are taken")
            after = body + size
            if after > end:
                break
            if first >> 4 == PUBLISH:
                found.append(self._publish(first, buffer, body, after))
            else:
                found.append(_answer(first, buffer, body, after))
            at = after
        self._rest = buffer[at:]
        return found

    def _publish(self, first: int, buffer: bytes, at: int, end: int) -> Publish:
        qos = first & 0x06
        body = at + 2 + (buffer[at] << 8 | buffer[at + 1]) if end - at >= 2 else end
        properties = body + 2 if qos else body
        if properties >= end or qos > 2:
            raise FrameError("a message contradicts its length, or has QoS 2")
        mid = buffer[body] << 8 | buffer[body + 1] if qos else 0
        if qos and not mid:
            raise FrameError("a message has no number")
        payload = properties + 1
        if buffer[properties]:
            head = _varint(buffer, properties, end)
            payload = end + 1 if head is None else head[0] + head[1]
            if payload > end:
                raise FrameError("the properties of a message contradict its length")
        raw = buffer[at + 2 : body]
        topic = self._topics.get(raw)
        if topic is None:
            if len(self._topics) >= _TOPICS_CACHED:
                self._topics.clear()
            # A topic that is no text is for the reader of uplinks to refuse: here it would stop the stream.
            topic = self._topics[raw] = raw.decode("utf-8", "replace")
        return Publish(topic, buffer[payload:end], mid, bool(first & 0x08), bool(first & 0x01))


def _answer(first: int, buffer: bytes, at: int, end: int) -> Answer:
    kind, size = first >> 4, end - at
    if kind == PINGRESP and size == 0:
        return Answer(kind)
    if kind == CONNACK and size >= 2:
        return Answer(kind, buffer[at + 1], bool(buffer[at] & 1))
    if kind == DISCONNECT:
        return Answer(kind, buffer[at] if size else 0)
    if kind in (SUBACK, UNSUBACK) and size >= 3:
        head = _varint(buffer, at + 2, end)
        codes = buffer[sum(head) : end] if head is not None else b""
        if codes:
            return Answer(kind, max(codes))
    raise FrameError(f"a frame of kind {kind} and {size} bytes")


def _varint(buffer: bytes, at: int, end: int) -> tuple[int, int] | None:
    """A variable byte integer and where it ends; None when bytes are missing. Raises FrameError beyond four
    bytes.
    """
    value = 0
    for n in range(4):
        if at + n >= end:
            return None
        value |= (buffer[at + n] & 0x7F) << 7 * n
        if buffer[at + n] < 0x80:
            return value, at + n + 1
    raise FrameError("a length of more than four bytes")


def connect(user: str, secret: str, *, keepalive_s: int, receive_most: int, expiry_s: int) -> bytes:
    """CONNECT that resumes a session, as `user`, which is the client id as well.

    receive_most: messages on their way un-acknowledged, 1..65,535. expiry_s: how long the broker keeps the
    session while we are away, 0 to end an older session and have one that ends with the connection.
    """
    properties = struct.pack(">BI BH BI", 0x11, expiry_s, 0x21, receive_most, 0x27, PACKET_BYTES)
    flags = 0xC0 if expiry_s else 0xC2
    body = b"\x00\x04MQTT\x05" + struct.pack(">BH", flags, keepalive_s) + _sized(properties)
    return _frame(CONNECT << 4, body + _text(user) + _text(user) + _text(secret))


def subscribe(number: int, filters: Iterable[str]) -> bytes:
    """SUBSCRIBE with QoS 1. number: 1..65,535."""
    body = b"".join(_text(one) + b"\x01" for one in filters)
    return _frame(SUBSCRIBE << 4 | 2, number.to_bytes(2, "big") + b"\x00" + body)


def unsubscribe(number: int, filters: Iterable[str]) -> bytes:
    """UNSUBSCRIBE. number: 1..65,535."""
    body = b"".join(_text(one) for one in filters)
    return _frame(UNSUBSCRIBE << 4 | 2, number.to_bytes(2, "big") + b"\x00" + body)


def acknowledge(mids: Sequence[int]) -> bytes:
    """A PUBACK for each of these numbers, in order."""
    words = [_ACK_HEAD] * (2 * len(mids))
    words[1::2] = mids
    return struct.pack(f">{len(words)}H", *words)


def _frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _sized(body)


def _sized(body: bytes) -> bytes:
    left, head = len(body), bytearray()
    while True:
        head.append(left & 0x7F | (0x80 if left > 0x7F else 0))
        left >>= 7
        if not left:
            return bytes(head) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw
