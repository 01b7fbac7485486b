"""A real SMTP server on a free port of this machine, for tests: it keeps what it takes, or refuses it."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any


class MailServer(socketserver.ThreadingTCPServer):
    """refusals: address -> what it is answered instead of 250. got: (recipients, message) as taken."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.got: list[tuple[list[str], EmailMessage]] = []
        self.refusals: dict[str, str] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class _Session(socketserver.StreamRequestHandler):
    """The commands of RFC 5321 that a client of ours uses."""

    timeout = 30

    def handle(self) -> None:
        server: Any = self.server
        recipients: list[str] = []
        self._say("220 tests ready")
        while line := self.rfile.readline(2_000):
            verb, _, rest = line.decode().strip().partition(" ")
            match verb.upper():
                case "EHLO" | "HELO":
                    self._say("250 tests")
                case "MAIL":
                    recipients = []
                    self._say("250 ok")
                case "RCPT":
                    recipients.append(rest.partition("<")[2].partition(">")[0])
                    self._say(server.refusals.get(recipients[-1], "250 ok"))
                case "DATA":
                    self._say("354 go on")
                    server.got.append((recipients, self._message()))
                    self._say("250 taken")
                case "RSET" | "NOOP":
                    self._say("250 ok")
                case "QUIT":
                    return self._say("221 bye")
                case _:
                    self._say("502 no such command")

    def _message(self) -> EmailMessage:
        lines = []
        while (line := self.rfile.readline(10_000)) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b".") else line)
        parsed = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """A server that runs."""
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)
