"""Taking a model back: each exposed device returns to what it ran at start, from its other bank."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from fleet.accounts.audit import TICK, Actor
from fleet.devices.models import DeviceSlot, Presence
from ota import delivery, waves
from ota.choices import JOB_TERMINAL, JobState, RolloutState
from ota.models import Job, Manifest, Membership, Rollout
from ota.offers import cancel_queued, clear_offers, install_jobs, next_attempts, withdraw
from ota.plan import Plan
from ota.transitions import BATCH, move_job, move_rollout

_USABLE = 1  # bank flag: the other bank may be run again


def revert_jobs(rollout: Rollout) -> QuerySet[Job]:
    """The rollout's revert jobs."""
    return Job.objects.filter(rollout=rollout, kind="revert")


def exposed_jobs(rollout: Rollout) -> QuerySet[Job]:
    """Ended install jobs whose device may run the candidate: confirmed, or silent since its trial began.

    A device that reverted by itself, or whose withdrawal took effect, is on its old model already.
    """
    may_run = Q(state=JobState.CONFIRMED) | Q(state=JobState.TIMED_OUT, exposed_at__isnull=False)
    return install_jobs(rollout).filter(may_run)


def take_back(rollout: Rollout, plan: Plan, *, now: datetime) -> None:
    """One bounded step of a rollback; call it again until the rollout is `rolled_back`.

    Offers in flight are withdrawn first, running trials end by themselves, then each exposed device gets a
    revert job (action 1 with the manifest it ran at start; a slot that was empty is stopped). Reverts are not
    capped: they load nothing, and a bad model must leave the field fast; a device that is offline finds its
    document when it connects.
    """
    waves.close(rollout, now=now)
    cancel_queued(rollout, actor=TICK, now=now, to=JobState.CANCELLED)
    withdraw(rollout, actor=TICK, now=now)
    clear_offers(rollout, now=now)
    _make_reverts(rollout, now)
    _offer_reverts(rollout, now)
    _finish(rollout, plan, now)


def dry_run(rollout: Rollout) -> dict[str, Any]:
    """What a rollback would do, in exact device counts:

    {"dry_run": true, "exposed": n, "revert_without_download": n, "stop": n, "needs_download": n,
     "download_bytes": n, "unreachable": n, "in_flight": n}. unreachable: exposed devices that are offline
     now.
    needs_download: devices that no longer hold their old model in the other bank; they would refuse the
    revert.
    """
    exposed = list(exposed_jobs(rollout).values_list("device_id", "device__presence"))
    ids = [device_id for device_id, _ in exposed]
    baselines = _baselines(rollout, ids)
    slots: dict[str, dict[str, Any]] = {
        row["device_id"]: dict(row)
        for row in DeviceSlot.objects.filter(device_id__in=ids, slot=rollout.slot).values(
            "device_id", "run", "other", "other_flags"
        )
    }
    counts = {"revert_without_download": 0, "stop": 0, "needs_download": 0}
    needed_bytes = 0
    sizes = _sizes(set(baselines.values()))
    for device_id in ids:
        baseline, slot = baselines.get(device_id, ""), slots.get(device_id, {})
        if not baseline:
            counts["stop"] += 1
        elif slot.get("run") == baseline or (slot.get("other") == baseline and slot["other_flags"] & _USABLE):
            counts["revert_without_download"] += 1
        else:
            counts["needs_download"] += 1
            needed_bytes += sizes.get(baseline, 0)
    live = install_jobs(rollout).exclude(state__in=JOB_TERMINAL).exclude(state=JobState.QUEUED)
    return {
        "dry_run": True,
        "exposed": len(ids),
        **counts,
        "download_bytes": needed_bytes,
        "unreachable": sum(presence != Presence.ONLINE for _, presence in exposed),
        "in_flight": live.count(),
    }


def _make_reverts(rollout: Rollout, now: datetime) -> None:
    """Revert jobs for up to BATCH exposed devices that have none yet and no live job."""
    has_revert = revert_jobs(rollout).filter(device_id=OuterRef("device_id"))
    is_live = Job.objects.filter(device_id=OuterRef("device_id"), slot=rollout.slot)
    is_live = is_live.exclude(state__in=JOB_TERMINAL)
    left = exposed_jobs(rollout).filter(~Exists(has_revert), ~Exists(is_live), device__retired_at=None)
    jobs = list(left.order_by("device_id", "-attempt").distinct("device_id")[:BATCH])
    if not jobs:
        return
    ids = [job.device_id for job in jobs]
    targets, attempts = _manifest_ids(_baselines(rollout, ids)), next_attempts(ids, rollout.slot)
    Job.objects.bulk_create(
        [
            Job(
                rollout=rollout,
                wave_id=job.wave_id,
                device_id=job.device_id,
                slot=job.slot,
                kind="revert",
                attempt=attempts[job.device_id],
                target=targets.get(job.device_id, ""),
                created_at=now,
                state_at=now,
            )
            for job in jobs
        ],
        ignore_conflicts=True,
    )


def _offer_reverts(rollout: Rollout, now: datetime) -> None:
    jobs = list(revert_jobs(rollout).filter(state=JobState.QUEUED).order_by("device_id")[:BATCH])
    counters = delivery.revert(jobs, now=now) if jobs else {}
    for job in jobs:
        if job.pk in counters:
            move_job(job, JobState.OFFERED, actor=TICK, now=now, counter=counters[job.pk], offered_at=now)


def _finish(rollout: Rollout, plan: Plan, now: datetime) -> None:
    if install_jobs(rollout).exclude(state__in=JOB_TERMINAL).exists():
        return
    reverts = revert_jobs(rollout)
    has_revert = reverts.filter(device_id=OuterRef("device_id"))
    if exposed_jobs(rollout).filter(~Exists(has_revert), device__retired_at=None).exists():
        return
    undone = reverts.exclude(state__in=(JobState.CONFIRMED, JobState.REMOVED))
    if not undone.exists():
        move_rollout(rollout, RolloutState.ROLLED_BACK, actor=TICK, now=now, reason=rollout.reason)
        return
    started = rollout.rollback_started_at or now
    is_over = now >= started + timedelta(seconds=plan.rollback_deadline_s)
    is_stuck = not undone.exclude(state__in=JOB_TERMINAL).exists()
    if rollout.state == RolloutState.ROLLING_BACK and (is_over or is_stuck):
        to = RolloutState.ROLLBACK_INCOMPLETE
        move_rollout(rollout, to, actor=TICK, now=now, reason=rollout.reason)


def begin(rollout: Rollout, *, actor: Actor, now: datetime, reason: str) -> bool:
    """Move a rollout to `rolling_back`; the ticks do the rest."""
    to = RolloutState.ROLLING_BACK
    return move_rollout(rollout, to, actor=actor, now=now, reason=reason, rollback_started_at=now)


def _baselines(rollout: Rollout, device_ids: Sequence[str]) -> dict[str, str]:
    """Device -> id16 it ran at start, "" for an empty slot."""
    frozen = Membership.objects.filter(rollout=rollout, device_id__in=device_ids)
    return dict(frozen.values_list("device_id", "baseline_run"))


def _manifest_ids(baselines: dict[str, str]) -> dict[str, str]:
    """Device -> full manifest id of its baseline, "" (a stop) for one that we never signed."""
    full: dict[str, str] = {}
    for run in {run for run in baselines.values() if run}:
        row = Manifest.objects.filter(pk__startswith=run).values_list("pk", flat=True).first()
        if row is not None:
            full[run] = row
    return {device_id: full.get(run, "") for device_id, run in baselines.items()}


def _sizes(runs: set[str]) -> dict[str, int]:
    """id16 -> bytes of the model's artifact."""
    sizes = {}
    for run in runs - {""}:
        row = (
            Manifest.objects.filter(pk__startswith=run)
            .values_list("version__artifact__size", flat=True)
            .first()
        )
        sizes[run] = row or 0
    return sizes


def rest(rollout: Rollout, limit: int = 50) -> list[dict[str, Any]]:
    """Devices a rollback has not brought back yet: [{"device_id", "state", "code", "is_online"}, ...]."""
    undone = revert_jobs(rollout).exclude(state__in=(JobState.CONFIRMED, JobState.REMOVED))
    rows = undone.order_by("device_id").values_list("device_id", "state", "code", "device__presence")[:limit]
    return [
        {"device_id": device_id, "state": state, "code": code, "is_online": presence == Presence.ONLINE}
        for device_id, state, code, presence in rows
    ]
