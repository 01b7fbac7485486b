"""MAC keys of devices, unsealed and kept for a short while by the processes that read uplinks."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.db import connection

from fleet.devices.models import Device, DeviceCredential
from fleet.sealing import unseal

KEEP_S: Final = 30.0
MAX_CACHED: Final = 50_000
BATCH: Final = 1000
MAX_LIVE: Final = 2
CHANGED: Final = "devices_changed"
"""Channel on which PostgreSQL names a device whose keys are not what they were, when that is committed."""


def mac_purpose(device_id: str) -> str:
    """What the seal of a device's MAC key is bound to."""
    return f"mac_key:{device_id}"


def broker_purpose(device_id: str) -> str:
    """What the seal of a device's broker secret is bound to."""
    return f"broker_secret:{device_id}"


@dataclass(frozen=True)
class KnownDevice:
    """What is needed to judge an uplink. keys: live MAC keys by kid (4 bytes)."""

    device_class: str
    is_retired: bool
    keys: dict[bytes, bytes]


class Keyring:
    """MAC keys by device, each read at most once in KEEP_S seconds; a revoked key is therefore believed no
    longer, and in a process that listens (`fleet.gateway.listening`) not even that.

    A device or a key that is not cached is always looked up, so a new one works at once. Safe for threads.
    """

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, KnownDevice]] = {}

    def device(self, device_id: str, *, kid: bytes | None = None) -> KnownDevice | None:
        """The device, or None when it is not enrolled.

        kid: read again when the cached entry lacks this key.
        """
        now_s = time.monotonic()
        with self._lock:
            cached = self._known.get(device_id)
        if cached is not None and cached[0] > now_s and (kid is None or kid in cached[1].keys):
            return cached[1]
        found = _read([device_id]).get(device_id)
        with self._lock:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            if found is None:
                self._known.pop(device_id, None)
            else:
                self._known[device_id] = (now_s + self._keep_s, found)
        return found

    def load(self, device_ids: Iterable[str]) -> int:
        """Read those of these devices that are not cached, BATCH at a time; returns how many were read.

        `device` reads one by one, 1 ms each: a thousand devices would cost a gateway a second every KEEP_S.
        Ids that are not enrolled stay unknown and cost a query each when asked for.
        """
        now_s = time.monotonic()
        with self._lock:
            wanted = sorted(
                {one for one in device_ids if one not in self._known or self._known[one][0] <= now_s}
            )
        for start in range(0, len(wanted), BATCH):
            found = _read(wanted[start : start + BATCH])
            with self._lock:
                if len(self._known) + len(found) > MAX_CACHED:
                    self._known.clear()
                for device_id, known in found.items():
                    self._known[device_id] = (now_s + self._keep_s, known)
        return len(wanted)

    def mac_key(self, device_id: str, kid: bytes) -> bytes | None:
        """The device's live MAC key of that id, or None."""
        known = self.device(device_id, kid=kid)
        return None if known is None else known.keys.get(kid)

    def forget(self, device_id: str) -> None:
        """Read this device again when it is next asked for."""
        with self._lock:
            self._known.pop(device_id, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()


KEYRING: Final = Keyring()


def announce(device_id: str) -> None:
    """Tell every process that listens, when the caller's transaction is committed, to forget this device."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANGED, device_id])


def mac_key(device_id: str, kid: bytes) -> bytes | None:
    """The device's live MAC key of that id (4 bytes), or None; from this process's keyring."""
    return KEYRING.mac_key(device_id, kid)


def _read(device_ids: Sequence[str]) -> dict[str, KnownDevice]:
    """Those of these devices that are enrolled, each with its two newest live keys."""
    rows = Device.objects.filter(pk__in=device_ids).values_list("pk", "device_class_id", "retired_at")
    found = {name: KnownDevice(class_id, retired_at is not None, {}) for name, class_id, retired_at in rows}
    credentials = (
        DeviceCredential.objects.filter(device_id__in=found, revoked_at__isnull=True)
        .order_by("-pk")
        .values_list("device_id", "mac_kid", "sealed_mac_key")
    )
    for name, kid, sealed in credentials:
        keys = found[name].keys
        if len(keys) < MAX_LIVE:
            keys[bytes.fromhex(kid)] = unseal(
                bytes(sealed), purpose=mac_purpose(name), passphrase=settings.KEY_PASSPHRASE
            )
    return found
