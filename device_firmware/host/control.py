"""The supervisor's control socket: a Unix socket that takes one JSON object a line and answers with one.

`ask` is the caller's end. A client that sends nonsense, too much or nothing at all gets an error or is let
go of;
it never stops the supervisor and never makes it wait.
"""

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from device_firmware.host.devicelog import say

NAME = "control.sock"
REQUEST_MAX_BYTES = 65_536
REQUEST_S = 5.0  # a client sends its request and takes its answer within so long
CONNECTIONS_MAX = 32
Reply = Callable[[dict[str, Any]], None]


class _Connection:
    """One client: what it sent so far, what it has yet to take."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.request = b""
        self.answer = b""
        self.is_asked = False
        self.give_up_at = now + REQUEST_S


class ControlServer:
    """Serves `handle(request, reply)` on the caller's selector; `reply` may be called at once or later.

    What `handle` raises as ValueError, KeyError or OSError is answered as `{"error": text}`; so is any other
    exception, which is also logged, as it is a bug.
    """

    def __init__(
        self, folder: Path, selector: selectors.BaseSelector, handle: Callable[[dict[str, Any], Reply], None]
    ) -> None:
        self._path = folder / NAME
        self._selector = selector
        self._handle = handle
        self._open: set[_Connection] = set()
        self._server = socket.socket(socket.AF_UNIX)
        part = self._path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with _short_path(part) as address:
            self._server.bind(address)
        part.chmod(0o600)
        self._server.listen(CONNECTIONS_MAX)
        part.replace(self._path)  # whoever sees the socket can connect to it
        self._server.setblocking(False)
        selector.register(self._server, selectors.EVENT_READ, self._accept)

    def expire(self, now: float) -> None:
        """Let go of clients that took too long."""
        for connection in [c for c in self._open if now > c.give_up_at]:
            self._drop(connection)

    def forget(self) -> None:
        """In a forked child: close its copies, leave the path and the parent's selector alone."""
        self._server.close()
        for connection in self._open:
            connection.sock.close()

    def close(self) -> None:
        """Stop serving and remove the socket."""
        for connection in list(self._open):
            self._flush(connection)
            self._drop(connection)
        self._selector.unregister(self._server)
        self._server.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._server.accept()
        except OSError:
            return
        if len(self._open) >= CONNECTIONS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock, time.monotonic())
        self._open.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda events: self._serve(connection, events))

    def _serve(self, connection: _Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(connection)
        if connection in self._open and events & selectors.EVENT_READ:
            self._read(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(REQUEST_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or connection.is_asked:  # gone, or more than one request
            self._drop(connection)
            return
        connection.request += data
        line, newline, _ = connection.request.partition(b"\n")
        if newline:
            connection.is_asked = True
            connection.give_up_at = float("inf")  # the time `handle` takes is not the client's fault
            self._answer(connection, line)
        elif len(connection.request) >= REQUEST_MAX_BYTES:
            self._reply(connection, {"error": f"a request is at most {REQUEST_MAX_BYTES} bytes"})

    def _answer(self, connection: _Connection, line: bytes) -> None:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is one JSON object")
            self._handle(request, lambda answer: self._reply(connection, answer))
        except (ValueError, OSError) as error:
            self._reply(connection, {"error": str(error)})
        except KeyError as error:
            self._reply(connection, {"error": f"{error.args[0]} is missing or unknown"})
        except Exception as error:
            say("request_failed", text=repr(error))
            self._reply(connection, {"error": repr(error)})

    def _reply(self, connection: _Connection, answer: dict[str, Any]) -> None:
        if connection not in self._open:
            return
        connection.is_asked = True
        connection.answer = json.dumps(answer).encode() + b"\n"
        connection.give_up_at = time.monotonic() + REQUEST_S
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            sent = connection.sock.send(connection.answer) if connection.answer else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        connection.answer = connection.answer[sent:]
        if connection.answer:
            key = self._selector.get_key(connection.sock)
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(connection.sock, both, key.data)
        elif sent:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """An address of a socket that fits `sun_path` (107 bytes), however deep its folder lies."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def ask(folder: Path, request: dict[str, Any], *, timeout_s: float = 30) -> dict[str, Any]:
    """Send one request to a running supervisor. Raises OSError when none runs or answers in time,
    RuntimeError with its error text.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        with _short_path(folder / NAME) as address:
            client.connect(address)
        client.sendall(json.dumps(request).encode() + b"\n")
        line = client.makefile("rb").readline()
    if not line:
        raise ConnectionError("the supervisor closed the connection without an answer")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer
