"""MQTT as bytes over TLS: what a well-behaved client library would never send."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from fleet.stack.ports import LOOPBACK
from tests.stack.services import Broker

ACCEPTED, NOT_AUTHORISED = 0, 5
CONNACK, PUBLISH, PUBACK, SUBACK = 0x20, 0x30, 0x40, 0x90


@dataclass(frozen=True)
class Will:
    """What the broker is asked to publish when this client dies."""

    topic: str
    payload: bytes
    retain: bool = True


def text(value: str | bytes) -> bytes:
    """A length-prefixed string."""
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def packet(kind: int, body: bytes, *, claimed: int | None = None) -> bytes:
    """Fixed header and body. claimed: a remaining length that is not the body's."""
    left, size = (len(body) if claimed is None else claimed), b""
    while True:
        left, digit = divmod(left, 128)
        size += bytes([digit | (0x80 if left else 0)])
        if not left:
            return bytes([kind]) + size + body


class Wire:
    """One TLS connection to the broker."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._socket = connection

    def connect(
        self, user: str, secret: str, *, client_id: str = "", will: Will | None = None, clean: bool = True
    ) -> tuple[int, bool]:
        """(return code, session present); -1 when the broker ends the connection instead."""
        flags = 0xC0 | (0x02 if clean else 0)
        body = text(client_id)
        if will is not None:
            flags |= 0x04 | 0x08 | (0x20 if will.retain else 0)
            body += text(will.topic) + text(will.payload)
        head = text("MQTT") + bytes([4, flags]) + (60).to_bytes(2, "big")
        self.send(packet(0x10, head + body + text(user) + text(secret)))
        answer = self.receive()
        if answer is None or answer[0] != CONNACK:
            return -1, False
        return answer[1][1], bool(answer[1][0])

    def publish(self, topic: str | bytes, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """PUBLISH; nothing is waited for."""
        identifier = b"\0\1" if qos else b""
        self.send(packet(PUBLISH | qos << 1 | int(retain), text(topic) + identifier + payload))

    def send(self, raw: bytes) -> None:
        """Bytes as they are; a connection that the broker has ended swallows them."""
        with suppress(OSError):
            self._socket.sendall(raw)

    def receive(self) -> tuple[int, bytes] | None:
        """The next packet as (kind, body); None when the broker has ended the connection."""
        head = self._read(1)
        size, shift = 0, 0
        while head:
            digit = self._read(1)
            if not digit:
                return None
            size |= (digit[0] & 0x7F) << shift
            shift += 7
            if not digit[0] & 0x80:
                body = self._read(size)
                return None if len(body) < size else (head[0] & 0xF0, body)
        return None

    def is_ended(self) -> bool:
        """True when the broker ends the connection; acknowledgements on the way are read over.

        A PINGREQ is sent behind whatever was sent before: an answer to it means that the broker goes on.
        """
        self.send(b"\xc0\x00")
        while (answer := self.receive()) is not None:
            if answer[0] == 0xD0:
                return False
        return True

    def _read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            try:
                more = self._socket.recv(n - len(data))
            except (ConnectionError, ssl.SSLError):
                return b""
            if not more:
                return b""
            data += more
        return data


@contextmanager
def wire(broker: Broker, *, abrupt: bool = False) -> Iterator[Wire]:
    """A connection that has said nothing yet. abrupt: it ends without DISCONNECT, as a dying device does."""
    context = ssl.create_default_context(cafile=str(broker.tls.ca))
    with (
        socket.create_connection((LOOPBACK, broker.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as connection,
    ):
        made = Wire(connection)
        yield made
        if not abrupt:
            made.send(b"\xe0\x00")
