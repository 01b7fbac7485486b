"""What a start freezes: who is eligible, in which wave or in control, and each device's own history.

What was previewed is what runs: a fleet that moved since preflight stops the start instead of changing the
plan.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from ota import evidence
from ota.assignment import Assigned, assign, device_hash, is_gated
from ota.choices import Arm
from ota.models import Membership, Rollout, TargetSnapshot, Wave
from ota.plan import Plan
from ota.targeting import BATCH, Member

CHANGED_SHARE = 0.05
"""How far the fleet may have moved between preflight and start."""


def remember(rollout: Rollout, ids: Sequence[str], *, now: datetime) -> None:
    """Keep which devices preflight found eligible. ids: in their order."""
    packed = zlib.compress("\n".join(ids).encode())
    values = {"at": now, "count": len(ids), "digest": target_digest(ids), "packed_ids": packed}
    TargetSnapshot.objects.update_or_create(rollout=rollout, defaults=values)


def target_digest(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of ids, each with a newline, in their order: what an approval names."""
    return hashlib.sha256("".join(f"{device_id}\n" for device_id in sorted(ids)).encode()).hexdigest()


def difference(rollout: Rollout, everyone: Sequence[Member]) -> str:
    """How the eligible set differs from the previewed one, "" when it is close enough.

    Devices that left and devices that came both count, so another set of the same size is noticed.
    """
    counts: dict[str, int] = {}
    for member in everyone:
        if not member.skip:
            counts[member.class_name] = counts.get(member.class_name, 0) + 1
    seen = {name: entry["eligible"] for name, entry in rollout.summary.get("classes", {}).items()}
    before = {name: n for name, n in seen.items() if n}
    if set(before) != set(counts):
        return f"eligible classes were {sorted(before)}, are {sorted(counts)}"
    was, now_is = sum(before.values()), sum(counts.values())
    left, came = _moved(rollout, everyone)
    if max(abs(now_is - was), left + came) > CHANGED_SHARE * was:
        moved = f": {left} left, {came} came" if left + came else ""
        return f"{was} devices were eligible, {now_is} are{moved}"
    return ""


def _moved(rollout: Rollout, everyone: Sequence[Member]) -> tuple[int, int]:
    """Devices that left the eligible set since preflight, and devices that joined it."""
    snapshot = TargetSnapshot.objects.filter(rollout=rollout).first()
    if snapshot is None:  # its preflight ran before such rows were kept
        return 0, 0
    before = set(zlib.decompress(snapshot.packed_ids).decode().split("\n")) - {""}
    after = {member.device_id for member in everyone if not member.skip}
    return len(before - after), len(after - before)


def freeze(rollout: Rollout, everyone: Sequence[Member], *, now: datetime) -> dict[str, Any]:
    """Write waves and memberships; returns what the summary gains."""
    plan, salt = Plan.parse(rollout.plan), bytes(rollout.salt)
    assigned = assign([member.candidate for member in everyone if not member.skip], plan, salt)
    runs = {member.device_id: member.run for member in everyone}
    compared = {
        row.device_id: runs[row.device_id]
        for row in assigned
        if runs[row.device_id] and plan.is_gated and (row.arm == Arm.CONTROL or is_gated(plan, row.wave))
    }
    history = evidence.baselines(compared, plan, rollout, now=now) if compared else {}
    rows = [_frozen(rollout, row, runs[row.device_id], history.get(row.device_id, {})) for row in assigned]
    skipped = [_skipped(rollout, member, salt) for member in everyone if member.skip]
    Membership.objects.bulk_create(rows + skipped, batch_size=BATCH)
    counts: dict[int, int] = {}
    for one in assigned:
        counts[one.wave] = counts.get(one.wave, 0) + 1
    Wave.objects.bulk_create(
        Wave(rollout=rollout, n=n, is_gated=is_gated(plan, n), size=counts.get(n, 0))
        for n in range(1, len(plan.waves) + 1 + (plan.late == "tail"))
    )
    return {
        "strata_means": evidence.strata_means(rows),
        "frozen": len(rows),
        "frozen_skipped": len(skipped),
        "control": sum(row.arm == Arm.CONTROL for row in assigned),
    }


def _frozen(rollout: Rollout, row: Assigned, run: str, history: dict[str, list[float]]) -> Membership:
    return Membership(
        rollout=rollout,
        device_id=row.device_id,
        arm=row.arm,
        wave=row.wave,
        stratum=row.stratum,
        h=row.h,
        rank=row.rank,
        baseline_run=run,
        baseline=history,
    )


def _skipped(rollout: Rollout, member: Member, salt: bytes) -> Membership:
    return Membership(
        rollout=rollout,
        device_id=member.device_id,
        arm=Arm.SKIPPED,
        wave=0,
        stratum=member.candidate.stratum,
        h=device_hash(salt, member.device_id),
        rank=0,
        skip_reason=member.skip,
        baseline_run=member.run,
    )
