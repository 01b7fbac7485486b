"""A TLS connection that hands over what has come without a system call a record.

Mosquitto puts every message into a TLS record of its own, and `ssl.SSLSocket` asks the kernel twice for each.
Here bytes are taken by the quarter megabyte and deciphered in memory. Blocking, one thread.
"""

import select
import socket
import ssl
import time
from typing import Final

_TAKE_BYTES: Final = 262_144
_RECORD_BYTES: Final = 16_384


class Wire:
    """A connected TLS stream. Every method may raise OSError, which ssl.SSLError is: it is then over."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, *, timeout_s: float) -> None:
        """Connect and shake hands. timeout_s: for each step, and for every later `send`."""
        self._timeout_s = timeout_s
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            self._shake_hands(time.monotonic() + timeout_s)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, until_s: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._take(until_s - time.monotonic()):
                    raise TimeoutError("the broker does not finish the TLS handshake") from None
            else:
                return self._flush()

    def receive(self, wait_s: float) -> bytes:
        """What has come, or comes within `wait_s` seconds; empty when nothing does. Raises ConnectionError
        when the other side has ended the stream.
        """
        parts = self._read()
        if not parts and self._take(wait_s):
            parts = self._read()
        return b"".join(parts)

    def send(self, data: bytes) -> None:
        """Send all of it in as few TLS records as possible."""
        for at in range(0, len(data), _RECORD_BYTES):
            self._tls.write(data[at : at + _RECORD_BYTES])
        self._flush()

    def finish(self, wait_s: float) -> None:
        """Let the other side read all that was sent: it ends the stream, within `wait_s` seconds.

        Closing with something unread would reset the connection, and what is still on its way there be lost.
        """
        self._socket.shutdown(socket.SHUT_WR)
        until_s = time.monotonic() + wait_s
        while self._poll.poll(max(0.0, (until_s - time.monotonic()) * 1000)) and self._socket.recv(
            _TAKE_BYTES
        ):
            pass

    def close(self) -> None:
        """End the stream at once. Safe to call twice."""
        self._socket.close()

    def _take(self, wait_s: float) -> bool:
        if not self._poll.poll(max(0.0, wait_s * 1000)):
            return False
        data = self._socket.recv(_TAKE_BYTES)
        if not data:
            raise ConnectionError("the broker ended the connection")
        self._in.write(data)
        return True

    def _read(self) -> list[bytes]:
        parts: list[bytes] = []
        read = self._tls.read
        try:
            while part := read(_RECORD_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not parts:
                raise ConnectionError("the broker ended the connection") from None
        if self._out.pending:
            self._flush()
        return parts

    def _flush(self) -> None:
        self._socket.sendall(self._out.read())
