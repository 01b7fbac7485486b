"""Rollouts of the believable fleet: one that completed, one that its gate halted, one under way."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices.models import Device, DeviceSlot
from ota import evidence as judging
from ota.choices import Arm, RolloutState, WaveState
from ota.gates.evaluate import evaluate
from ota.gates.quality import PRODUCTION
from ota.models import Evidence, Job, Manifest, Membership, Rollout, Wave
from ota.plan import Plan

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
