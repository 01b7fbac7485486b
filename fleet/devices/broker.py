"""Keep the broker's password file equal to the credentials in the database."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from django.conf import settings

from fleet.devices.models import DeviceCredential
from fleet.mqtt import broker_files

RELOAD_AGAIN_S: Final = (0.25, 1.5)

_planned: list[threading.Timer] = []
_planned_lock = threading.Lock()


def sync() -> bool:
    """Write the broker secrets of all live credentials and tell the broker; True when that changed anything.

    Read and write happen under one lock, so a caller who waited for another finds its own line written
    already: sixty enrolments at once cost a few writes. Safe to repeat, and heals a crash between a commit
    and the write. Call it outside of every transaction, or by `on_commit`: it writes what the caller's
    connection sees. Does nothing when no password file is configured (a broker with its own user database).
    Raises BrokerFilesError, OSError.
    """
    path, pid_file = _paths()
    if path is None:
        return False
    with _one_writer(path):
        is_changed = broker_files.sync(path, _live(), pid_file=pid_file)
    if is_changed and pid_file is not None:
        reload_again(pid_file)
    return is_changed


def ensure(device_id: str, hashed: str) -> None:
    """Return once the password file has this line; synchronises when it has not. Raises as `sync`."""
    path, _ = _paths()
    if path is None:
        return
    with _one_writer(path):
        is_written = path.exists() and f"{device_id}:{hashed}\n" in path.read_text()
    if not is_written:
        sync()


def reload_again(pid_file: Path) -> None:
    """Tell the broker to read its files again a little later, twice.

    Mosquitto forgets a SIGHUP that comes while it is still reading for an earlier one (seen in 5 of 30 rounds
    of six changes in a row, 3,000 lines). One that is sent after the earlier reading has ended either starts
    a reading or finds one that started after our write. A newer change takes the place of what was planned
    for an older one.
    """
    with _planned_lock:
        for timer in _planned:
            timer.cancel()
        _planned[:] = [
            threading.Timer(s, broker_files.reload_broker, args=(pid_file,)) for s in RELOAD_AGAIN_S
        ]
        for timer in _planned:
            timer.daemon = True
            timer.start()


def _live() -> dict[str, str]:
    rows = (
        DeviceCredential.objects.filter(revoked_at__isnull=True, device__retired_at__isnull=True)
        .order_by("pk")
        .values_list("device_id", "broker_secret_hash")
    )
    return dict(rows)  # the newest of two during a rotation


def _paths() -> tuple[Path | None, Path | None]:
    name, pid_name = str(settings.MQTT["password_file"]), str(settings.MQTT["pid_file"])
    return Path(name) if name else None, Path(pid_name) if pid_name else None


@contextlib.contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    descriptor = os.open(path.with_name(f"{path.name}.devices"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
