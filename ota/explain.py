"""Why a device is, or is not, getting a rollout's model: membership, job, and everything in the way."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone

from fleet.devices.models import Device, Presence
from ota import windows, zones
from ota.choices import JOB_TERMINAL, ROLLOUT_TERMINAL, Arm, JobState, RolloutState, WaveState
from ota.desired import last_counter
from ota.gates.failures import COMPAT
from ota.models import Job, Membership, Rollout, Trust, Wave
from ota.offers import in_flight
from ota.plan import Plan
from ota.targeting import LASTING, Target, TargetError, outside, standing
from ota.waves import is_proven

SENTENCES = {
    "not_targeted": "The rollout does not target this device.",
    "not_started": "The rollout has not started.",
    "ended": "The rollout has ended, or is ending: it offers nothing any more.",
    "already_installed": "The device ran this model already when the rollout started.",
    "incompatible": "The model does not fit this device.",
    "quarantined": "The device is quarantined.",
    "not_in_bank": "The device does not hold the model it would go back to.",
    "other_rollout": "Another rollout held this device's slot at the start.",
    "superseded": "A newer rollout took this device over.",
    "control": "The device is control: it keeps its model until the last wave, for comparison.",
    "wave_not_open": "The device's wave has not opened yet.",
    "outside_window": "It is outside the rollout's window for this device.",
    "paused": "The rollout is paused.",
    "halted": "The rollout is halted.",
    "offline": "The device is offline; it is offered the model when it connects.",
    "counter_burned": "The device reports a counter that only the next trust document can pass.",
    "concurrency_cap": "Enough other devices are under way; this one is next when one of them ends.",
    "deferred": "The device put the update off and goes on by itself.",
    "retry": "The last attempt failed; another one follows.",
    "retries_exhausted": "The last attempt failed and is not tried again.",
    "unfit": "The device cannot run the model; it is tried again when its firmware or operators change.",
    "job": "An attempt is under way or has ended.",
}
"""Every code `explain` answers with, and its sentence."""
_OUT = ("not_targeted", "already_installed", "incompatible", "superseded")
_LEFT = (JobState.QUEUED, JobState.CANCELLING, JobState.CANCELLED, JobState.SUPERSEDED)
_OVER = ROLLOUT_TERMINAL | {
    RolloutState.ABORTING,
    RolloutState.ROLLING_BACK,
    RolloutState.ROLLBACK_INCOMPLETE,
}


LATE = "it came, or changed, after the start froze who takes part"
WAS_HELD = "The device was quarantined when the rollout started."
MAY_JOIN = "The rollout's tail takes it in when that is over."
"""Said of a device that is left out for now."""


def explain(rollout: Rollout, device_id: str, *, now: datetime | None = None) -> dict[str, Any] | None:
    """What a person asks about one device; None for a device that does not exist.

    {"device_id", "code", "sentence", "membership": None | {"arm", "wave", "stratum", "h", "rank",
    "skip_reason"},
     "job": None | {job}, "history": [job, oldest first], "blockers": [{"code", "sentence", ...}],
     "next": {"action", "not_before"} | None}; a job is {"id", "kind", "attempt", "state", "code", "have",
     "total", "state_at", "offered_at", "confirmed_at", "finished_at", "retry_at", "is_reconciled"}. `code` is
     one of
    SENTENCES. A device outside the rollout answers `not_targeted`.
    """
    now = now or timezone.now()
    device = Device.objects.filter(pk=device_id).first()
    if device is None:
        return None
    member = Membership.objects.filter(rollout=rollout, device=device).first()
    jobs = list(Job.objects.filter(rollout=rollout, device=device).order_by("attempt"))
    job = jobs[-1] if jobs else None
    blockers = _blockers(rollout, device, member, job, now)
    code = blockers[0]["code"] if blockers else "job"
    text = blockers[0]["sentence"] if blockers else SENTENCES[code]
    if code == "job" and job:
        text = _job_text(job)
    if code == "not_targeted" and blockers[0]["reason"]:
        text = f"{text.removesuffix('.')}: {blockers[0]['reason']}."
    is_out = member is None or member.arm == Arm.SKIPPED
    if is_out and [item["code"] for item in blockers[1:]] == ["wave_not_open"]:
        text = f"{text} {MAY_JOIN}"
    return {
        "device_id": device.pk,
        "code": code,
        "sentence": text,
        "membership": _membership(member),
        "job": _job(job) if job else None,
        "history": [_job(row) for row in jobs],
        "blockers": blockers,
        "next": _next(job, blockers, is_over=rollout.state in _OVER),
    }


def _blockers(
    rollout: Rollout, device: Device, member: Membership | None, job: Job | None, now: datetime
) -> list[dict[str, Any]]:
    if rollout.superseded_by_id is not None and (job is None or job.state in _LEFT):
        return [_blocker("superseded", rollout=str(rollout.superseded_by_id))]
    is_over = rollout.state in _OVER
    if rollout.started_at is None:
        return [_blocker("ended" if is_over else "not_started")]
    plan = Plan.parse(rollout.plan)
    if member is None or member.arm == Arm.SKIPPED:
        return _outside(rollout, plan, device, member, now)
    if is_over and (job is None or (job.kind == "install" and job.state == JobState.QUEUED)):
        return [_blocker("ended", reason=rollout.reason)]
    if job is None:
        wave = Wave.objects.filter(rollout=rollout, n=member.wave).first()
        found = [_blocker("control")] if member.arm == Arm.CONTROL else []
        if wave is None or wave.state == WaveState.PENDING:
            found.append(_blocker("wave_not_open", until=f"wave {member.wave - 1} passed"))
        return found + _held(rollout, plan, device, now) or [_blocker("wave_not_open")]
    if job.state == JobState.QUEUED:
        found = _held(rollout, plan, device, now)
        if not found and in_flight(rollout) >= plan.cap(is_proven=is_proven(rollout)):
            found.append(_blocker("concurrency_cap"))
        return found
    if job.state == JobState.DEFERRED:
        return [_blocker("deferred", reason=job.code)]
    if job.state in (JobState.REJECTED, JobState.FAILED, JobState.TIMED_OUT) and job.kind == "install":
        if is_over or job.retry_at is None:
            waits = not is_over and job.state == JobState.REJECTED and job.code in COMPAT
            return [_blocker("unfit" if waits else "retries_exhausted", reason=job.code)]
        until = job.retry_at.isoformat()
        return [_blocker("retry", reason=job.code, until=until), *_held(rollout, plan, device, now)]
    if job.state == JobState.SKIPPED and job.code in SENTENCES:
        return [_blocker(job.code, reason=device.quarantine_reason or job.code)]
    return []


def _why_outside(rollout: Rollout, device: Device, now: datetime) -> str:
    """Why a device has no place in a rollout that has started, as its target means devices now."""
    try:
        why = outside(Target.parse(rollout.target), device, now=now)
    except TargetError as error:
        return error.text
    return why or LATE


def _outside(
    rollout: Rollout, plan: Plan, device: Device, member: Membership | None, now: datetime
) -> list[dict[str, Any]]:
    """What is said of a device that has no place: the tail may still take it in, if it is fit by then."""
    why = _why_outside(rollout, device, now)
    left_out = member.skip_reason if member is not None else ""
    tail = rollout.waves.filter(n__gt=len(plan.waves)).first()
    if tail is not None and tail.state not in (WaveState.PENDING, WaveState.OPEN):
        tail = None
    if tail is None or why != LATE or left_out == LASTING:
        if left_out == "quarantined" and device.quarantined_at is None:
            return [_unfit(left_out) | {"sentence": WAS_HELD}]
        return [_unfit(left_out) if left_out else _blocker("not_targeted", reason=why)]
    until = f"wave {len(plan.waves)} passed" if tail.state == WaveState.PENDING else "the tail's next look"
    unfit = standing(rollout, device.pk)
    return [*([_unfit(unfit)] if unfit else []), _blocker("wave_not_open", until=until)]


def _unfit(why: str) -> dict[str, Any]:
    return _blocker(why if why in SENTENCES else "incompatible", reason=why)


def _held(rollout: Rollout, plan: Plan, device: Device, now: datetime) -> list[dict[str, Any]]:
    found = []
    if rollout.state == RolloutState.HALTED:
        found.append(_blocker("halted", reason=rollout.reason))
    if rollout.state == RolloutState.PAUSED:
        found.append(_blocker("paused", reason=rollout.reason))
    if device.quarantined_at is not None:
        found.append(_blocker("quarantined", reason=device.quarantine_reason))
    if _is_burned(device):
        found.append(_blocker("counter_burned"))
    zone = zones.of_device(device) or "UTC"
    if rollout.state == RolloutState.RUNNING and not windows.is_open(plan.windows, now, zone):
        opens = windows.opens_at(plan.windows, now, zone)
        found.append(_blocker("outside_window", opens_at=opens.isoformat()))
    if device.presence != Presence.ONLINE:
        since = device.last_seen_at.isoformat() if device.last_seen_at else None
        found.append(_blocker("offline", since=since))
    return found


def _is_burned(device: Device) -> bool:
    """True when no counter of the present trust version is above what the device reports."""
    version = Trust.objects.order_by("-version").values_list("version", flat=True).first()
    return version is not None and device.desired_counter >= last_counter(version)


def _blocker(code: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "sentence": SENTENCES[code], **more}


def _membership(member: Membership | None) -> dict[str, Any] | None:
    if member is None:
        return None
    names = ("arm", "wave", "stratum", "h", "rank", "skip_reason", "baseline_run", "baseline")
    return {name: getattr(member, name) for name in names}


def _job(job: Job) -> dict[str, Any]:
    times = ("state_at", "offered_at", "confirmed_at", "finished_at", "retry_at")
    return {
        "id": str(job.pk),
        "kind": job.kind,
        "attempt": job.attempt,
        "state": str(job.state),
        "label": str(JobState(job.state).label),
        "code": job.code,
        "detail": job.detail,
        "have": job.have,
        "total": job.total,
        "is_reconciled": job.is_reconciled,
        **{name: value.isoformat() if (value := getattr(job, name)) else None for name in times},
    }


def _job_text(job: Job) -> str:
    what = "Revert" if job.kind == "revert" else "Install"
    text = f"{what}, attempt {job.attempt}: {JobState(job.state).label.lower()}"
    if job.code:
        text += f" ({job.code})"
    if job.state == JobState.DOWNLOADING and job.total:
        text += f", {job.have} of {job.total} chunks"
    return f"{text}."


def _next(job: Job | None, blockers: list[dict[str, Any]], *, is_over: bool) -> dict[str, Any] | None:
    """What happens next to the device, by itself; a rollout that is over only waits for what is under way."""
    if is_over and (job is None or job.state in JOB_TERMINAL):
        return None
    if job is not None and job.retry_at is not None:
        return {"action": "retry", "not_before": job.retry_at.isoformat()}
    if job is None or job.state == JobState.QUEUED:
        if is_over and (job is None or job.kind == "install"):
            return None
        is_out = any(item["code"] in _OUT for item in blockers)
        opens = next((item["opens_at"] for item in blockers if item["code"] == "outside_window"), None)
        return None if is_out else {"action": "offer", "not_before": opens}
    return None if job.state in JOB_TERMINAL else {"action": "report", "not_before": None}
