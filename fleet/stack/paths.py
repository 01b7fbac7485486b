"""The run folder: every byte of state the private stack keeps, below one 0700 folder."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.stack.errors import StackError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
RUN_DIR_VARIABLE = "FLEET_RUN_DIR"
ENV_FILE_NAME = "stack.env"


def write_private(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` in one step, readable by its owner only, on disk before the old file goes."""
    raw = data.encode() if isinstance(data, str) else data
    staged = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class RunDir:
    """One run folder and the names of what lies in it. Nothing is created before `ensure`."""

    root: Path

    @property
    def logs(self) -> Path:
        """One file per child process."""
        return self.root / "logs"

    @property
    def tls(self) -> Path:
        """The private certificate authority and the server certificate."""
        return self.root / "tls"

    @property
    def mosquitto(self) -> Path:
        """Broker configuration, password and ACL files, persistence."""
        return self.root / "mosquitto"

    @property
    def redis(self) -> Path:
        """Redis configuration and working folder."""
        return self.root / "redis"

    @property
    def postgres(self) -> Path:
        """PostgreSQL data folder and its initial password."""
        return self.root / "postgres"

    @property
    def secrets(self) -> Path:
        """Django's secret key, the key passphrase, service passwords: one 0600 file each."""
        return self.root / "secrets"

    @property
    def env_file(self) -> Path:
        """What `fleet.settings` reads as defaults: where the running services are."""
        return self.root / ENV_FILE_NAME

    def ensure(self) -> RunDir:
        """Create the folder and its parts, mode 0700. Raises StackError `state` when that cannot be done."""
        try:
            for folder in (
                self.root,
                self.logs,
                self.tls,
                self.mosquitto,
                self.redis,
                self.postgres,
                self.secrets,
            ):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
        except OSError as error:
            raise StackError(
                "state", f"the run folder {self.root} cannot be used: {error.strerror}"
            ) from error
        return self

    def secret(self, name: str, *, n_bytes: int = 32) -> str:
        """The secret called `name`, made of `n_bytes` random bytes (lower-case hex) when it does not exist
        yet.
        """
        path = self.secret_path(name)
        if not path.exists():
            write_private(path, secrets.token_hex(n_bytes) + "\n")
        return path.read_text().strip()

    def secret_path(self, name: str) -> Path:
        """The file that holds the secret called `name`; `secret` creates it."""
        return self.secrets / name


def default_run_dir(environ: Mapping[str, str] = os.environ) -> RunDir:
    """The run folder of this checkout: `FLEET_RUN_DIR`, else `.run` next to manage.py."""
    named = environ.get(RUN_DIR_VARIABLE)
    return RunDir(Path(named).expanduser().resolve() if named else PROJECT_ROOT / ".run")


def read_env(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of `path`, or an empty mapping when the file does not exist.

    Values are taken literally.
    """
    if not path.exists():
        return {}
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {name: value for name, found, value in (line.partition("=") for line in lines) if found}


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Write `values` as `NAME=value` lines, mode 0600.

    Raises StackError `state` for a value with a line break.
    """
    for name, value in values.items():
        if "\n" in value or "\r" in value:
            raise StackError("state", f"{name} contains a line break and cannot be kept in {path.name}")
    write_private(path, "".join(f"{name}={value}\n" for name, value in values.items()))


class RunLock:
    """At most one stack per run folder: an advisory lock that the kernel drops with its process."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.root / "lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises StackError `locked`, naming the process that holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StackError(
                "locked",
                f"another stack (process {holder}) uses {self._path.parent}: stop it first, "
                f"or choose another folder with {RUN_DIR_VARIABLE}=/some/folder",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
