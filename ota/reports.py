"""What a device reports moves its jobs. State is level-triggered: nothing waits for any one message.

A report concerns a job by (slot, target, attempt). It is applied when (counter, attempt, rank of the state)
is above what the job has, so duplicates, reordering and replays change nothing, and a lost message is
repaired by the next one. A report for an unknown target is inventory: it changes no job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from django.db import connection, transaction

from fleet.accounts.audit import Actor
from fleet.devices.models import Device
from fleet.devices.quarantine import quarantine
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import BankFlag, EventKind, RefusalCode, UpdateState
from fleet.mqtt.codec.reported import Reported, SlotReport
from ota.backoff import next_try, repeats_of
from ota.choices import JOB_EDGES, JOB_TERMINAL, JobState, RolloutState
from ota.gates.failures import COMPAT, POLICY
from ota.models import DesiredState, Job, Rollout
from ota.plan import Plan
from ota.transitions import CONNECTED, HeldMoves

log = structlog.get_logger(__name__)

WITHDRAWN: Final = "withdrawn"
"""Code of a job whose withdrawal lost the race against the device's trial."""
_LOOK_BACK = 4
_NEWEST = f"""
SELECT j.id FROM unnest(%s::text[], %s::smallint[]) AS s(device, slot), LATERAL (
    SELECT id FROM "{Job._meta.db_table}" WHERE device_id = s.device AND slot = s.slot
    ORDER BY attempt DESC LIMIT %s
) AS j
"""  # noqa: S608 - the table's own name
# the job states a device passes on its way; `JOB_EDGES` lets a job go forward on it only, which ranks them
_STEPS: dict[UpdateState, JobState] = {
    UpdateState.OFFERED: JobState.ACCEPTED,
    UpdateState.MANIFEST_OK: JobState.ACCEPTED,
    UpdateState.DOWNLOADING: JobState.DOWNLOADING,
    UpdateState.DOWNLOADED: JobState.VERIFYING,
    UpdateState.VERIFIED: JobState.STAGED,
    UpdateState.TRIAL: JobState.TRIAL,
    UpdateState.CONFIRMED: JobState.CONFIRMED,
}
# states in which a withdrawal is still to take effect and the job waits for its next offer
_RESUMABLE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED})
_AT_REST = frozenset({UpdateState.IDLE, UpdateState.CONFIRMED, UpdateState.REFUSED})
_RACED = frozenset({UpdateState.TRIAL, UpdateState.CONFIRMED, UpdateState.REVERTED, UpdateState.REFUSED})


@dataclass(frozen=True)
class _Seen:
    """One slot of one report, as the rules below read it. running: id16 as hex, "" = nothing runs."""

    device_id: str
    counter: int
    report: SlotReport
    running: str

    def names(self, job: Job) -> bool:
        """True when the report is about this job's target and attempt."""
        if self.report.attempt != job.attempt:
            return False
        if job.target:
            return self.report.target.hex() == job.target[:32]
        return not any(self.report.target)

    def runs(self, job: Job) -> bool:
        """True when the device runs what the job asks for; for a stop, when it runs nothing."""
        return self.running == job.target[:32]


def apply(device_id: str, reported: Reported, *, now: datetime) -> list[Job]:
    """`apply_all` for one report, unless the device has said something newer since."""
    with transaction.atomic(savepoint=False):
        known = Device.objects.filter(pk=device_id).values_list("boot", "report_n").first()
        if known is not None and known > reported.counter:
            log.info("stale_report", device=device_id, boot=reported.boot, n=reported.n)
            return []
        return apply_all([(device_id, reported)], now=now)


def apply_all(told: Iterable[tuple[str, Reported]], *, now: datetime) -> list[Job]:
    """Move the jobs that authentic reports are about, in the order of the reports. Returns what moved.

    Call it in the transaction that stores the inventory, after it, with the reports that were news to it.
    The jobs are held until that transaction ends, taken in the order of their devices as workers do, and
    written together: a handful of statements, however many reports there are.
    """
    told = list(told)
    jobs = _held({(device_id, slot) for device_id, reported in told for slot in reported.slots})
    moves = HeldMoves(now)
    moved: list[Job] = []
    for device_id, reported in told:
        for slot, report in sorted(reported.slots.items()):
            run = report.run_bank
            running = "" if run is None or run.flags & BankFlag.STOPPED else run.manifest_id.hex()
            seen = _Seen(device_id, reported.desired_counter, report, running)
            for index, job in enumerate(jobs.get((device_id, slot), ())):
                change = _decide(job, seen, is_newest=index == 0)
                if change is not None and _make(job, change, seen, moves, now):
                    moved.append(job)
    moves.finish()
    return moved


def _held(slots: Collection[tuple[str, int]]) -> dict[tuple[str, int], list[Job]]:
    """The newest jobs of these (device, slot), newest first, their rows held."""
    if not slots:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [*map(list, zip(*sorted(slots), strict=True)), _LOOK_BACK])
        ids = [job_id for (job_id,) in cursor.fetchall()]
    rows = Job.objects.select_for_update(no_key=True).filter(pk__in=ids)
    found: dict[tuple[str, int], list[Job]] = {}
    for job in rows.order_by("device_id", "slot", "-attempt"):
        found.setdefault((job.device_id, job.slot), []).append(job)
    everyone = [job for some in found.values() for job in some]
    rollouts = Rollout.objects.in_bulk({job.rollout_id for job in everyone})
    for job in everyone:
        job.rollout = rollouts[job.rollout_id]
    return found


def apply_event(device_id: str, event: Event, *, now: datetime) -> bool:
    """Note the code of a refusal event on the live job it is about. True when a job took it.

    No state moves: an event is sent once and may be late or lost, the reported document repeats itself.
    """
    if event.kind != EventKind.REFUSAL or event.mid is None:
        return False
    number = event.fields.get("code", 0)
    if number not in RefusalCode.__members__.values() or not number:
        return False
    live = Job.objects.filter(
        device_id=device_id, slot=event.slot or 0, target__startswith=event.mid, code=""
    )
    return bool(live.exclude(state__in=JOB_TERMINAL).update(code=RefusalCode(number).label))


@dataclass(frozen=True)
class _Change:
    """Where a job goes. to is None for news within a state: progress, or another reason to wait."""

    to: JobState | None
    code: str = ""
    detail: int = 0
    is_reconciled: bool = False


def _decide(job: Job, seen: _Seen, *, is_newest: bool) -> _Change | None:
    """What the report says about the job; None = nothing new."""
    if seen.names(job):
        return _about_target(job, seen)
    if not is_newest or seen.counter < job.counter:
        return None
    at_rest = seen.report.state in _AT_REST
    if job.state == JobState.CANCELLING and at_rest and not seen.runs(job):
        back = job.rollout.state in _RESUMABLE and job.kind == "install"
        return _Change(JobState.QUEUED) if back else _taken_back(job)
    if job.state == JobState.TRIAL and job.code == WITHDRAWN and at_rest and not seen.runs(job):
        return _taken_back(job, WITHDRAWN)
    if job.state == JobState.CONFIRMED and job.kind == "install" and not seen.runs(job):
        return _Change(JobState.SELF_REVERTED, "late") if _is_asked_for(job) else None
    if job.state in (JobState.TIMED_OUT, JobState.CANCELLED) and seen.runs(job) and job.target and at_rest:
        return _Change(JobState.CONFIRMED, is_reconciled=True)
    return None


def _taken_back(job: Job, code: str = "") -> _Change:
    """The end of a job whose offer was withdrawn for good."""
    if job.kind == "install" and job.rollout.superseded_by_id is not None:
        return _Change(JobState.SUPERSEDED)
    return _Change(JobState.CANCELLED, code)


def _about_target(job: Job, seen: _Seen) -> _Change | None:
    report = seen.report
    if job.state in JOB_TERMINAL:
        return _after_the_end(job, seen)
    if job.state == JobState.CANCELLING:
        if report.state not in _RACED:
            return None
    elif job.state == JobState.QUEUED or seen.counter < job.counter:
        log.info("stale_report", device=seen.device_id, job=str(job.pk), state=report.state.label)
        return None
    if report.state in (UpdateState.REVERTED, UpdateState.REFUSED):
        return _ended(job, report)
    if report.state == UpdateState.DEFERRED:
        if job.state == JobState.DEFERRED:
            return _Change(None, report.code.label, report.detail) if job.code != report.code.label else None
        fits = JobState.DEFERRED in JOB_EDGES[job.state] and report.code != RefusalCode.CONFIG_INVALID
        return _Change(JobState.DEFERRED, report.code.label, report.detail) if fits else None
    if report.state == UpdateState.IDLE:
        stopped = not job.target and seen.runs(job)
        return _Change(JobState.CONFIRMED) if stopped else None
    to = _STEPS[report.state]
    if to == JobState.CONFIRMED and not seen.runs(job):
        return None  # contradicts itself: the target is not what runs
    if to == job.state:
        return _Change(None) if report.have > job.have else None
    if to not in JOB_EDGES[job.state]:
        log.info("stale_report", device=seen.device_id, job=str(job.pk), state=report.state.label)
        return None
    raced = WITHDRAWN if job.state == JobState.CANCELLING else job.code if job.code == WITHDRAWN else ""
    return _Change(to, raced)


def _after_the_end(job: Job, seen: _Seen) -> _Change | None:
    """A terminal job leaves only because the device's own inventory says something else."""
    state = seen.report.state
    if job.state in (JobState.TIMED_OUT, JobState.CANCELLED):
        done = UpdateState.CONFIRMED if job.target else UpdateState.IDLE
        if state == done and seen.runs(job):
            return _Change(JobState.CONFIRMED, is_reconciled=True)
        return None
    if job.state == JobState.CONFIRMED and job.kind == "install" and seen.counter >= job.counter:
        if state == UpdateState.REVERTED:
            return _Change(JobState.SELF_REVERTED, seen.report.code.label or "late", seen.report.detail)
        if state in _AT_REST and not seen.runs(job):
            return _Change(JobState.SELF_REVERTED, "late")
    return None


def _ended(job: Job, report: SlotReport) -> _Change:
    code = report.code.label if report.code != RefusalCode.NONE else "unknown"
    if report.state == UpdateState.REVERTED:
        return _Change(JobState.SELF_REVERTED, code, report.detail)
    to = JobState.REJECTED if code in COMPAT | POLICY else JobState.FAILED
    return _Change(to, code, report.detail)


def _is_asked_for(job: Job) -> bool:
    """True when the job's target is still what the device is told to run."""
    entries = DesiredState.objects.filter(device_id=job.device_id).values_list("entries", flat=True).first()
    return bool(entries) and (entries or {}).get(str(job.slot), [None, None])[1] == job.target


def _make(job: Job, change: _Change, seen: _Seen, moves: HeldMoves, now: datetime) -> bool:
    report = seen.report
    if change.to is None:
        if change.code:
            moves.note(job, code=change.code, detail=change.detail)
        else:
            moves.note(job, have=report.have, total=report.total, state_at=now, **CONNECTED)
        return True
    fields: dict[str, Any] = {
        "code": change.code,
        "detail": change.detail,
        "is_reconciled": change.is_reconciled,
    }
    if report.total and seen.names(job):
        fields |= {"have": report.have, "total": report.total}
    if change.to in (JobState.TRIAL, JobState.CONFIRMED, JobState.SELF_REVERTED):
        fields["exposed_at"] = job.exposed_at or now
    if change.to == JobState.CONFIRMED:
        fields |= {"confirmed_at": job.confirmed_at or now, "retry_at": None}
    who = Actor("device", seen.device_id)
    is_failed = change.to in (JobState.FAILED, JobState.REJECTED)
    is_flash = change.code == RefusalCode.FLASH_IO.label
    if job.kind == "install" and (is_failed or is_flash):
        moves.save()  # what follows counts the device's other attempts
        if is_failed:
            plan = Plan.parse(job.rollout.plan)
            fields["retry_at"] = next_try(job, change.to, change.code, plan=plan, now=now)
        if is_flash and repeats_of(job, change.code) > 1:
            quarantine(seen.device_id, reason="its flash failed twice", actor=who, now=now)
    moves.move(job, change.to, actor=who, **fields)
    return True
