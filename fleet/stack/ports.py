"""Loopback ports: chosen once, kept in the run folder, chosen again only when somebody else took them."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from fleet.stack.errors import StackError
from fleet.stack.paths import RunDir, write_private

LOOPBACK = "127.0.0.1"
# Below the kernel's range for outgoing connections (32768 up), so that no client socket sits on a port we
# kept.
FIRST_PORT, LAST_PORT = 20_000, 31_999
TRIES = 200


def is_free(port: int) -> bool:
    """True when a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(*, avoid: frozenset[int] = frozenset()) -> int:
    """A loopback port nobody listens on.

    Raises StackError `port_taken` when none is found in a bounded search.
    """
    for _ in range(TRIES):
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT + 1)
        if port not in avoid and is_free(port):
            return port
    raise StackError("port_taken", f"no free port between {FIRST_PORT} and {LAST_PORT} on {LOOPBACK}")


def holder_of(port: int) -> str:
    """Who listens on `port`, as `process 12 (name)`; `another process` where the kernel does not tell us."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.readlink().name in inodes for link in (process / "fd").iterdir()):
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue  # it ended while we looked, or belongs to somebody else
    return "another process"


def _listening_inodes(port: int) -> set[str]:
    """`socket:[inode]` names of the sockets in state LISTEN (0A) on `port`, from /proc/net/tcp and tcp6."""
    found: set[str] = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


class PortBook:
    """The ports this run folder uses, by service name, kept in `ports.json`."""

    def __init__(self, run: RunDir, *, say: Callable[[str], None]) -> None:
        self._path = run.root / "ports.json"
        self._say = say

    def _read(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        try:
            found = json.loads(self._path.read_text())
            return {str(name): int(port) for name, port in found.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise StackError(
                "state", f"{self._path} is damaged: delete it and new ports are chosen"
            ) from error

    def claim(self, name: str, *, wanted: int | None = None) -> int:
        """The port of service `name`: `wanted`, else the one used last time, else a new free one.

        A kept port that somebody else holds is reported and replaced.
        Raises StackError `port_taken` when a `wanted` port is held: a person asked for exactly that one.
        """
        kept = self._read()
        port = wanted if wanted is not None else kept.get(name)
        if port is not None and not is_free(port):
            if wanted is not None:
                raise StackError(
                    "port_taken", f"{name}: port {port} is taken by {holder_of(port)}; choose another"
                )
            self._say(f"{name}: port {port} of the last run is taken by {holder_of(port)}; choosing another")
            port = None
        if port is None:
            port = free_port(avoid=frozenset(kept.values()))
        if kept.get(name) != port:
            write_private(self._path, json.dumps({**kept, name: port}, indent=1, sort_keys=True) + "\n")
        return port
