"""A believable fleet, written through the models: what the console's tests and its screenshots are made of.

Everything hangs on `now` and a seed, so a page built from it is the same each time.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.utils import timezone

from fleet.accounts import audit
from fleet.devices.classes import ensure_default_classes
from fleet.devices.installation import ensure_installation
from fleet.devices.models import Device, DeviceClass, DeviceEvent, DeviceSlot, Presence
from fleet.telemetry import partitions
from fleet.telemetry.models import DeviceLast, Minute, Version, Window
from ota import keys
from ota.choices import (
    JobState,
    RolloutState,
    StagingState,
    VerdictKind,
    VersionState,
)
from ota.inspector import inspect
from ota.models import (
    Artifact,
    ClassVerdict,
    DesiredState,
    Manifest,
    MLModel,
    ModelVersion,
    Rollout,
    SigningKey,
    Staging,
)
from tests.console.rollout_rows import ADMIN, GATED, completed, halted, running

MODELS = Path(__file__).resolve().parents[2] / "deploy" / "models"


@dataclass
class Filled:
    """What was written, by name."""

    devices: list[Device]
    versions: dict[str, ModelVersion]
    manifests: dict[str, Manifest]
    rollouts: dict[str, Rollout]


def fill(now: datetime, *, devices: int = 80, telemetry: bool = True) -> Filled:
    """A fleet of two classes with three versions, a completed, a halted and a running rollout."""
    keys.init(now)
    ensure_default_classes(now)
    ensure_installation(now)
    versions = {name: version(now, name, file) for name, file in _FILES.items()}
    manifests = {
        name: release(versions[name], seq, now)
        for seq, name in enumerate(("1.0.0", "2.0.0", "3.0.0"), start=1)
    }
    _refused(versions["0.9.0"])
    fleet = make_devices(now, devices, manifests["2.0.0"], manifests["1.0.0"])
    rollouts = {
        "completed": completed(now - timedelta(hours=6), fleet, manifests["2.0.0"], manifests["1.0.0"]),
    }
    rollouts["halted"] = halted(now - timedelta(minutes=40), fleet, manifests["3.0.0"], manifests["2.0.0"])
    Rollout.objects.filter(pk=rollouts["halted"].pk).update(
        state=RolloutState.ROLLED_BACK, finished_at=now - timedelta(minutes=30)
    )
    versions["3.1.0"] = version(now, "3.1.0", "activity-large")
    manifests["3.1.0"] = release(versions["3.1.0"], 4, now)
    rollouts["running"] = running(now, fleet, manifests["3.1.0"], manifests["2.0.0"])
    if telemetry:
        measure(now, fleet, [manifests["1.0.0"], manifests["2.0.0"], manifests["3.1.0"]])
    DesiredState.objects.create(device=fleet[0], counter=7, published_counter=7)
    return Filled(fleet, versions, manifests, rollouts)


_FILES = {"0.9.0": None, "1.0.0": "activity-v1", "2.0.0": "activity-v2", "3.0.0": "activity-v3"}


def version(now: datetime, name: str, file: str | None, model: str = "activity") -> ModelVersion:
    """A version with the inspector's true report; file None: bytes that are no model."""
    data = (MODELS / f"{file}.tflite").read_bytes() if file else b"\x1c\x00\x00\x00TFL3" + b"\x00" * 200
    digest = hashlib.sha256(data).hexdigest()
    line, _ = MLModel.objects.get_or_create(
        pk=model,
        defaults={
            "description": "Exercise recognition on a smart watch",
            "created_at": now,
            "created_by": "admin",
        },
    )
    artifact, _ = Artifact.objects.get_or_create(
        pk=digest, defaults={"size": len(data), "data": data, "created_at": now}
    )
    row = ModelVersion.objects.create(
        model=line,
        version=name,
        artifact=artifact,
        state=VersionState.FITS,
        inspection=inspect(data).to_json() if file else None,
        probe=_PROBE if file else None,
        declared_accuracy=0.93,
        created_at=now - timedelta(hours=8),
        created_by="admin",
    )
    for item in DeviceClass.objects.all():
        is_host = item.is_simulated
        ClassVerdict.objects.create(
            version=row,
            device_class=item,
            class_id=item.class_id,
            kind=VerdictKind.PASS if is_host else VerdictKind.UNPROVEN,
            text=""
            if is_host
            else "no device of this chip has measured the arena; the prediction is no upper bound here",
            missing=[] if is_host else ["device_arena"],
            arena_bytes=31_744 if is_host else 24_576,
            at=now,
        )
    audit.record(actor=ADMIN, verb="version.upload", subject_kind="version", subject_id=str(row.pk), at=now)
    return row


_PROBE: dict[str, Any] = {
    "arena_head_bytes": 9216,
    "arena_tail_bytes": 11_200,
    "arena_min_bytes": 20_480,
    "arena_is_exact": True,
    "arena_attempts": 9,
    "invoke_us": 412,
    "duration_s": 0.61,
    "accuracy": {
        "kind": "labels",
        "ratio": 0.9412,
        "right": 1506,
        "n": 1600,
        "total": 1600,
        "majority_ratio": 0.284,
    },
    "golden": {"vectors": 8, "bytes": 3120, "form": "blob", "tolerance": 2},
    "missing": [],
    "notes": [],
}


def _refused(row: ModelVersion) -> None:
    ModelVersion.objects.filter(pk=row.pk).update(
        state=VersionState.REFUSED,
        code="schema",
        text="root table: field 2 points outside the file",
        fix="the file is damaged or cut short: export it again and compare its SHA-256",
    )
    ClassVerdict.objects.filter(version=row).update(
        kind=VerdictKind.REFUSE, code="schema", text="root table: field 2 points outside the file", missing=[]
    )


def release(row: ModelVersion, seq: int, now: datetime) -> Manifest:
    """A manifest row and its finished staging; bytes stand in for the signed message, which no page reads."""
    digest = hashlib.sha256(f"{row.pk} {seq}".encode()).hexdigest()
    made = Manifest.objects.create(
        id=digest,
        mid=digest[:16],
        version=row,
        seq=seq,
        floor=0,
        message=b"",
        leaves=b"",
        blob=b"",
        chunks=-(-row.artifact.size // 4096) + 1,
        class_ids=[item.class_id for item in DeviceClass.objects.filter(chip="host")],
        kids=[SigningKey.objects.get(role="release").pk],
        created_at=now - timedelta(hours=7) + timedelta(minutes=seq),
        created_by="admin",
    )
    Staging.objects.create(
        manifest=made,
        state=StagingState.STAGED,
        published=made.chunks,
        publishes=made.chunks,
        verified_at=now - timedelta(hours=7),
    )
    ModelVersion.objects.filter(pk=row.pk).update(state=VersionState.STAGED, released_at=now)
    row.refresh_from_db()
    audit.record(actor=ADMIN, verb="version.release", subject_kind="version", subject_id=str(row.pk), at=now)
    return made


def make_devices(now: datetime, count: int, runs: Manifest, before: Manifest) -> list[Device]:
    """Devices of two classes, nearly all online, with a slot that runs one version and holds another."""
    found = []
    for index in range(count):
        presence = Presence.OFFLINE if index % 37 == 5 else Presence.ONLINE
        seen = now - timedelta(seconds=index % 9 + (5400 if presence == Presence.OFFLINE else 0))
        found.append(
            Device(
                id=f"dev-{index:03d}",
                device_class_id="host-a" if index < count * 2 // 3 else "host-b",
                enrolled_at=now - timedelta(days=2),
                presence=Presence.NEVER_SEEN if index == count - 1 else presence,
                last_seen_at=None if index == count - 1 else seen,
                boot=3,
                report_n=41,
                reported_at=seen,
                firmware_version="1.0.0",
                chip="host",
                trust_version=1,
                desired_counter=7,
                free_heap_bytes=61_440,
                reset_reason="power",
            )
        )
    Device.objects.bulk_create(found)
    DeviceSlot.objects.bulk_create(
        [
            DeviceSlot(
                device=device,
                slot=0,
                state="confirmed",
                attempt=2,
                target=runs.id16,
                run=runs.id16,
                run_seq=runs.seq,
                run_bank=index % 2,
                other=before.id16,
                other_seq=before.seq,
                other_flags=1,
                arena_used=20_480,
                selftest=[8, 8, 1, 412],
                updated_at=now - timedelta(seconds=index % 50),
            )
            for index, device in enumerate(found[:-1])
        ]
    )
    DeviceEvent.objects.bulk_create(
        [
            DeviceEvent(device=device, at=now - timedelta(minutes=minutes), kind=kind, code=code, text=text)
            for device in found[:5]
            for minutes, kind, code, text in (
                (300, "boot", "", "boot 3 after power"),
                (299, "presence", "", "online"),
                (120, "run", "", f"slot 0 runs {runs.id16[:16]}"),
                (41, "state", "crash_loop", f"slot 0 reverted of {before.id16[:16]}: crash_loop"),
            )
        ]
    )
    return found


def measure(now: datetime, fleet: Sequence[Device], manifests: Sequence[Manifest]) -> None:
    """Six hours of telemetry: an older version, then the newer ones; one quarter of an hour is missing."""
    partitions.ensure({partitions.day_of(now - timedelta(hours=hours)) for hours in range(0, 26)})
    dice = random.Random(5)
    rows = {
        manifest.pk: Version.objects.create(
            model=manifest.version.model_id,
            version=manifest.version.version,
            mid=manifest.mid,
            first_seen_at=now,
        )
        for manifest in manifests
    }
    base = now.replace(second=0, microsecond=0)
    minutes = []
    for index, (manifest, first, last, accuracy, us) in enumerate(
        (
            (manifests[0], 360, 300, 0.81, 9200),
            (manifests[1], 310, 1, 0.92, 6400),
            (manifests[2], 14, 0, 0.93, 6900),
        )
    ):
        for minute in range(first, last, -1):
            if 150 <= minute < 165:
                continue
            n = 600 + dice.randrange(200)
            labels = n // 2
            minutes.append(
                Minute(
                    minute=base - timedelta(minutes=minute),
                    version_id=rows[manifest.pk].pk,
                    device_class="host-a",
                    ingest_slot=0,
                    windows=60,
                    n=n,
                    us_sum=n * (us + dice.randrange(600)),
                    us_max=us * 2 + dice.randrange(4000),
                    anom_n=int(n * (0.012 + 0.006 * dice.random() + 0.01 * (index == 0))),
                    lab_n=labels,
                    lab_ok=int(labels * min(1.0, accuracy + dice.gauss(0, 0.012))),
                )
            )
    Minute.objects.bulk_create(minutes)
    windows, last_rows = [], []
    for number, device in enumerate(fleet[:-1]):
        manifest = manifests[2] if number < 29 else manifests[1]
        for step in range(40 if number < 3 else 1):
            ts = now - timedelta(seconds=4 + 60 * step)
            common = {
                "ts": ts,
                "seq": (3 << 32) | (100 - step),
                "device_id": device.pk,
                "version_id": rows[manifest.pk].pk,
                "n": 40,
                "us_mean": 6100 + dice.randrange(900),
                "us_max": 9000 + dice.randrange(3000),
                "anom_max": 1100,
                "anom_n": dice.randrange(2),
                "heap_min": 900,
                "score": 8800,
                "top": 2,
                "lab_n": 20,
                "lab_ok": 16 + dice.randrange(5),
                "rssi": -52,
                "flags": 0,
                "slot": 0,
            }
            windows.append(Window(**common, dt_ms=60_000, lag_s=1, clock=2))
            if step == 0:
                last_rows.append(DeviceLast(**common))
    Window.objects.bulk_create(windows)
    DeviceLast.objects.bulk_create(last_rows)


def present() -> datetime:
    """Now, without microseconds: pages print relative times, so rows have to be fresh."""
    return timezone.now().replace(microsecond=0)


__all__ = ["ADMIN", "GATED", "Filled", "JobState", "fill", "present"]
