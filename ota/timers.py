"""Deadlines of jobs: a state without news for too long ends, with the state as its code.

Time without a connection does not count; a device that stays away gives its offer back instead.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import DateTimeField, DurationField, ExpressionWrapper, F, Q, QuerySet, Value

from fleet.accounts.audit import TICK
from fleet.devices.models import Presence
from ota.announcements import BadEnds
from ota.backoff import next_try
from ota.choices import JobState, RolloutState
from ota.models import Job, Rollout
from ota.offers import withdraw_jobs
from ota.plan import Plan
from ota.transitions import BATCH, move_job

_TIMED = (
    JobState.OFFERED,
    JobState.ACCEPTED,
    JobState.DOWNLOADING,
    JobState.VERIFYING,
    JobState.STAGED,
    JobState.TRIAL,
    JobState.DEFERRED,
    JobState.CANCELLING,
)
_PAUSING = tuple(state for state in _TIMED if state not in (JobState.TRIAL, JobState.CANCELLING))
"""States whose timer stands still while the device is away."""
_GOES_ON = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED})


def expire(rollout: Rollout, plan: Plan, *, now: datetime) -> int:
    """End up to BATCH jobs (installs and reverts) whose state is older than its timer; returns how many.

    Timers count only the time a device is connected, so an outage ends no job and is no failure. `trial` and
    `cancelling` count all time: what a trial waits for is the device itself, and a device that is gone must
    not hold up an abort; its newest document is the withdrawal. A queued job waits without a timer. A
    withdrawal that nobody acknowledged ends as `cancelled`, and gets a new attempt when the rollout goes on.
    The device may still finish: its inventory then corrects the job.
    """
    _note_connections(rollout, now)
    is_late = Q()
    for state in _TIMED:
        limit = plan.timer_s(state)
        if limit is not None:
            is_late |= _older(state, limit, now)
    total = plan.timer_s("downloading_total") or 0
    too_long = Q(state=JobState.DOWNLOADING, away_since=None, offered_at__lt=now - timedelta(seconds=total))
    late = _free(Job.objects.filter(is_late | too_long, rollout=rollout))[:BATCH]
    ends = BadEnds(now)
    done = sum(_end(job, rollout, plan, ends, now) for job in late)
    ends.tell()
    return done


def take_back_absent(rollout: Rollout, plan: Plan, *, now: datetime) -> int:
    """Withdraw up to BATCH offers of devices that have been away for as long as their state's timer; returns
    how many.

    So they give their place in the cap back, and wait as queued again once the withdrawal is acknowledged or
    given up: nothing has failed.
    """
    gone = Q(pk__in=[])
    for state in _PAUSING:
        limit = plan.timer_s(state)
        if limit is not None:
            gone |= Q(state=state, away_since__lt=now - timedelta(seconds=limit))
    jobs = Job.objects.filter(gone, rollout=rollout, kind="install").select_related("rollout")
    batch = list(_free(jobs)[:BATCH])
    return withdraw_jobs(batch, actor=TICK, now=now, reason="the device is away") if batch else 0


def _older(state: str, limit_s: float, now: datetime) -> Q:
    """Jobs in a state for longer than its timer; for most states without the time their device was away."""
    limit = now - timedelta(seconds=limit_s)
    if state not in _PAUSING:
        return Q(state=state, state_at__lt=limit)
    return Q(
        state=state,
        away_since=None,
        state_at__lt=ExpressionWrapper(Value(limit) - F("away"), output_field=DateTimeField()),
    )


def _note_connections(rollout: Rollout, now: datetime) -> None:
    """Stop the timers of devices that have left, and go on with those of devices that are back."""
    jobs = Job.objects.filter(rollout=rollout, state__in=_PAUSING)
    online = Q(device__presence=Presence.ONLINE)
    left = list(_free(jobs.filter(~online, away_since=None)).values_list("pk", flat=True))
    back = list(_free(jobs.filter(online, away_since__isnull=False)).values_list("pk", flat=True))
    if left:
        Job.objects.filter(pk__in=left).update(away_since=now)
    if back:
        gone = ExpressionWrapper(Value(now) - F("away_since"), output_field=DurationField())
        Job.objects.filter(pk__in=back).update(away=F("away") + gone, away_since=None)


def _free(jobs: QuerySet[Job]) -> QuerySet[Job]:
    """These jobs, locked, without those that another transaction holds: a gateway moves them this moment.

    A gateway's transaction holds one job after the other; a tick that waited for one of them while it holds
    others would wait in a circle. The next tick sees what was left out.
    """
    return jobs.order_by("device_id").select_for_update(skip_locked=True, of=("self",))


def _end(job: Job, rollout: Rollout, plan: Plan, ends: BadEnds, now: datetime) -> bool:
    if job.state == JobState.CANCELLING:
        again = now if job.kind == "install" and rollout.state in _GOES_ON else None
        return move_job(job, JobState.CANCELLED, actor=TICK, now=now, code="unacknowledged", retry_at=again)
    again = None
    if job.kind == "install":
        again = next_try(job, JobState.TIMED_OUT, job.state, plan=plan, now=now)
    return move_job(job, JobState.TIMED_OUT, actor=TICK, now=now, ends=ends, code=job.state, retry_at=again)
