"""Deadlines of jobs: a state without news for too long ends, with the state as its code."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Q

from fleet.accounts.audit import TICK
from ota.backoff import next_try
from ota.choices import JobState, RolloutState
from ota.models import Job, Rollout
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
_GOES_ON = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED})


def expire(rollout: Rollout, plan: Plan, *, now: datetime) -> int:
    """End up to BATCH jobs (installs and reverts) whose state is older than its timer; returns how many.

    A queued job waits without a timer: offline is not a failure. A withdrawal that nobody acknowledged ends
    as `cancelled`, and gets a new attempt when the rollout goes on. The device may still finish: its
    inventory then corrects the job.
    """
    is_late = Q()
    for state in _TIMED:
        limit = plan.timer_s(state)
        if limit is not None:
            is_late |= Q(state=state, state_at__lt=now - timedelta(seconds=limit))
    # in key order, as gateways do: two transactions then never wait for each other in a circle
    late = Job.objects.filter(is_late, rollout=rollout).order_by("device_id")[:BATCH]
    return sum(_end(job, rollout, plan, now) for job in late)


def _end(job: Job, rollout: Rollout, plan: Plan, now: datetime) -> bool:
    if job.state == JobState.CANCELLING:
        again = now if job.kind == "install" and rollout.state in _GOES_ON else None
        return move_job(job, JobState.CANCELLED, actor=TICK, now=now, code="unacknowledged", retry_at=again)
    again = None
    if job.kind == "install":
        again = next_try(job, JobState.TIMED_OUT, job.state, plan=plan, now=now)
    return move_job(job, JobState.TIMED_OUT, actor=TICK, now=now, code=job.state, retry_at=again)
