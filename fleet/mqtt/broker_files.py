"""The two files Mosquitto trusts: who may connect (passwords) and which topics are whose (ACL).

Bare Python. A device is its own username, `[a-z0-9][a-z0-9-]{0,31}`. A process of the backend is
`svc.<role>-<n>`: the dot keeps it apart from every device id, and no colon is possible, because the colon
ends the name in a password file. Every process needs a name of its own, since the broker ends the older of
two sessions with one name; `claim_user` hands names out.

Password lines use Mosquitto's `$7$` format: PBKDF2-HMAC-SHA512. The secrets are 32 random bytes, so few
iterations are enough.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets as randomness
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ITERATIONS: Final = 101  # what mosquitto_passwd 2.0 uses
SALT_BYTES: Final = 12
HASH_BYTES: Final = 64
SERVICE_PREFIX: Final = "svc."
USERS_PER_ROLE: Final[Mapping[str, int]] = {
    "web": 4,
    "gateway": 8,
    "worker": 16,
    "beat": 2,
    "stage": 8,
    "cli": 8,
    "doctor": 2,
    "probe": 2,
    "test": 4,
}
_NAME_RE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}|svc\.[a-z]+-[0-9]{1,3}", re.ASCII)
_HASH_RE: Final = re.compile(
    r"\$7\$([1-9][0-9]{0,6})\$([A-Za-z0-9+/=]{4,128})\$([A-Za-z0-9+/=]{88})", re.ASCII
)

_DEVICE_RULES: Final = (
    ("read", "f1/trust"),
    ("read", "f1/trust/#"),
    ("read", "f1/model/#"),
    ("read", "f1/dev/%u/desired"),
    ("read", "f1/dev/%u/cmd"),
    ("write", "f1/dev/%u/reported"),
    ("write", "f1/dev/%u/telemetry"),
    ("write", "f1/dev/%u/event"),
    ("write", "f1/dev/%u/online"),
)


class BrokerFilesError(Exception):
    """The broker's files cannot be read or written.

    `code`: `name_bad`, `hash_bad`, `users_missing`, `no_free_user`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


def hash_secret(secret: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """The password-file form of `secret`, `$7$<iterations>$<salt>$<hash>`; random salt by default."""
    salt = randomness.token_bytes(SALT_BYTES) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, iterations, HASH_BYTES)
    return f"$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def is_secret_of(secret: str, hashed: str) -> bool:
    """True when `hashed` (as `hash_secret` writes it) was made of `secret`; False for any malformed hash."""
    match = _HASH_RE.fullmatch(hashed)
    if match is None:
        return False
    try:
        salt = base64.b64decode(match[2], validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(hash_secret(secret, salt=salt, iterations=int(match[1])), hashed)


def read_passwords(path: Path) -> dict[str, str]:
    """Names and hashes of a password file; empty when there is none.

    Raises BrokerFilesError `hash_bad`, `name_bad`.
    """
    if not path.exists():
        return {}
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, hashed = line.partition(":")
        _checked(name, hashed)
        found[name] = hashed
    return found


def write_hashes(path: Path, hashes: Mapping[str, str]) -> None:
    """Replace the password file by these names and hashes in one step (mode 0600, sorted).

    Raises BrokerFilesError `name_bad`, `hash_bad` before anything is written.
    """
    for name, hashed in hashes.items():
        _checked(name, hashed)
    _write_private(path, "".join(f"{name}:{hashes[name]}\n" for name in sorted(hashes)))


def write_passwords(path: Path, secrets: Mapping[str, str]) -> None:
    """Replace the password file by these names and secrets, hashed with fresh salts.

    Raises as `write_hashes`.
    """
    with _locked(path):
        write_hashes(path, {name: hash_secret(secret) for name, secret in secrets.items()})


def sync(path: Path, devices: Mapping[str, str], *, pid_file: Path | None = None) -> bool:
    """Make the password file hold exactly `devices` (id to hash) besides the backend's own lines.

    True when that changed anything; only then is the file replaced and, with `pid_file`, the broker told to
    read it. Raises BrokerFilesError `name_bad`, `hash_bad`.
    """
    with _locked(path):
        before = read_passwords(path)
        after = {name: hashed for name, hashed in before.items() if is_service(name)}
        after.update((_device(name), hashed) for name, hashed in devices.items())
        return _replace(path, before, after, pid_file)


def change(
    path: Path, *, add: Mapping[str, str] = {}, remove: Iterable[str] = (), pid_file: Path | None = None
) -> bool:
    """Add device lines (id to hash) and remove others, leaving the rest. Returns and raises as `sync`.

    Removing a line and reloading ends the device's live session.
    """
    with _locked(path):
        before = read_passwords(path)
        after = {**before, **{_device(name): hashed for name, hashed in add.items()}}
        for name in remove:
            after.pop(_device(name), None)
        return _replace(path, before, after, pid_file)


def sync_services(path: Path, secrets: Mapping[str, str]) -> bool:
    """Make the password file hold exactly these backend users besides the devices.

    A hash that still fits is kept.
    """
    with _locked(path):
        before = read_passwords(path)
        after = {name: hashed for name, hashed in before.items() if not is_service(name)}
        for name, secret in secrets.items():
            kept = before.get(name, "")
            after[name] = kept if is_secret_of(secret, kept) else hash_secret(secret)
        return _replace(path, before, after, None)


def reload_broker(pid_file: Path) -> bool:
    """Tell the broker to read its files again (SIGHUP). False when no broker runs under that process id."""
    try:
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() != "mosquitto":
            return False
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError):
        return False
    return True


def is_service(name: str) -> bool:
    """True for the name of a backend process, which no device id can be."""
    return name.startswith(SERVICE_PREFIX)


def service_users() -> tuple[str, ...]:
    """The names of all backend processes, `svc.<role>-<n>`."""
    return tuple(
        f"{SERVICE_PREFIX}{role}-{n}" for role, count in USERS_PER_ROLE.items() for n in range(count)
    )


def acl_text(services: Iterable[str]) -> str:
    """The ACL file: device rules as patterns over the username, everything below f1/ for the backend users.

    A filter that a rule does not grant is still answered "granted" by Mosquitto; the rules stop delivery, not
    SUBSCRIBE.
    """
    lines = [f"pattern {access} {topic}" for access, topic in _DEVICE_RULES]
    for name in services:
        lines += ["", f"user {name}", "topic readwrite f1/#", "topic read $SYS/#"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class BackendUser:
    """A name this process alone holds; it stays held until `release` or until the process ends."""

    name: str
    secret: str
    _descriptor: int

    def release(self) -> None:
        """Give the name back. Call it once, after the connection is closed."""
        os.close(self._descriptor)


def claim_user(users_file: Path, role: str) -> BackendUser:
    """A backend user of `role` that no other process on this machine holds (an advisory lock per name).

    users_file: JSON, name to secret (`FLEET_MQTT_USERS_FILE`). In a pre-forking parent, claim after the fork.
    Raises BrokerFilesError `users_missing`, or `no_free_user` when every name of the role is held.
    """
    users = read_users(users_file)
    locks = users_file.with_name("locks")
    locks.mkdir(mode=0o700, exist_ok=True)
    prefix = f"{SERVICE_PREFIX}{role}-"
    for name in sorted(user for user in users if user.startswith(prefix)):
        descriptor = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return BackendUser(name, users[name], descriptor)
    raise BrokerFilesError("no_free_user", f"every broker user of role {role!r} is in use, or there is none")


def read_users(users_file: Path) -> dict[str, str]:
    """Names and secrets of the backend users. Raises BrokerFilesError `users_missing`."""
    try:
        found = json.loads(users_file.read_text())
    except (OSError, ValueError) as error:
        raise BrokerFilesError("users_missing", f"{users_file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BrokerFilesError("users_missing", f"{users_file} is not a JSON object")
    return {str(name): str(secret) for name, secret in found.items()}


def _checked(name: str, hashed: str) -> None:
    if _NAME_RE.fullmatch(name) is None:
        raise BrokerFilesError("name_bad", f"{name[:40]!r} is neither a device id nor a backend user")
    if _HASH_RE.fullmatch(hashed) is None:
        raise BrokerFilesError("hash_bad", f"the password of {name!r} is not in $7$ form")


def _device(name: str) -> str:
    """`name`, refused when it is a backend user: enrolment must never be able to change those."""
    if is_service(name):
        raise BrokerFilesError("name_bad", f"{name[:40]!r} is a backend user")
    return name


def _replace(path: Path, before: dict[str, str], after: dict[str, str], pid_file: Path | None) -> bool:
    if before == after and path.exists():
        return False
    write_hashes(path, after)
    if pid_file is not None:
        reload_broker(pid_file)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time: a change reads the whole file and writes it back."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_private(path: Path, text: str) -> None:
    """Replace `path` in one step: the broker sees the old file or the new one, never a part."""
    staged = path.with_name(f"{path.name}.new")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    staged.replace(path)
