"""What a verb would do, in exact device counts and bytes, without doing any of it.

`ota.rollback.dry_run` and `ota.retries` count their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fleet.devices.models import DeviceSlot
from ota.assignment import assign
from ota.choices import JOB_WITHDRAWABLE, Arm, JobState
from ota.chunking import CHUNK_BYTES
from ota.models import Rollout
from ota.offers import install_jobs
from ota.plan import Plan
from ota.supersede import in_the_way
from ota.targeting import BATCH, Member

_USABLE = 1  # bank flag: the other bank may be run again


def start(rollout: Rollout, everyone: Sequence[Member]) -> dict[str, Any]:
    """What a start would freeze: the draw is the same, salt and all.

    {"dry_run": true, "devices": n, "control": n, "waves": [{"n", "size"}], "skipped": {reason: n},
     "from_other_bank": devices that hold the candidate already, "downloads": n, "download_bytes": chunks of
     all of them, "supersedes": [{"id", "name", "state", "devices": held by both}]}
    """
    plan, eligible = Plan.parse(rollout.plan), [member for member in everyone if not member.skip]
    assigned = assign([member.candidate for member in eligible], plan, bytes(rollout.salt))
    sizes = Counter(row.wave for row in assigned)
    ids = [member.device_id for member in eligible]
    held = _held(ids, rollout)
    downloads = len(ids) - held
    return {
        "dry_run": True,
        "devices": len(ids),
        "control": sum(row.arm == Arm.CONTROL for row in assigned),
        "waves": [{"n": n, "size": sizes.get(n, 0)} for n in range(1, len(plan.waves) + 1)],
        "skipped": dict(sorted(Counter(member.skip for member in everyone if member.skip).items())),
        "from_other_bank": held,
        "downloads": downloads,
        "download_bytes": downloads * rollout.manifest.chunks * CHUNK_BYTES,
        "supersedes": [
            {"id": str(other.pk), "name": other.name, "state": str(other.state), "devices": n}
            for other, n in in_the_way(rollout, ids)
        ],
    }


def abort(rollout: Rollout) -> dict[str, Any]:
    """{"dry_run": true, "keep": confirmed devices, "withdrawn": n, "in_trial": n, "cancelled": n never
    offered, "download_bytes": 0}; what is withdrawn keeps the bytes it has.
    """
    jobs = install_jobs(rollout)
    return {
        "dry_run": True,
        "keep": jobs.filter(state=JobState.CONFIRMED).count(),
        "withdrawn": jobs.filter(state__in=JOB_WITHDRAWABLE).count(),
        "in_trial": jobs.filter(state=JobState.TRIAL).count(),
        "cancelled": jobs.filter(state=JobState.QUEUED).count(),
        "download_bytes": 0,
    }


def _held(ids: Sequence[str], rollout: Rollout) -> int:
    """Devices whose other bank holds the candidate, usable: they download nothing."""
    held = 0
    for at in range(0, len(ids), BATCH):
        rows = DeviceSlot.objects.filter(
            device_id__in=ids[at : at + BATCH], slot=rollout.slot, other=rollout.manifest.id16
        )
        held += sum(bool(flags & _USABLE) for flags in rows.values_list("other_flags", flat=True))
    return held
