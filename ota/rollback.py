"""Taking a model back: each exposed device returns to what it ran at start, from its other bank."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from fleet.accounts import audit
from fleet.accounts.audit import TICK, Actor
from fleet.devices.models import Presence
from fleet.mqtt.codec.names import Action
from ota import delivery, rollback_target, waves
from ota.choices import JOB_IN_FLIGHT, JOB_TERMINAL, JobState, RolloutState
from ota.models import Job, Rollout
from ota.offers import cancel_queued, clear_offers, install_jobs, next_attempts, withdraw
from ota.plan import Plan
from ota.transitions import BATCH, move_job, move_rollout

_FALL_BACK = ("not_in_bank", "floor", "sequence", "load_failed", "digest")
"""Codes of a revert that says no more than that the device's own copy cannot be run."""
_UNDER_WAY = sorted(set(JobState) - JOB_TERMINAL - {JobState.QUEUED})
"""Named one by one, they are ranges of an index; as what they are not, all jobs are read."""


def revert_jobs(rollout: Rollout) -> QuerySet[Job]:
    """The rollout's revert jobs."""
    return Job.objects.filter(rollout=rollout, kind="revert")


def newest_reverts(rollout: Rollout) -> QuerySet[Job]:
    """The newest revert of each device: what counts."""
    newest = revert_jobs(rollout).order_by("device_id", "-attempt").distinct("device_id")
    return Job.objects.filter(pk__in=newest.values("pk"))


def _undone(rollout: Rollout) -> QuerySet[Job]:
    return newest_reverts(rollout).exclude(state__in=(JobState.CONFIRMED, JobState.REMOVED))


def exposed_jobs(rollout: Rollout) -> QuerySet[Job]:
    """Ended install jobs whose device may run the candidate: confirmed, or silent since its trial began.

    A device that reverted by itself, or whose withdrawal took effect, is on its old model already.
    """
    may_run = Q(state=JobState.CONFIRMED) | Q(state=JobState.TIMED_OUT, exposed_at__isnull=False)
    return install_jobs(rollout).filter(may_run)


def take_back(rollout: Rollout, plan: Plan, *, now: datetime) -> None:
    """One bounded step of a rollback; call it again until the rollout is `rolled_back`.

    Offers in flight are withdrawn first, running trials end by themselves, then each exposed device gets a
    revert job: action 1 with its target (`ota.rollback_target`), which is in its other bank; a slot that was
    empty is stopped. These are not capped: they load nothing, and a bad model must leave the field fast; a
    device that is offline finds its document when it connects. A device that lacks its target, or refuses
    the revert because of it, gets a download of the same version signed anew instead (action 0), capped as
    any offer; refused again, it is listed with its code.
    """
    waves.close(rollout, now=now)
    cancel_queued(rollout, actor=TICK, now=now, to=JobState.CANCELLED)
    withdraw(rollout, actor=TICK, now=now)
    clear_offers(rollout, now=now)
    _make_reverts(rollout, now)
    _fall_back(rollout, now)
    _offer_reverts(rollout, plan, now)
    _finish(rollout, plan, now)


def dry_run(rollout: Rollout) -> dict[str, Any]:
    """What a rollback would do, in exact device counts:

    {"dry_run": true, "exposed": n, "revert_without_download": n, "stop": n, "needs_download": n,
     "download_bytes": n, "unreachable": n, "in_flight": n}. unreachable: exposed devices that are offline
     now. needs_download: devices that do not hold their target in the other bank and fetch it, in chunks of
     download_bytes altogether. Raises RollbackError when the plan has no way back.
    """
    rollback_target.available(rollout)
    ways = rollback_target.ways(rollout, exposed_jobs(rollout))
    sizes = {
        target: rollback_target.download_bytes(target)
        for target in {way.target for way in ways if way.is_lacking}
    }
    exposed = sum(way.devices for way in ways)
    stop = sum(way.devices for way in ways if not way.target)
    lacking = sum(way.devices for way in ways if way.is_lacking)
    return {
        "dry_run": True,
        "exposed": exposed,
        "revert_without_download": exposed - stop - lacking,
        "stop": stop,
        "needs_download": lacking,
        "download_bytes": sum(sizes[way.target] * way.devices for way in ways if way.is_lacking),
        "unreachable": sum(way.devices for way in ways if not way.is_online),
        "in_flight": install_jobs(rollout).filter(state__in=_UNDER_WAY).count(),
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
    targets, attempts = rollback_target.goals(rollout, ids), next_attempts(ids, rollout.slot)
    for device_id in rollback_target.without(rollout, targets):
        fetched = rollback_target.renewed(targets[device_id], actor=TICK, now=now)
        targets[device_id] = fetched or targets[device_id]  # asked all the same, to be listed with its code
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


def _fall_back(rollout: Rollout, now: datetime) -> None:
    """New jobs for up to BATCH devices that refused to go back from their own bank: they fetch it instead."""
    failed = newest_reverts(rollout).filter(
        state__in=(JobState.REJECTED, JobState.FAILED), code__in=_FALL_BACK, device__retired_at=None
    )
    jobs = list(failed.exclude(target="").order_by("device_id")[:BATCH])
    if not jobs:
        return
    own = rollback_target.goals(rollout, [job.device_id for job in jobs])
    jobs = [job for job in jobs if job.target == own[job.device_id]]  # once: what was fetched is another one
    attempts = next_attempts([job.device_id for job in jobs], rollout.slot)
    for job in jobs:
        target = rollback_target.renewed(job.target, actor=TICK, now=now)
        if target in ("", job.target):
            continue
        new = Job.objects.create(
            rollout=rollout,
            wave_id=job.wave_id,
            device_id=job.device_id,
            slot=job.slot,
            kind="revert",
            attempt=attempts[job.device_id],
            target=target,
            created_at=now,
            state_at=now,
        )
        audit.record(
            actor=TICK,
            verb="job.fall_back",
            subject_kind="job",
            subject_id=str(new.pk),
            at=now,
            before={"job": str(job.pk), "state": str(job.state), "code": job.code},
            after={"device": new.device_id, "attempt": new.attempt, "target": target},
        )


def _offer_reverts(rollout: Rollout, plan: Plan, now: datetime) -> None:
    jobs = list(revert_jobs(rollout).filter(state=JobState.QUEUED).order_by("device_id")[:BATCH])
    if not jobs:
        return
    own = rollback_target.goals(rollout, [job.device_id for job in jobs])
    fetching = [job for job in jobs if job.target != own[job.device_id]]
    ready = rollback_target.staged(job.target for job in fetching)
    in_flight = revert_jobs(rollout).filter(state__in=JOB_IN_FLIGHT)
    under_way = rollback_target.fetched(rollout, in_flight).count()
    free = max(0, plan.cap(is_proven=True) - under_way)
    fetching = [job for job in fetching if job.target in ready][:free]
    held = [job for job in jobs if job.target == own[job.device_id]]
    _tell(held, Action.RUN_OTHER_BANK, now)
    _tell(fetching, Action.RUN, now)


def _tell(jobs: list[Job], action: Action, now: datetime) -> None:
    counters = delivery.revert(jobs, now=now, action=action) if jobs else {}
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
    undone = _undone(rollout)
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


def rest(rollout: Rollout, limit: int = 50) -> list[dict[str, Any]]:
    """Devices a rollback has not brought back yet: [{"device_id", "state", "code", "is_online"}, ...]."""
    undone = _undone(rollout)
    rows = undone.order_by("device_id").values_list("device_id", "state", "code", "device__presence")[:limit]
    return [
        {"device_id": device_id, "state": state, "code": code, "is_online": presence == Presence.ONLINE}
        for device_id, state, code, presence in rows
    ]
