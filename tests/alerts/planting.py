"""Rows as ingest would leave them, for tests of alerts."""

from datetime import datetime, timedelta
from typing import Any

from fleet.devices.models import Device, DeviceClass, DeviceEvent
from fleet.telemetry import dead, partitions
from fleet.telemetry.dead import Quota, Refused
from fleet.telemetry.drift_models import WindowDrift
from fleet.telemetry.ingest import Delivery, store
from fleet.telemetry.models import Version
from tests.telemetry.batches import make_batch


def plant_devices(n: int, now: datetime, *, name: str = "host-a") -> list[str]:
    """Devices of a class that were heard of now."""
    of, _ = DeviceClass.objects.get_or_create(
        name=name,
        defaults={
            "chip": "host", "arena_bytes": 65536, "slot_bytes": [65536], "class_id": name.ljust(32, "0"),
            "created_at": now,
        },
    )  # fmt: skip
    ids = [f"{name}-{i:03d}" for i in range(n)]
    Device.objects.bulk_create(
        [Device(id=pk, device_class=of, enrolled_at=now, last_seen_at=now, presence="online") for pk in ids]
    )
    return ids


def plant_windows(ids: list[str], end: datetime, windows: int = 5, **fields: Any) -> None:
    """The last windows of a minute of these devices, the last one ending at `end`."""
    start = end - timedelta(minutes=windows)
    batch = make_batch(start, windows, boot=int(end.timestamp()) & 0xFFFFFF, dt_ms=60_000, **fields)
    store([Delivery(one, batch) for one in ids], slot=0, now=end)
    Device.objects.filter(pk__in=ids).update(last_seen_at=end)


def plant_drift(ids: list[str], end: datetime, *, worst: float, flagged: int = 3, windows: int = 5) -> None:
    """What judging leaves of the last sketches of devices that sent windows; `flagged` of them at `worst`."""
    plant_windows(ids, end, 1)
    partitions.ensure([end.date(), (end - timedelta(hours=2)).date()], tables=["tele_drift"])
    run = Version.objects.get()
    WindowDrift.objects.bulk_create(
        WindowDrift(
            device_id=one, ts=end - back * timedelta(minutes=15), seq=back, version_id=run.pk, n=900,
            worst=worst if back < flagged else 0.3, input=worst if back < flagged else 0.3, channel=4,
            moment=1, confidence=0.92, device_class="host-a", reference="peers",
        )
        for one in ids for back in range(windows)
    )  # fmt: skip


def plant_events(device_id: str, at: datetime, kind: str, n: int = 1, code: str = "") -> None:
    """Things that a device told of."""
    for _ in range(n):
        DeviceEvent.objects.create(device_id=device_id, at=at, kind=kind, code=code, text=kind)


def plant_letters(device_id: str, at: datetime, code: str, n: int = 1) -> None:
    """Messages that were refused."""
    partitions.ensure([at.date()], tables=["tele_dead"])
    one = Refused(device_id, f"fleet/{device_id}/telemetry", code, "", b"x")
    dead.record([one] * n, slot=0, now=at, quota=Quota())
