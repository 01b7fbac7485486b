"""A server that speaks just enough MQTT 5 to misbehave: what Mosquitto never does, and a publisher must bear.

A test gives it a script, a function that is run in a thread for each connection, one after the other.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

from fleet.mqtt.packets import PacketReader
from fleet.stack.tls import TlsFiles

CONNACK = bytes.fromhex("20 03 00 00 00")


class Session:
    """One accepted connection. number: counts them from 0."""

    def __init__(self, connection: ssl.SSLSocket, number: int) -> None:
        self.number = number
        self._connection = connection
        self._reader = PacketReader()
        self._packets: list[tuple[int, bytes]] = []

    def read(self) -> tuple[int, bytes]:
        """The next packet of the client. Raises EOFError when it hung up."""
        while not self._packets:
            data = self._connection.recv(65_536)
            if not data:
                raise EOFError
            self._packets = self._reader.feed(data)
        return self._packets.pop(0)

    def publishes(self) -> Iterator[tuple[int, str, bytes]]:
        """(packet id, topic, payload) of what is published, until the client hangs up."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                first, body = self.read()
                if first & 0xF0 != 0x30:
                    return
                size = int.from_bytes(body[:2], "big")
                topic, rest = body[2 : 2 + size], body[2 + size :]
                yield int.from_bytes(rest[:2], "big"), topic.decode(), rest[3:]

    def ahead(self) -> int:
        """How many packets have come besides those handed out: what one write of the client held."""
        return len(self._packets)

    def send(self, data: bytes) -> None:
        """Send at once."""
        self._connection.sendall(data)

    def welcome(self, connack: bytes = CONNACK) -> None:
        """Take CONNECT and answer."""
        assert self.read()[0] == 0x10
        self.send(connack)

    def acknowledge(self, mid: int, reason: int = 0) -> None:
        """Send a PUBACK, with its reason when it has one."""
        body = mid.to_bytes(2, "big") + (bytes((reason,)) if reason else b"")
        self.send(bytes((0x40, len(body))) + body)


class ScriptedBroker:
    """Listens on a port of its own with the certificate given. faults: what scripts raised."""

    def __init__(self, tls: TlsFiles, script: Callable[[Session], None]) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key)
        self._context, self._script = context, script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sessions = 0
        self.faults: list[Exception] = []
        self._open: ssl.SSLSocket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, end the connection that is open, and wait for the thread."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(OSError):
            if self._open is not None:
                self._open.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._open = connection
                    self.sessions += 1
                    self._script(Session(connection, self.sessions - 1))
            except (EOFError, OSError):
                continue
            except Exception as fault:  # the test looks at them
                self.faults.append(fault)
