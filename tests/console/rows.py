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
from fleet.accounts.audit import Actor
from fleet.devices.classes import ensure_default_classes
from fleet.devices.installation import ensure_installation
from fleet.devices.models import Device, DeviceClass, DeviceEvent, DeviceSlot, Presence
from fleet.telemetry import partitions
from fleet.telemetry.models import DeviceLast, Minute, Version, Window
from ota import evidence as judging
from ota import keys
from ota.choices import (
    Arm,
    JobState,
    RolloutState,
    StagingState,
    VerdictKind,
    VersionState,
    WaveState,
)
from ota.gates.evaluate import evaluate
from ota.gates.quality import PRODUCTION
from ota.inspector import inspect
from ota.models import (
    Artifact,
    ClassVerdict,
    DesiredState,
    Evidence,
    Job,
    Manifest,
    Membership,
    MLModel,
    ModelVersion,
    Rollout,
    SigningKey,
    Staging,
    Wave,
)
from ota.plan import Plan

MODELS = Path(__file__).resolve().parents[2] / "deploy" / "models"
ADMIN = Actor("user", "admin")
GATED: dict[str, Any] = {
    "waves": [{"count": 20}, {"percent": 50}, {"percent": 100}],
    "control": {"count": 20},
    "metrics": [
        {"metric": "accuracy", "kind": "proxy", "promote_margin": 0.10, "halt_margin": 0.0, "weight": 1.0}
    ],
    "accept_proxy": True,
    "min_pairs": 12,
    "settle_s": 3,
    "window_s": 20,
    "soak_s": 23,
    "max_soak_s": 120,
    "trial_deadline_s": 120,
    "max_in_flight": 200,
}


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


def _rollout(
    name: str, manifest: Manifest, now: datetime, state: RolloutState, fleet: Sequence[Device], **more: Any
) -> Rollout:
    row = Rollout.objects.create(
        name=name,
        manifest=manifest,
        plan=Plan.parse(GATED).to_json(),
        salt=b"0123456789abcdef",
        target={"classes": [], "devices": []},
        state=state,
        summary={
            "eligible": len(fleet),
            "control": 20,
            "waves": [],
            "classes": {},
            "skipped": {},
            "notes": [],
        },
        created_by="admin",
        created_at=now - timedelta(minutes=2),
        started_at=now - timedelta(minutes=1),
        **more,
    )
    for verb, minutes in (
        ("rollout.create", 2),
        ("rollout.preflight", 2),
        ("rollout.ready", 1),
        ("rollout.running", 1),
    ):
        at = now - timedelta(minutes=minutes)
        audit.record(
            actor=ADMIN,
            verb=verb,
            subject_kind="rollout",
            subject_id=str(row.pk),
            at=at,
            after={"name": name},
        )
    return row


def _frozen(row: Rollout, fleet: Sequence[Device], states: Sequence[str]) -> list[Wave]:
    """Waves of 20, 20 and the rest (control last), each in a state, with every device's membership."""
    cuts = ((1, fleet[:20]), (2, fleet[20:40]), (3, fleet[40:]))
    waves = []
    for (n, members), state in zip(cuts, states, strict=True):
        opened = None if state == WaveState.PENDING else row.started_at
        wave = Wave.objects.create(
            rollout=row, n=n, state=state, is_gated=n < 3, size=len(members), opened_at=opened
        )
        waves.append(wave)
        Membership.objects.bulk_create(
            Membership(
                rollout=row,
                device=device,
                arm=Arm.CONTROL if n == 3 and index < 20 else Arm.WAVE,
                wave=n,
                stratum=f"{device.device_class_id}/history",
                h=f"{index:016x}",
                rank=index,
            )
            for index, device in enumerate(members)
        )
    return waves


def _jobs(
    wave: Wave,
    fleet: Sequence[Device],
    states: Sequence[tuple[str, str]],
    now: datetime,
    attempt: int,
    **more: Any,
) -> None:
    """One job a device; states: (state, code), repeated from the last one."""
    target = wave.rollout.manifest_id
    rows = []
    for index, device in enumerate(fleet):
        state, code = states[min(index, len(states) - 1)]
        is_done = state in ("confirmed", "failed", "rejected", "self_reverted", "timed_out", "cancelled")
        rows.append(
            Job(
                rollout=wave.rollout,
                wave=wave,
                device=device,
                attempt=attempt,
                target=target,
                state=state,
                code=code,
                have=9 if state == "downloading" else 0,
                total=24 if state == "downloading" else 0,
                created_at=now - timedelta(seconds=50),
                offered_at=now - timedelta(seconds=48),
                state_at=now - timedelta(seconds=index % 30),
                exposed_at=now - timedelta(seconds=40)
                if state in ("trial", "confirmed", "self_reverted")
                else None,
                confirmed_at=now - timedelta(seconds=30) if state == "confirmed" else None,
                finished_at=now - timedelta(seconds=30) if is_done else None,
                **more,
            )
        )
    Job.objects.bulk_create(rows)


def _evidence(wave: Wave, now: datetime, *, drop: float, pairs: int, failed: int = 0) -> Evidence:
    """A verdict on simulated pairs whose candidate is `drop` worse."""
    dice = random.Random(11)
    found = []
    for t in range(1, pairs + 1):
        d = drop + dice.gauss(0, 0.05)
        y1, x1, x0 = round(0.9 - d, 9), 0.9, 0.9
        found.append(
            {
                "t": t,
                "wave": f"dev-{t:03d}",
                "control": f"dev-{40 + t:03d}",
                "at": now.isoformat(),
                **{"y1": y1, "x1": x1, "y0": 0.9, "x0": x0, "d": round((0.9 - x0) - (y1 - x1), 9)},
                **{"n1": 66, "h1": 66},
            }
        )
    inputs = {
        "format": 2,
        "restarts": 0,
        "spent": [],
        "prove": None,
        "wave": wave.n,
        "is_first": wave.n == 1,
        "is_gated": True,
        "reach": {"reached": 19, "needed": 19, "of": 20, "confirmed": 19},
        "is_soaked": True,
        "hard": {
            "exposed": 20,
            "failed": {"model": failed},
            "limits": {"model": 0.1, "delivery": 0.2, "compat": 0.02},
            "single": [],
            "unexposed_model": 0,
            "golden": {"n": 19, "k": 0},
            "also_failed": [],
        },
        "metrics": [
            {
                "metric": "accuracy",
                "kind": "proxy",
                "class": "",
                "alpha": 0.02,
                "alpha_p": 0.05,
                "halt_margin": 0.0,
                "promote_margin": 0.1,
                "min_pairs": 12,
                "may_pass": True,
                "possible": 20,
                "silent": 1,
                "unlabelled": 0,
                "unlike": 0,
                "dropped": [],
                "required": True,
                "process": PRODUCTION.to_json(),
                "pairs": found,
            }
        ],
        "telemetry": {"exposed": 20, "silent": 1},
    }
    judged = evaluate(inputs)
    return Evidence.objects.create(
        rollout=wave.rollout,
        wave=wave,
        at=now,
        verdict=judged.verdict,
        rows=list(judged.rows),
        inputs=inputs,
        inputs_sha256=judging.digest(inputs),
        code_version=judging.CODE_VERSION,
    )


CONFIRMED = [("confirmed", "")]


def completed(now: datetime, fleet: Sequence[Device], manifest: Manifest, before: Manifest) -> Rollout:
    """All waves passed."""
    row = _rollout(
        "activity 2.0.0, gated",
        manifest,
        now,
        RolloutState.COMPLETED,
        fleet,
        finished_at=now + timedelta(minutes=4),
    )
    waves = _frozen(row, fleet, [WaveState.PASSED] * 3)
    for wave, members in zip(waves, (fleet[:20], fleet[20:40], fleet[40:-1]), strict=True):
        _jobs(wave, members, CONFIRMED, now, 1)
        _evidence(wave, now, drop=-0.04, pairs=16 if wave.is_gated else 0)
    _jobs(waves[2], fleet[-1:], [("timed_out", "offered")], now, 1)
    return row


def halted(now: datetime, fleet: Sequence[Device], manifest: Manifest, before: Manifest) -> Rollout:
    """The accuracy gate failed in the first wave; everything is back."""
    row = _rollout(
        "activity 3.0.0, gated",
        manifest,
        now,
        RolloutState.HALTED,
        fleet,
        reason="quality:accuracy:proxy",
        rollback_started_at=now + timedelta(minutes=1),
    )
    waves = _frozen(row, fleet, [WaveState.FAILED, WaveState.CANCELLED, WaveState.CANCELLED])
    _jobs(waves[0], fleet[:20], [("self_reverted", "crash_loop"), ("confirmed", "")], now, 2)
    proof = _evidence(waves[0], now, drop=0.31, pairs=9, failed=1)
    _jobs(waves[0], fleet[1:20], CONFIRMED, now + timedelta(minutes=2), 3, kind="revert")
    Rollout.objects.filter(pk=row.pk).update(halted_on=proof)
    row.refresh_from_db()
    return row


def running(now: datetime, fleet: Sequence[Device], manifest: Manifest, before: Manifest) -> Rollout:
    """The first wave passed; the second is under way, with devices in many states."""
    row = _rollout("activity 3.1.0, gated", manifest, now, RolloutState.RUNNING, fleet)
    waves = _frozen(row, fleet, [WaveState.PASSED, WaveState.OPEN, WaveState.PENDING])
    _jobs(waves[0], fleet[:20], CONFIRMED, now, 4)
    _evidence(waves[0], now, drop=-0.01, pairs=18)
    mixed = [("confirmed", "")] * 9 + [("trial", "")] * 3 + [("downloading", "")] * 4 + [("verifying", "")]
    mixed += [("failed", "digest"), ("self_reverted", "selftest_mismatch"), ("offered", "")]
    _jobs(waves[1], fleet[20:40], mixed, now, 4)
    for device in fleet[:29]:
        DeviceSlot.objects.filter(device=device).update(
            run=manifest.id16,
            run_seq=manifest.seq,
            other=before.id16,
            other_seq=before.seq,
            target=manifest.id16,
        )
    for device in fleet[32:36]:
        DeviceSlot.objects.filter(device=device).update(
            state="downloading",
            have=9,
            total=24,
            target=manifest.id16,
            other="",
            other_seq=None,
            other_flags=0,
        )
    return row


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
