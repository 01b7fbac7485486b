"""Jobs of a rollout's waves: made when a wave opens, offered under a cap, withdrawn.

Each function works on one bounded batch inside the caller's transaction, which holds the rollout's row: so no
offer is made after a pause or halt has committed, and the cap holds at every commit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Exists, Max, OuterRef, QuerySet, TextField
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from fleet.accounts import audit
from fleet.accounts.audit import TICK, Actor
from fleet.devices.models import Presence
from fleet.mqtt.codec.names import Action
from ota import delivery, keys, zones
from ota.choices import (
    JOB_EDGES,
    JOB_IN_FLIGHT,
    JOB_TERMINAL,
    JOB_WITHDRAWABLE,
    Arm,
    JobState,
    StagingState,
)
from ota.copying import renew_statistics
from ota.desired import last_counter
from ota.job_rows import make_jobs
from ota.models import DesiredState, Job, Membership, Rollout, Staging, Wave
from ota.plan import Plan
from ota.reports import WITHDRAWN
from ota.transitions import BATCH, move_job, move_jobs

OFFERS_PER_STEP = 250
"""Or a second's worth of what the plan allows a minute, if that is more."""
JOBS_PER_STEP = 2_000
"""A tick ends within a second or so, however large the wave: the next one goes on."""
MAX_ATTEMPT = 65_535
_TRIES = 3


def install_jobs(rollout: Rollout) -> QuerySet[Job]:
    """The rollout's install jobs, every attempt."""
    return Job.objects.filter(rollout=rollout, kind="install")


def newest_jobs(wave: Wave) -> QuerySet[Job]:
    """The newest attempt of each device of a wave: what counts.

    Asked as "no newer attempt exists", which a further filter can be pushed below: with 100,000 jobs that is
    a tenth of the time of sorting every attempt for each question.
    """
    newer = Job.objects.filter(
        wave_id=OuterRef("wave_id"),
        device_id=OuterRef("device_id"),
        kind="install",
        attempt__gt=OuterRef("attempt"),
    )
    return Job.objects.filter(~Exists(newer), wave=wave, kind="install")


def missing_count(wave: Wave, *, have: int | None = None) -> int:
    """How many members of an open wave have no job yet; cheap enough to ask at every tick.

    have: how many devices of the wave have one, None to count them.
    """
    have = _have(wave) if have is None else have
    return missing_jobs(wave).count() if have < wave.size else 0


def _have(wave: Wave) -> int:
    """How many devices of a wave have a job."""
    # counting distinct values in an aggregate sorts them, counting a distinct query hashes them
    return Job.objects.filter(wave=wave, kind="install").order_by().values("device_id").distinct().count()


def missing_jobs(wave: Wave) -> QuerySet[Membership]:
    """Members of an open wave that have no job yet."""
    has_job = Job.objects.filter(rollout_id=wave.rollout_id, device_id=OuterRef("device_id"), kind="install")
    members = Membership.objects.filter(rollout_id=wave.rollout_id, wave=wave.n).exclude(arm=Arm.SKIPPED)
    return members.filter(~Exists(has_job))


def ensure_jobs(wave: Wave, rollout: Rollout, *, have: int, now: datetime) -> int:
    """Make jobs for members of an open wave that have none (`ota.job_rows`); returns how many: with
    JOBS_PER_STEP of them others may wait for the next step.

    have: how many devices of the wave have a job. A device is left out while an older job of its slot is
    live. Raises ValueError when one used up its 65,535 attempts.
    """
    if have >= wave.size:
        return 0
    attempts = make_jobs(wave, rollout, now=now, limit=JOBS_PER_STEP)
    if not attempts and wave.size - have > JOBS_PER_STEP:
        attempts = make_jobs(
            wave, rollout, now=now, limit=BATCH
        )  # those left out must not keep back the rest
    _check_attempts(attempts)
    steps = have // JOBS_PER_STEP
    if len(attempts) == JOBS_PER_STEP and not steps & (steps - 1):  # each time their number has doubled
        renew_statistics(Job)
    return len(attempts)


def next_attempts(device_ids: Sequence[str], slot: int) -> dict[str, int]:
    """The attempt number to use next per device. Raises ValueError when a device used up all 65,535."""
    used = (
        Job.objects.filter(device_id__in=device_ids, slot=slot)
        .values("device_id")
        .annotate(last=Max("attempt"))
    )
    last = {row["device_id"]: row["last"] for row in used}
    attempts = {name: last.get(name, 0) + 1 for name in device_ids}
    _check_attempts(list(attempts.values()))
    return attempts


def _check_attempts(attempts: Sequence[int]) -> None:
    if max(attempts, default=0) > MAX_ATTEMPT:
        raise ValueError("a device has no attempt number left for this slot")


def is_staged(rollout: Rollout) -> bool:
    """True when the broker holds every chunk, read back and verified."""
    return Staging.objects.filter(manifest_id=rollout.manifest_id, state=StagingState.STAGED).exists()


def in_flight(rollout: Rollout) -> int:
    """Install jobs between offer and end, withdrawals included: what the cap counts."""
    return install_jobs(rollout).filter(state__in=JOB_IN_FLIGHT).count()


def tellable_jobs(rollout: Rollout) -> QuerySet[Job]:
    """Queued install jobs whose device can be told now: connected, in service, its counters not used up.

    A device that reports a counter beyond this trust version (it lies, or a restored database forgot) would
    else take its place under the cap at every tick, and others would wait behind it for ever.
    """
    trust, _ = keys.current_trust()
    return install_jobs(rollout).filter(
        state=JobState.QUEUED,
        device__presence=Presence.ONLINE,
        device__quarantined_at=None,
        device__retired_at=None,
        device__desired_counter__lt=last_counter(trust.version),
    )


def make_offers(rollout: Rollout, plan: Plan, cap: int, *, now: datetime) -> int:
    """Offer the manifest to queued devices that are online, up to the cap; returns how many.

    Nothing is offered outside the plan's windows, nor more than its offers per minute. A deferred device has
    given its place in the cap back and goes on by itself; while more than the cap are under way because of
    that, nothing new is offered.
    """
    step = max(OFFERS_PER_STEP, math.ceil(plan.offers_per_minute / 60))
    free = min(step, cap - in_flight(rollout), plan.offers_per_minute - _recent(rollout, now))
    if free <= 0 or not (rollout.kind == "revert" or is_staged(rollout)):
        return 0
    queued = zones.within(tellable_jobs(rollout), plan, now=now)
    # In the order of the draw, so that who goes first says nothing about the device; waves are numbered as
    # they follow. The index `job_offers` has that order: read is what is offered, and who is away before it.
    queued = queued.order_by("wave_id", "h", "device_id")
    return offer(list(queued[:free]), plan, now=now)


def _recent(rollout: Rollout, now: datetime) -> int:
    """Jobs offered in the last minute."""
    return install_jobs(rollout).filter(offered_at__gt=now - timedelta(minutes=1)).count()


def offer(jobs: Sequence[Job], plan: Plan, *, now: datetime) -> int:
    """Put the jobs' targets into the desired documents and move the jobs; returns how many were told.

    jobs: of one rollout. One of kind `revert` asks for the other bank: nothing is loaded.
    """
    is_revert = bool(jobs) and jobs[0].rollout.kind == "revert"
    action = Action.RUN_OTHER_BANK if is_revert else Action.RUN
    ttl = now + timedelta(seconds=plan.offer_ttl_s)
    wanted = zones.of_jobs(jobs, plan, now=now)
    # an offer lives until the end of its device's next window: there it may have to wait for this one's
    until = {job.pk: max(ttl, wanted[job.device_id].last_close) if wanted else ttl for job in jobs}
    shown = {name: item.config for name, item in wanted.items()}
    counters = delivery.offer(jobs, now=now, deadlines=until, windows=shown, action=action)
    return _told(
        jobs, counters, JobState.OFFERED, actor=TICK, now=now, offered_at=now, code="", detail=0, have=0
    )


def withdraw(rollout: Rollout, *, actor: Actor, now: datetime, reason: str = "") -> int:
    """Take back up to BATCH offers whose trial has not begun; returns how many. Trials end by themselves."""
    jobs = list(install_jobs(rollout).filter(state__in=JOB_WITHDRAWABLE).order_by("device_id")[:BATCH])
    return withdraw_jobs(jobs, actor=actor, now=now, reason=reason)


def withdraw_jobs(jobs: Sequence[Job], *, actor: Actor, now: datetime, reason: str = "") -> int:
    """`withdraw` for these jobs (at most BATCH)."""
    counters = delivery.withdraw(jobs, now=now) if jobs else {}
    return _told(jobs, counters, JobState.CANCELLING, actor=actor, now=now, reason=reason)


def cancel_queued(rollout: Rollout, *, actor: Actor, now: datetime, to: JobState, code: str = "") -> int:
    """End up to BATCH jobs that were never offered, or whose offer was taken back; returns how many."""
    jobs = list(install_jobs(rollout).filter(state=JobState.QUEUED).order_by("device_id")[:BATCH])
    return len(move_jobs(jobs, to, actor=actor, now=now, code=code))


def remove_retired(rollout: Rollout, *, now: datetime) -> int:
    """End up to BATCH live jobs of devices that were retired; they leave the denominator."""
    jobs = Job.objects.filter(rollout=rollout, device__retired_at__isnull=False).exclude(
        state__in=JOB_TERMINAL
    )
    return len(move_jobs(list(jobs.order_by("device_id")[:BATCH]), JobState.REMOVED, actor=TICK, now=now))


def skip_quarantined(rollout: Rollout, *, now: datetime) -> int:
    """Leave out up to BATCH devices that were quarantined while they waited for their offer or next attempt;
    returns how many. `ota.retries.retry_failed` takes them in again once they are released.
    """
    mine = install_jobs(rollout).filter(device__quarantined_at__isnull=False)
    # rows that are terminal already keep their own outcome: only the attempt to come is given up
    mine.filter(retry_at__isnull=False).update(retry_at=None)
    waiting = list(mine.filter(state=JobState.QUEUED).order_by("device_id")[:BATCH])
    return len(move_jobs(waiting, JobState.SKIPPED, actor=TICK, now=now, code="quarantined"))


def reassert(rollout: Rollout, *, now: datetime) -> int:
    """Name the candidate again for devices whose withdrawal came after their trial had begun.

    They run it and are counted as exposed; without this their newest document would send them back. This
    makes no new exposure. A device that a later rollout has a job for is that one's. Returns how many.
    """
    later = Job.objects.filter(
        device_id=OuterRef("device_id"), slot=rollout.slot, attempt__gt=OuterRef("attempt")
    )
    raced = install_jobs(rollout).filter(
        ~Exists(later), code=WITHDRAWN, state__in=(JobState.TRIAL, JobState.CONFIRMED)
    )
    jobs = list(raced.order_by("device_id")[:BATCH])
    counters = delivery.offer(jobs, now=now) if jobs else {}
    done = 0
    for job in jobs:
        if job.pk not in counters:
            continue
        same = Job.objects.filter(pk=job.pk, state=job.state, counter=job.counter)
        if same.update(counter=counters[job.pk], code=""):
            done += 1
            audit.record(
                actor=TICK,
                verb="job.reassert",
                subject_kind="job",
                subject_id=str(job.pk),
                at=now,
                after={"device": job.device_id, "state": str(job.state)},
            )
    return done


def clear_offers(rollout: Rollout, *, now: datetime) -> int:
    """Take the candidate out of the documents of devices that did not take it: none may install it later.

    For ended attempts whose device was told to run the candidate and neither runs it nor was told otherwise
    since. Returns how many documents changed.
    """
    ended = (JobState.TIMED_OUT, JobState.FAILED, JobState.REJECTED, JobState.SELF_REVERTED)
    told = DesiredState.objects.annotate(
        target=KT(f"entries__{rollout.slot}__1"), attempt=KT(f"entries__{rollout.slot}__4")
    ).filter(
        device_id=OuterRef("device_id"),
        target=OuterRef("target"),
        attempt=Cast(OuterRef("attempt"), TextField()),
    )
    jobs = install_jobs(rollout).filter(Exists(told), state__in=ended)
    batch = list(jobs.order_by("device_id")[:BATCH])
    return len(delivery.withdraw(batch, now=now)) if batch else 0


def _told(
    jobs: Sequence[Job],
    counters: Mapping[UUID, int],
    to: JobState,
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
    **fields: Any,
) -> int:
    """Move the jobs whose document was written. The device may report meanwhile: then look once more.

    One whose trial began before its withdrawal was written is marked, not moved: its document names the old
    model.
    """
    told = [job for job in jobs if job.pk in counters]
    able = [job for job in told if to in JOB_EDGES[job.state]]
    done = move_jobs(able, to, actor=actor, now=now, reason=reason, counters=counters, **fields)
    moved, won = len(done), {job.pk for job in done}
    # in key order, as gateways do: two transactions then never wait for each other in a circle
    for job in sorted((job for job in told if job.pk not in won), key=lambda job: job.device_id):
        job.refresh_from_db()
        for _ in range(_TRIES):
            if to not in JOB_EDGES[job.state]:
                break
            if move_job(job, to, actor=actor, now=now, reason=reason, counter=counters[job.pk], **fields):
                moved += 1
                break
            job.refresh_from_db()
        else:
            job.refresh_from_db()
        if to == JobState.CANCELLING and job.state in (JobState.TRIAL, JobState.CONFIRMED):
            Job.objects.filter(pk=job.pk, state=job.state).update(code=WITHDRAWN)
    return moved
