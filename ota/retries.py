"""Failed devices tried again: by themselves when their back-off is over, or all at once when a person asks.

A retry is a new row with the same frozen membership and a higher attempt number: a device tries a manifest
that failed again only for a higher one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef

from fleet.accounts import audit
from fleet.accounts.audit import TICK, Actor
from fleet.devices.models import DeviceEvent
from fleet.devices.timeline import CHANGED
from ota.backoff import FAILED, newest, retryable
from ota.choices import JOB_TERMINAL, JobState, RolloutState
from ota.gates.failures import COMPAT, failure_class
from ota.models import Job, Rollout
from ota.offers import install_jobs, next_attempts
from ota.permits import permitted, refreshed, refused
from ota.transitions import BATCH

VERB = "retry-failed"
RETRIED_IN = (RolloutState.RUNNING, RolloutState.PAUSED)
"""States in which failed devices may be tried again (`ota.verbs`)."""


def retry_failed(
    rollout: Rollout, *, actor: Actor, now: datetime, reason: str = "", dry_run: bool = False
) -> Rollout | dict[str, Any]:
    """Give each device whose newest attempt failed with a retryable code, or was left out while it was
    quarantined, a new attempt, whatever its back-off and the attempts it had.

    The tick makes the attempts, and offers them as the rollout goes on. dry_run: only count: {"dry_run":
    true, "retried": n, "codes": {code: n}, "left": {failure class or "quarantined": n}}. left: what no
    attempt can heal, and devices in quarantine. Raises IllegalTransition when the rollout is neither running
    nor paused, or nothing of it can be retried.
    """
    if dry_run:
        return _counts(permitted(rollout, VERB))
    with transaction.atomic():
        fresh = permitted(rollout, VERB)
        # the row is locked until commit: no tick, pause or abort comes in between
        if not Rollout.objects.filter(pk=fresh.pk, state=fresh.state, rev=fresh.rev).update(rev=F("rev") + 1):
            raise refused(rollout, VERB)
        count = Job.objects.filter(pk__in=retryable(fresh).values("pk")).update(retry_at=now)
        audit.record(
            actor=actor,
            verb="rollout.retry_failed",
            subject_kind="rollout",
            subject_id=str(fresh.pk),
            at=now,
            after={"devices": count},
            reason=reason,
        )
    return refreshed(rollout)


def retry_devices(
    ids: Collection[str], *, actor: Actor, now: datetime, reason: str = "", dry_run: bool = False
) -> dict[str, int]:
    """As `retry_failed`, for some devices in every rollout that may be retried: {rollout id: devices}.

    Rollouts in which none of them can be tried again are left out; so is one that was paused, ended or
    retried by somebody else in the same moment, which is refused there and not here.
    """
    done: dict[str, int] = {}
    for rollout in Rollout.objects.filter(state__in=RETRIED_IN, jobs__device__in=ids).distinct():
        with transaction.atomic():
            mine = retryable(rollout).filter(device__in=ids)
            if dry_run:
                done |= {str(rollout.pk): n for n in [mine.count()] if n}
                continue
            fresh = Rollout.objects.filter(pk=rollout.pk, state=rollout.state, rev=rollout.rev)
            if not mine.exists() or not fresh.update(rev=F("rev") + 1):
                continue
            count = Job.objects.filter(pk__in=mine.values("pk")).update(retry_at=now)
            done[str(rollout.pk)] = count
            audit.record(
                actor=actor,
                verb="rollout.retry_failed",
                subject_kind="rollout",
                subject_id=str(rollout.pk),
                at=now,
                after={"devices": count, "asked_of": len(ids)},
                reason=reason,
            )
    return done


def retry_due(rollout: Rollout, *, now: datetime) -> int:
    """Queue a new attempt for up to BATCH jobs whose time has come; returns how many."""
    is_live = Job.objects.filter(device_id=OuterRef("device_id"), slot=rollout.slot)
    due = install_jobs(rollout).filter(
        ~Exists(is_live.exclude(state__in=JOB_TERMINAL)),
        retry_at__lte=now,
        device__retired_at=None,
        device__quarantined_at=None,
    )
    batch = list(due.order_by("device_id")[:BATCH])
    attempts = next_attempts([job.device_id for job in batch], rollout.slot) if batch else {}
    made = 0
    for job in batch:
        mine = Job.objects.filter(pk=job.pk, state=job.state, retry_at=job.retry_at)
        if not mine.update(retry_at=None):
            continue
        new = Job.objects.create(
            rollout=rollout,
            wave_id=job.wave_id,
            device_id=job.device_id,
            slot=job.slot,
            attempt=attempts[job.device_id],
            target=job.target,
            h=job.h,
            created_at=now,
            state_at=now,
        )
        made += 1
        audit.record(
            actor=TICK,
            verb="job.retry",
            subject_kind="job",
            subject_id=str(new.pk),
            at=now,
            before={"job": str(job.pk), "state": str(job.state), "code": job.code},
            after={"device": new.device_id, "attempt": new.attempt},
        )
    return made


def renew_changed(rollout: Rollout, *, now: datetime) -> int:
    """Make up to BATCH devices due again that refused the model as unfit and have changed since (firmware,
    class, operators); returns how many. Whatever the attempts they had: another firmware is another device.

    The device's own report is the cause, so each leaves an audit row in the device's name. A second call
    finds nothing: the next attempt is the newest then, and only a later change makes that one due.
    """
    changed = DeviceEvent.objects.filter(
        device_id=OuterRef("device_id"), kind=CHANGED, at__gt=OuterRef("finished_at")
    )
    unfit = newest(rollout).filter(
        Exists(changed), state=JobState.REJECTED, code__in=COMPAT, retry_at=None, device__retired_at=None
    )
    made = 0
    for job in unfit.order_by("device_id")[:BATCH]:
        if Job.objects.filter(pk=job.pk, state=job.state, retry_at=None).update(retry_at=now):
            made += 1
            audit.record(
                actor=Actor("device", job.device_id),
                verb="job.renew",
                subject_kind="job",
                subject_id=str(job.pk),
                at=now,
                after={"device": job.device_id, "attempt": job.attempt, "code": job.code},
                reason="the device reports another firmware, class or operators",
            )
    return made


def _counts(rollout: Rollout) -> dict[str, Any]:
    taken = retryable(rollout)
    codes = Counter(taken.values_list("code", flat=True))
    left: Counter[str] = Counter()
    ends = newest(rollout).filter(state__in=(*FAILED, JobState.SELF_REVERTED), device__retired_at=None)
    rest = ends.exclude(pk__in=taken.values("pk"))
    for state, code, held in rest.values_list("state", "code", "device__quarantined_at"):
        left["quarantined" if held else failure_class(state, code) or "silent"] += 1
    return {
        "dry_run": True,
        "retried": sum(codes.values()),
        "codes": dict(sorted(codes.items())),
        "left": dict(sorted(left.items())),
    }
