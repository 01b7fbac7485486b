"""What `manage.py doctor` can check without Django: versions, programs, disk, database, Redis, clock, broker
limits.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from fleet.stack import mosquitto, outside
from fleet.stack.children import find_binary
from fleet.stack.errors import StackError
from fleet.stack.paths import PROJECT_ROOT

OK, WARN, FAIL = "ok", "warn", "fail"
PYTHON_LEAST = (3, 11)
DISK_WARN_BYTES, DISK_FAIL_BYTES = 2 * 1024**3, 256 * 1024**2
CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 30.0
CONNECTIONS_LEAST = 50
"""Web server 16 (pool 8, files 4, exports 4), workers, beat, gateways, and people beside them."""
PROGRAMS = (
    ("mosquitto", "mosquitto", "the private broker"),
    ("redis-server", "redis-server", "the private Redis"),
    ("gcc", "gcc", "building the firmware core"),
)

_CONNECTIONS = (
    "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. level: ok, warn or fail; fix: what to do, empty when nothing."""

    name: str
    level: str
    text: str
    fix: str = ""


def check_python() -> Finding:
    """The interpreter is new enough."""
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < PYTHON_LEAST:
        return Finding("python", FAIL, text, "install Python 3.11 or newer and run deploy/demo again")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        fix = "inspecting models and virtual devices need x86-64 Linux: tflite-micro has no other wheels"
        return Finding("python", WARN, text, fix)
    return Finding("python", OK, text)


def check_packages(pins: Path = PROJECT_ROOT / "deploy" / "requirements.txt") -> Finding:
    """Every pinned package that applies here is installed in its pinned version."""
    fix = "run deploy/demo (or deploy/test) again: it installs what is pinned"
    if not pins.exists():
        return Finding("packages", WARN, f"no {pins.name} to compare with", "run deploy/compile-pins")
    missing, other, count = [], [], 0
    for name, version in _pinned(pins):
        count += 1
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if installed != version:
            other.append(f"{name} {installed} (pinned {version})")
    if missing:
        return Finding("packages", FAIL, f"not installed: {', '.join(missing)}", fix)
    if other:
        return Finding("packages", WARN, f"other versions than pinned: {', '.join(other)}", fix)
    return Finding("packages", OK, f"{count} packages as pinned")


def _pinned(pins: Path) -> Iterator[tuple[str, str]]:
    """(name, version) of each pin whose marker holds here."""
    from packaging.requirements import Requirement

    for line in pins.read_text().splitlines():
        if line and line[0].isalnum():
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, next(iter(requirement.specifier)).version


def check_programs() -> Iterator[Finding]:
    """The system programs that the private stack and the firmware build start."""
    for program, package, purpose in PROGRAMS:
        try:
            yield Finding(program, OK, find_binary(program, package=package))
        except StackError:
            fix = f"sudo apt-get install {package}"
            yield Finding(program, WARN, f"not found; needed for {purpose}", fix)


def check_disk(folder: Path) -> Finding:
    """There is room where the run folder lies (or will lie)."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{free / 1024**3:.1f} GiB free at {existing}"
    if free < DISK_FAIL_BYTES:
        return Finding(
            "disk", FAIL, text, "make room: the database and the broker stop when the disk is full"
        )
    if free < DISK_WARN_BYTES:
        return Finding("disk", WARN, text, "make room soon: telemetry grows")
    return Finding("disk", OK, text)


def check_database(url: str) -> Iterator[Finding]:
    """The database answers, has connections enough, and its clock and ours agree (leases and counters rest on
    both).
    """
    try:
        outside.check_database(url)
        with psycopg.connect(url, connect_timeout=outside.ATTEMPT_S) as connection:
            before_s = time.time()
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            after_s = time.time()
            version = connection.info.server_version
            most = connection.execute(_CONNECTIONS).fetchone()
    except (StackError, psycopg.Error) as error:
        fix = "start the stack (manage.py dev), or set DATABASE_URL to a server that runs"
        yield Finding("database", FAIL, str(error), fix)
        return
    yield Finding("database", OK, f"PostgreSQL {version // 10000}.{version % 10000} at {_place(url)}")
    yield connections_finding(int(most[0]) if most else 0)
    theirs_s = float(row[0]) if row else 0.0
    # What lies between our two readings is no difference.
    yield clock_finding(max(before_s - theirs_s, theirs_s - after_s, 0.0))


def connections_finding(most: int) -> Finding:
    """The verdict on a database that lets so many connections in besides those kept for superusers."""
    text = f"{most} connections"
    if most < CONNECTIONS_LEAST:
        fix = f"set max_connections to {CONNECTIONS_LEAST + 10} or more: pages are answered 503 without one"
        return Finding("connections", WARN, text, fix)
    return Finding("connections", OK, text)


def clock_finding(difference_s: float) -> Finding:
    """The verdict on a clock that differs from the database's by so many seconds."""
    text = f"{difference_s:.3f} s from the database's clock"
    fix = "synchronise both clocks (timedatectl set-ntp true)"
    if difference_s > CLOCK_WARN_S:
        return Finding("clock", FAIL if difference_s > CLOCK_FAIL_S else WARN, text, fix)
    if time.time() < 1_750_000_000:
        return Finding("clock", FAIL, "the clock is years behind: signed documents would be refused", fix)
    return Finding("clock", OK, text)


def check_redis(url: str) -> Finding:
    """Redis answers PING with the password of the URL."""
    try:
        outside.check_redis(url)
    except StackError as error:
        fix = "start the stack (manage.py dev), or set REDIS_URL to a server that runs"
        return Finding("redis", FAIL, str(error), fix)
    return Finding("redis", OK, f"answers at {_place(url)}")


def check_broker_limits(users_file: Path) -> Finding:
    """The broker's configuration, found beside `users_file`, bounds messages, queues and memory, and saves
    often.
    """
    config = users_file.parent / "mosquitto.conf"
    wanted = {**mosquitto.LIMITS, "autosave_interval": "1", "autosave_on_changes": "true"}
    if not config.exists():
        text = "the broker's configuration is not on this machine"
        fix = "see to it there: " + ", ".join(f"{name} {value}" for name, value in wanted.items())
        return Finding("broker limits", WARN, text, fix)
    found = dict(line.split(" ", 1) for line in config.read_text().splitlines() if " " in line)
    wrong = [f"{name} {value}" for name, value in wanted.items() if found.get(name) != value]
    if wrong:
        fix = f"restart the stack, which writes {config.name} anew with: {', '.join(wrong)}"
        return Finding("broker limits", FAIL, f"{config} lacks {len(wrong)} setting(s)", fix)
    shown = ("message_size_limit", "max_queued_messages", "memory_limit")
    return Finding("broker limits", OK, ", ".join(f"{name} {found[name]}" for name in shown))


def _place(url: str) -> str:
    """Host, port and path of a URL, without user and password."""
    return url.rpartition("@")[2].partition("?")[0].removeprefix("redis://").removeprefix("postgresql://")
