"""What a start freezes: who is eligible, in which wave or in control, and each device's own history.

What was previewed is what runs: a fleet that moved since preflight stops the start instead of changing the
plan.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

from django.db import transaction

from ota import evidence
from ota.assignment import Assigned, assign, device_hash, is_gated
from ota.choices import Arm
from ota.copying import copy_rows
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


@dataclass(frozen=True)
class Frozen:
    """What a start froze besides the memberships.

    summary: what the rollout's gains. sizes: wave -> devices.
    """

    summary: dict[str, Any]
    sizes: dict[int, int]


def freeze(rollout: Rollout, everyone: Sequence[Member], *, now: datetime) -> Frozen:
    """Write who is in which wave or in control, BATCH rows a transaction.

    Until the rollout runs nothing looks at these rows, so a call that was killed in between is repeated from
    the start: what it left is forgotten first. One caller at a time (`rollouts.start` holds a lock). Raises
    PlanError as `assign`, before anything is written.
    """
    plan, salt = Plan.parse(rollout.plan), bytes(rollout.salt)
    assigned = assign([member.candidate for member in everyone if not member.skip], plan, salt)
    runs = {member.device_id: member.run for member in everyone}
    compared = {
        row.device_id: runs[row.device_id]
        for row in assigned
        if runs[row.device_id] and plan.is_gated and (row.arm == Arm.CONTROL or is_gated(plan, row.wave))
    }
    history = evidence.baselines(compared, plan, rollout, now=now) if compared else {}
    skipped = [member for member in everyone if member.skip]
    forget(rollout)
    rows = chain(
        (_frozen(rollout, row, runs[row.device_id], history.get(row.device_id, {})) for row in assigned),
        (_skipped(rollout, member, salt) for member in skipped),
    )
    while batch := list(islice(rows, BATCH)):
        with transaction.atomic():
            copy_rows(Membership, _FIELDS, batch)
    with_history = (
        Membership(stratum=row.stratum, baseline=history[row.device_id])
        for row in assigned
        if row.device_id in history
    )
    summary = {
        "strata_means": evidence.strata_means(list(with_history)),
        "frozen": len(assigned),
        "frozen_skipped": len(skipped),
        "control": sum(row.arm == Arm.CONTROL for row in assigned),
    }
    return Frozen(summary, Counter(row.wave for row in assigned))


def make_waves(rollout: Rollout, frozen: Frozen) -> None:
    """Write the waves of a rollout that begins to run."""
    plan = Plan.parse(rollout.plan)
    Wave.objects.bulk_create(
        Wave(rollout=rollout, n=n, is_gated=is_gated(plan, n), size=frozen.sizes.get(n, 0))
        for n in range(1, len(plan.waves) + 1 + (plan.late == "tail"))
    )


def forget(rollout: Rollout) -> None:
    """Delete the memberships that a start left which did not come to its end, BATCH rows a transaction."""
    rows = Membership.objects.filter(rollout=rollout).order_by("pk")
    while ids := list(rows.values_list("pk", flat=True)[:BATCH]):
        Membership.objects.filter(pk__in=ids).delete()


_FIELDS = (
    *("rollout", "device", "arm", "wave", "stratum", "h", "rank"),
    *("skip_reason", "baseline_run", "baseline"),
)


def _frozen(rollout: Rollout, row: Assigned, run: str, history: dict[str, list[float]]) -> tuple[Any, ...]:
    baseline = json.dumps(history) if history else "{}"
    return (
        *(rollout.pk, row.device_id, str(row.arm), row.wave, row.stratum, row.h, row.rank),
        *("", run, baseline),
    )


def _skipped(rollout: Rollout, member: Member, salt: bytes) -> tuple[Any, ...]:
    h = device_hash(salt, member.device_id)
    return (
        *(rollout.pk, member.device_id, str(Arm.SKIPPED), 0, member.candidate.stratum, h, 0),
        *(member.skip, member.run, "{}"),
    )
