"""What the broker says about itself, and which of our names are connected: for people who look at it.

The figures are Mosquitto's `$SYS` topics, which it renews every ten seconds and which backend users may read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleet.mqtt import broker_files
from fleet.mqtt.client import BackendClient, MqttError

ROLE: Final = "doctor"
FILTER: Final = "$SYS/broker/#"
_PREFIX: Final = "$SYS/broker/"
MOST_CHARS: Final = 64
_LOCKS: Final = Path("/proc/locks")


@dataclass(frozen=True)
class Status:
    """code: "" when the broker was reached, else of MqttError, with text. figures: topic below
    `$SYS/broker/` -> value as text.
    """

    code: str = ""
    text: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)

    def number(self, topic: str) -> float | None:
        """A figure as a number; None when the broker did not say it, or said no number."""
        word = self.figures.get(topic, "").partition(" ")[0]
        try:
            return float(word)
        except ValueError:
            return None


def read(*, timeout_s: float) -> Status:
    """Connect as a backend user over TLS, read the figures, leave. Blocks up to twice `timeout_s`; a broker
    that is away is an answer, no error.
    """
    try:
        with BackendClient(ROLE) as client:
            client.connect(timeout_s)
            found = client.read_retained(FILTER, expect=None, timeout_s=timeout_s)
    except MqttError as error:
        return Status(error.code, error.text)
    return Status(
        figures={
            topic.removeprefix(_PREFIX): raw.decode("utf-8", "replace")[:MOST_CHARS]
            for topic, raw in found.items()
        }
    )


@dataclass(frozen=True)
class Names:
    """Broker users of one role. held: those that a process of this machine is connected as, or about to."""

    role: str
    total: int
    held: tuple[str, ...]


def names(users_file: Path, *, locks: Path = _LOCKS) -> list[Names]:
    """Our broker users by role. Who holds a name is read from the kernel's list of locks, never by trying
    one: a lock that is held for a moment would make a process that starts just then go without its name.

    Names that other machines hold are not seen. Raises BrokerFilesError `users_missing`.
    """
    users = sorted(broker_files.read_users(users_file))
    locked = _locked(locks)
    held = {name for name in users if _is_held(users_file.with_name("locks") / name, locked)}
    found: list[Names] = []
    for role in broker_files.USERS_PER_ROLE:
        mine = [name for name in users if name.startswith(f"{broker_files.SERVICE_PREFIX}{role}-")]
        found.append(Names(role, len(mine), tuple(name for name in mine if name in held)))
    return found


def _locked(path: Path) -> frozenset[tuple[int, int, int]]:
    """(major, minor, inode) of every file that somebody holds a lock on; empty where that is not told."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    found = set()
    for line in lines:
        for word in line.split():
            parts = word.split(":")
            if len(parts) == 3 and all(parts):
                found.add((int(parts[0], 16), int(parts[1], 16), int(parts[2])))
    return frozenset(found)


def _is_held(path: Path, locked: frozenset[tuple[int, int, int]]) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return (os.major(found.st_dev), os.minor(found.st_dev), found.st_ino) in locked
