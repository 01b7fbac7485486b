"""What a start freezes: who is eligible, in which wave or in control, and each device's own history.

What was previewed is what runs: a fleet that moved since preflight stops the start instead of changing the
plan.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

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


def pack(everyone: Sequence[Member]) -> bytes:
    """The devices of a start, with all that the draw needs to know of them: JSON, zlib."""
    rows = [(member.device_id, member.class_name, member.run, member.skip) for member in everyone]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode())


def unpack(packed: bytes) -> list[Member]:
    """What `pack` has packed."""
    return [Member(*row) for row in json.loads(zlib.decompress(packed))]


class Draw:
    """Who is in which wave or in control, row by row.

    The order of the rows depends on nothing but the plan, its salt and `everyone`, so whoever goes on with a
    start that was killed begins behind the last row that was written. Raises PlanError as `assign`.
    """

    def __init__(self, rollout: Rollout, everyone: Sequence[Member], *, at: datetime) -> None:
        self._rollout, self._at = rollout, at
        self._plan, self._salt = Plan.parse(rollout.plan), bytes(rollout.salt)
        self._runs = {member.device_id: member.run for member in everyone}
        candidates = [member.candidate for member in everyone if not member.skip]
        self._assigned = assign(candidates, self._plan, self._salt)
        self._skipped = [member for member in everyone if member.skip]

    def __len__(self) -> int:
        return len(self._assigned) + len(self._skipped)

    def write(self, first: int, count: int) -> None:
        """Write `count` memberships from row `first` on, in the caller's transaction, with the history of the
        devices that are compared. Raises django.db.IntegrityError when a device is gone.
        """
        drawn = self._assigned[first : first + count]
        past = max(0, first - len(self._assigned))
        skipped = self._skipped[past : past + count - len(drawn)]
        history = self._history(drawn)
        rows = [_frozen(self._rollout, row, self._runs[row.device_id], history) for row in drawn]
        rows += [_skipped(self._rollout, member, self._salt) for member in skipped]
        copy_rows(Membership, _FIELDS, rows)

    def _history(self, rows: Sequence[Assigned]) -> dict[str, dict[str, list[float]]]:
        compared = {row.device_id: self._runs[row.device_id] for row in rows if self._is_compared(row)}
        if not compared:
            return {}
        return evidence.baselines(compared, self._plan, self._rollout, now=self._at)

    def _is_compared(self, row: Assigned) -> bool:
        if not self._runs[row.device_id] or not self._plan.is_gated:
            return False
        return row.arm == Arm.CONTROL or is_gated(self._plan, row.wave)

    def summary(self) -> dict[str, Any]:
        """What the rollout's summary gains once every row is written."""
        compared = Membership.objects.filter(rollout=self._rollout).exclude(baseline={})
        return {
            "strata_means": evidence.strata_means(list(compared.only("stratum", "baseline"))),
            "frozen": len(self._assigned),
            "frozen_skipped": len(self._skipped),
            "control": sum(row.arm == Arm.CONTROL for row in self._assigned),
        }

    def sizes(self) -> Counter[int]:
        """Wave -> devices."""
        return Counter(row.wave for row in self._assigned)


def make_waves(rollout: Rollout, sizes: Mapping[int, int]) -> None:
    """Write the waves of a rollout that begins to run."""
    plan = Plan.parse(rollout.plan)
    Wave.objects.bulk_create(
        Wave(rollout=rollout, n=n, is_gated=is_gated(plan, n), size=sizes.get(n, 0))
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


def _frozen(
    rollout: Rollout, row: Assigned, run: str, history: Mapping[str, Mapping[str, list[float]]]
) -> tuple[Any, ...]:
    baseline = json.dumps(history.get(row.device_id, {}))
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
