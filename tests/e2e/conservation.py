"""What must be true of an ended rollout whatever was killed meanwhile: counts conserved, nothing twice.

Read from the database of the running installation, so Django must be set up for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from django.db.models import Count, F

from fleet.accounts.models import AuditEvent
from fleet.devices.models import DeviceEvent, DeviceSlot
from ota.choices import JOB_EDGES, JOB_TERMINAL, Arm
from ota.models import DesiredState, Job, Membership, Rollout


@dataclass
class Facts:
    """State, waves in words, devices confirmed, attempts made, and every contradiction found."""

    state: str
    waves: str
    confirmed: int
    attempts: int
    wrong: list[str] = field(default_factory=list)


def facts(rollout_id: str, *, devices: int) -> Facts:
    """Look at everything a rollout over the whole fleet left behind."""
    rollout = Rollout.objects.get(pk=rollout_id)
    newest = {job.device_id: job for job in Job.objects.filter(rollout=rollout).order_by("attempt")}
    states = Counter(job.state for job in newest.values())
    waves = list(rollout.waves.order_by("n"))
    found = Facts(
        rollout.state,
        " ".join(wave.state for wave in waves),
        states["confirmed"],
        Job.objects.filter(rollout=rollout).count(),
    )
    members = Membership.objects.filter(rollout=rollout).exclude(arm=Arm.SKIPPED)
    if sum(states.values()) != devices or sum(wave.size for wave in waves) != devices:
        found.wrong.append(
            f"counts: {dict(states)}, waves {[wave.size for wave in waves]}, {devices} devices"
        )
    if set(newest) != set(members.values_list("device_id", flat=True)):
        found.wrong.append("jobs and members differ")
    if states["confirmed"] != devices:
        found.wrong.append(f"not all confirmed: {dict(states)}")
    live = Job.objects.exclude(state__in=JOB_TERMINAL).count()
    if live:
        found.wrong.append(f"{live} live jobs are left")
    _check_devices(rollout, devices, found)
    _check_trail(rollout, found)
    _check_control(rollout, found)
    behind = DesiredState.objects.exclude(published_counter=F("counter")).count()
    if behind:
        found.wrong.append(f"the broker lacks {behind} desired documents")
    return found


def _check_devices(rollout: Rollout, devices: int, found: Facts) -> None:
    """Every device runs the candidate, and came to it once."""
    run = rollout.manifest.id16
    runs = DeviceSlot.objects.filter(slot=rollout.slot, run=run).count()
    if runs != devices:
        found.wrong.append(f"{runs} devices run the candidate")
    changes = DeviceEvent.objects.filter(kind="run", at__gte=rollout.created_at).values("device_id")
    often = changes.annotate(n=Count("pk")).filter(n__gt=1).order_by().count()
    if often:
        found.wrong.append(f"{often} devices changed their model more than once")


def _check_trail(rollout: Rollout, found: Facts) -> None:
    """Each job's audit rows form one path of edges that ends where the job is; each offer was made once."""
    jobs = {str(job.pk): job for job in Job.objects.filter(rollout=rollout)}
    trail: dict[str, list[AuditEvent]] = defaultdict(list)
    rows = AuditEvent.objects.filter(subject_kind="job", at__gte=rollout.created_at)
    for row in rows.exclude(verb__in=("job.retry", "job.reassert")).order_by("pk"):
        trail[row.subject_id].append(row)
    for name, job in jobs.items():
        state = "queued"
        for row in trail[name]:
            before, after = (row.before or {})["state"], (row.after or {})["state"]
            if before != state or after not in JOB_EDGES[before]:
                found.wrong.append(f"job of {job.device_id}: {before} to {after} does not follow {state}")
            state = after
        if state != job.state:
            found.wrong.append(f"job of {job.device_id} is {job.state}, its trail ends {state}")
        if sum(row.verb == "job.offered" for row in trail[name]) != 1:
            found.wrong.append(f"attempt {job.attempt} of {job.device_id} was not offered exactly once")


def _check_control(rollout: Rollout, found: Facts) -> None:
    """Control was offered nothing before the last wave opened."""
    last = rollout.waves.order_by("-n")[0]
    control = Membership.objects.filter(rollout=rollout, arm=Arm.CONTROL).values("device_id")
    jobs = Job.objects.filter(rollout=rollout, device_id__in=control)
    early = jobs if last.opened_at is None else jobs.filter(created_at__lt=last.opened_at)
    if early.exists():
        found.wrong.append(f"{early.count()} control devices had a job before the last wave")
