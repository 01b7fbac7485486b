"""Viewers of the event stream over real connections, and the real web server that they watch.

One asyncio connection each, read frame by frame: hundreds fit into one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection

from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.tls import ensure_tls
from tests.stack.services import wait_until


@dataclass
class Server:
    """A running `fleet.stack.serve`."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def viewers(self) -> int:
        """Open streams, as the server's own metrics say."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return int(float(next(line for line in lines if line.startswith("fleet_stream_viewers ")).split()[1]))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self, *, deadline_s: float) -> float:
        """Ask it to stop; seconds until it did."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=deadline_s)
        return time.monotonic() - begun


@contextlib.contextmanager
def serving(folder: Path, *, secret_key: str, **more: str) -> Iterator[Server]:
    """The web server over the present (test) database and Redis. more: of its environment."""
    run = RunDir(folder).ensure()
    tls = ensure_tls(run)
    found = connection.settings_dict
    database = (
        f"postgresql://{found['USER']}:{found['PASSWORD']}@{found['HOST']}:{found['PORT']}/{found['NAME']}"
    )
    env = os.environ | {
        "FLEET_RUN_DIR": str(folder),
        "DATABASE_URL": database,
        "REDIS_URL": settings.REDIS_URL,
        "FLEET_SECRET_KEY": secret_key,
        "FLEET_DB_POOL": "1",
        "FLEET_STREAMS_PER_CALLER": "1000",
        "FLEET_RATE_READS": "0",
        **more,
    }
    port, https_port = free_port(), free_port()
    argv = [sys.executable, "-m", "fleet.stack.serve", "--https-port", str(https_port)]
    argv += ["--certificate", str(tls.certificate), "--key", str(tls.key), "--http-port", str(port)]
    with (folder / "web.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=PROJECT_ROOT, env=env, stdout=log, stderr=log)
    server = Server(process, port)

    def is_up() -> bool:
        assert process.poll() is None, (folder / "web.log").read_text()[-2000:]
        with contextlib.suppress(OSError):
            server.viewers()
            return True
        return False

    try:
        wait_until(is_up, deadline_s=60, what="the web server")
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class Watching:
    """One open stream, or the refusal of one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._text = ""
        self.status = 0
        self.head = ""

    @classmethod
    async def open(cls, port: int, path: str, **headers: str) -> Watching:
        """Ask for a stream. headers: `authorization`, `last_event_id`, `cookie`."""
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        lines = [f"GET {path} HTTP/1.1", f"Host: {LOOPBACK}:{port}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        made = cls(reader, writer)
        made.head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode()
        made.status = int(made.head.split()[1])
        return made

    async def frame(self, *, deadline_s: float = 20.0) -> str | None:
        """The next frame, comments too; None at the end."""
        return await asyncio.wait_for(self._frame(), deadline_s)

    async def hint(self, *, deadline_s: float = 20.0) -> str | None:
        """The next frame that is no comment; None at the end."""
        while (found := await self.frame(deadline_s=deadline_s)) is not None:
            if "data:" in found:
                return found
        return None

    async def _frame(self) -> str | None:
        while "\n\n" not in self._text:
            size = (await self._reader.readline()).strip()
            if not size or size == b"0":
                return None
            chunk = await self._reader.readexactly(int(size, 16))
            await self._reader.readexactly(2)
            self._text += chunk.decode()
        found, self._text = self._text.split("\n\n", 1)
        return found

    def close(self) -> None:
        """As a closed tab does."""
        self._writer.close()
