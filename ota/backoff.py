"""When a failed attempt is tried again: only codes that a second try can heal, a few times, backed off."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from ota.choices import JobState
from ota.gates.failures import RETRYABLE_ONCE, failure_class
from ota.job_counts import newest_of
from ota.models import Job, Rollout
from ota.plan import Plan

RETRIED = frozenset({"delivery", "policy"})
"""Failure classes that another attempt can heal; `security`, `compat` and `model` are never among them."""
FAILED = (JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT)
"""States in which an attempt ended without running the candidate."""
_TWICE = 2


def is_retryable(state: str, code: str) -> bool:
    """True when another attempt may end better than one that ended in `state` with `code`."""
    return state in FAILED and failure_class(state, code) in RETRIED


def retry_at(
    state: str, code: str, *, attempts: int, key: str, plan: Plan, now: datetime, repeats: int | None = None
) -> datetime | None:
    """When a device whose attempt ended in `state` with `code` is offered the manifest again; None = never.

    attempts: failed attempts of the device in this rollout, this one included; a withdrawn offer is none.
    repeats: those of them that ended with this code, None = all. key: anything that names the attempt; it
    fixes the jitter of +-50 %, so that the answer does not depend on who asks. `security`, `compat` and
    `model` failures are never retried; `flash_io` and the `policy` codes once.
    """
    if not is_retryable(state, code) or attempts >= plan.max_attempts:
        return None
    if code in RETRYABLE_ONCE and (attempts if repeats is None else repeats) >= _TWICE:
        return None
    jitter = hashlib.sha256(key.encode()).digest()[0] / 255.0  # 0..1
    return now + timedelta(seconds=plan.retry_base_s * 4.0 ** (attempts - 1) * (0.5 + jitter))


def repeats_of(job: Job, code: str) -> int:
    """How many attempts of the job's device in its rollout ended with this code, counting this one."""
    return 1 + _earlier(job).filter(code=code).count()


def next_try(job: Job, state: str, code: str, *, plan: Plan, now: datetime) -> datetime | None:
    """`retry_at` for a live job that is about to end in `state` with `code`, with its attempts counted."""
    attempts = 1 + _earlier(job).count()
    repeats = repeats_of(job, code)
    return retry_at(state, code, attempts=attempts, repeats=repeats, key=str(job.pk), plan=plan, now=now)


def retryable(rollout: Rollout) -> QuerySet[Job]:
    """Newest attempts that a further one may better: what `retry_failed` takes."""
    free = Q(device__retired_at=None, device__quarantined_at=None)
    left_out = Q(state=JobState.SKIPPED, code="quarantined")
    return newest(rollout).filter(free, _may_heal(rollout) | left_out)


def newest(rollout: Rollout) -> QuerySet[Job]:
    """The newest attempt of each device of a rollout."""
    return newest_of(_installs(rollout))


def _installs(rollout: Rollout) -> QuerySet[Job]:
    return Job.objects.filter(rollout=rollout, kind="install")


def _may_heal(rollout: Rollout) -> Q:
    """Which of the ends that the rollout's attempts met another attempt may better."""
    found = _installs(rollout).filter(state__in=FAILED).order_by().values_list("state", "code").distinct()
    condition = Q(pk__in=[])
    for state, code in found:
        if is_retryable(state, code):
            condition |= Q(state=state, code=code)
    return condition


def _earlier(job: Job) -> QuerySet[Job]:
    mine = Job.objects.filter(rollout_id=job.rollout_id, device_id=job.device_id, kind="install")
    return mine.filter(state__in=FAILED).exclude(pk=job.pk)
