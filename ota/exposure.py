"""How far a wave has come, counted from its jobs: exposed, failed, reached, settled, soaked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import (
    BooleanField,
    Case,
    Count,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    Subquery,
    TextField,
    Value,
    When,
)
from django.db.models.fields.json import KT
from django.db.models.functions import Concat

from fleet.devices.models import DeviceEvent, DeviceSlot, Presence
from fleet.telemetry import queries
from ota.choices import JOB_TERMINAL, JobState
from ota.gates.failures import CLASSES, FIRST_WAVE, SECURITY, failure_class
from ota.models import Rollout, Wave
from ota.offers import missing_count, newest_jobs
from ota.plan import Plan

_SINGLES_SHOWN = 20


class Tally(NamedTuple):
    """How many devices of a wave are alike, by each one's newest attempt. is_late: since the wave's restart,
    True without one.
    """

    state: str
    code: str
    is_exposed: bool
    is_late: bool
    is_online: bool
    is_held: bool
    n: int


def tally(wave: Wave) -> list[Tally]:
    """The devices of a wave counted once, for all that is judged on counts: with 100,000 jobs one look costs
    a quarter of a second.
    """
    late = Q(state_at__gte=wave.restarted_at) | Q(exposed_at__gte=wave.restarted_at)
    kinds = {
        "is_exposed": Q(exposed_at__isnull=False),
        "is_late": late if wave.restarted_at is not None else Q(pk__isnull=False),
        "is_online": Q(device__presence=Presence.ONLINE),
        "is_held": Q(device__quarantined_at__isnull=False),
    }
    jobs = newest_jobs(wave).annotate(
        **{name: ExpressionWrapper(kind, output_field=BooleanField()) for name, kind in kinds.items()}
    )
    rows = jobs.order_by().values_list("state", "code", *kinds).annotate(n=Count("pk"))
    return [Tally._make(row) for row in rows]


def hard_counts(wave: Wave, plan: Plan, counted: Sequence[Tally] | None = None) -> dict[str, Any]:
    """Exposed and failed devices of a wave, by each one's newest attempt; after a restart only later ones.

    counted: its `tally`, None takes one.
    """
    jobs = newest_jobs(wave)
    if wave.restarted_at is not None:
        jobs = jobs.filter(Q(state_at__gte=wave.restarted_at) | Q(exposed_at__gte=wave.restarted_at))
    failed = dict.fromkeys(CLASSES, 0)
    exposed = unexposed_model = 0
    for row in tally(wave) if counted is None else counted:
        if not row.is_late:
            continue
        exposed += row.n if row.is_exposed else 0
        if name := failure_class(row.state, row.code):
            failed[name] += row.n
            unexposed_model += row.n if name == "model" and not row.is_exposed else 0
    singles = jobs.filter(
        code__in=FIRST_WAVE | {"signature"}, state__in=("self_reverted", "failed", "rejected")
    )
    compat = [] if wave.n > 1 else jobs.filter(state=JobState.REJECTED).order_by("pk")[:_SINGLES_SHOWN]
    devices = {job.device_id: job.code for job in singles.order_by("pk")[:_SINGLES_SHOWN]}
    devices |= {job.device_id: job.code for job in compat if failure_class(job.state, job.code) == "compat"}
    return {
        "exposed": exposed,
        "unexposed_model": unexposed_model,
        "failed": failed,
        "limits": {"model": plan.r_max_model, "delivery": plan.r_max_delivery, "compat": plan.r_max_compat},
        "single": [{"device": device, "code": code} for device, code in sorted(devices.items())],
        "golden": _golden(wave),
    }


def _golden(wave: Wave) -> dict[str, int]:
    """Confirmed devices that ran golden vectors on the candidate, and those where one disagreed, then or
    since.
    """
    rollout = wave.rollout
    confirmed = newest_jobs(wave).filter(state=JobState.CONFIRMED)
    if wave.restarted_at is not None:
        confirmed = confirmed.filter(exposed_at__gte=wave.restarted_at)
    # Device and slot alone are asked for, and the manifest is looked at afterwards. With it in the condition
    # the planner goes by its statistics of what slots run, which know nothing of a manifest that has just
    # come: it reads every slot that runs it once for each job (20,000 devices, 1,000 confirmed: 300 ms).
    slots = DeviceSlot.objects.filter(device_id=OuterRef("device_id"), slot=rollout.slot)
    result = Concat(KT("selftest__0"), Value(" "), KT("selftest__1"), output_field=TextField())
    of_candidate = Case(When(run=rollout.manifest.id16, then=result), output_field=TextField())
    told_by = confirmed.annotate(test=Subquery(slots.values(test=of_candidate)[:1])).order_by()
    counts = {test: n for test, n in told_by.values_list("test").annotate(n=Count("pk")) if _vectors(test)}
    told = DeviceEvent.objects.filter(
        kind="golden_mismatch",
        device__in=confirmed.values("device"),
        device__jobs__in=confirmed,
        at__gte=F("device__jobs__exposed_at"),
        data__mid=rollout.manifest.mid,
    )
    said = set(told.values_list("device_id", flat=True).distinct())
    tests = dict(told_by.filter(device_id__in=said).values_list("device_id", "test")) if said else {}
    untested = sum(not _vectors(tests.get(name)) for name in said)
    passed = sum(not _is_wrong(tests.get(name)) for name in said)
    wrong = sum(n for test, n in counts.items() if _is_wrong(test))
    return {"n": sum(counts.values()) + untested, "k": wrong + passed}


def _vectors(test: str | None) -> tuple[int, int] | None:
    """(vectors run, those that agreed) of a self-test, "8 8"; None for one that ran none."""
    run, agreed = (int(part) for part in test.split()) if test and test.strip() else (0, 0)
    return (run, agreed) if run else None


def _is_wrong(test: str | None) -> bool:
    vectors = _vectors(test)
    return vectors is not None and vectors[1] < vectors[0]


def reach(wave: Wave, rollout: Rollout, plan: Plan, counted: Sequence[Tally] | None = None) -> dict[str, int]:
    """Devices confirmed and seen with telemetry of the candidate, against how many are needed.

    {"reached", "needed", "of", "confirmed"}. of: reachable devices: not skipped, removed or set aside for a
    broken signature, and not waiting offline. Before the last wave at least half of the wave must be
    reachable for the share to mean anything; a tail needs none. counted: its `tally`, None takes one.
    """
    rows = tally(wave) if counted is None else counted
    have = sum(row.n for row in rows)
    offline = sum(row.n for row in rows if row.state == JobState.QUEUED and not row.is_online)
    confirmed = sum(row.n for row in rows if row.state == JobState.CONFIRMED)
    size = sum(row.n for row in rows if _has_place(row)) + missing_count(wave, have=have)
    reachable = size - offline
    needed = math.ceil(plan.min_reach * reachable - 1e-9)
    is_last = wave.n == len(plan.waves)
    needed = max(needed, min(1, size) if is_last else math.ceil(size / 2))
    if plan.is_tail(wave.n):
        needed = 0  # devices join it one by one: their number says nothing
    reached = confirmed
    if reached and reached >= needed and wave.opened_at is not None:
        of_them = newest_jobs(wave).filter(state=JobState.CONFIRMED)
        names = list(of_them.values_list("device_id", flat=True))
        reached = len(queries.has_window(names, rollout.manifest.mid, wave.opened_at) & set(names))
    return {"reached": reached, "needed": needed, "of": reachable, "confirmed": confirmed}


def _has_place(row: Tally) -> bool:
    """False for who was left out, and who was set aside by a person who acknowledged its report
    (`ota.security`).
    """
    is_aside = row.state == JobState.FAILED and row.code in SECURITY and row.is_held
    return row.state not in (JobState.SKIPPED, JobState.REMOVED) and not is_aside


def is_settled(wave: Wave) -> bool:
    """True when every device of an open wave has ended its last attempt and no retry is due."""
    jobs = newest_jobs(wave)
    left = jobs.exclude(state__in=JOB_TERMINAL).exists() or jobs.filter(retry_at__isnull=False).exists()
    return not left and not missing_count(wave)


def is_soaked(wave: Wave, plan: Plan, *, now: datetime) -> bool:
    """True when the wave has been observed for long enough to be judged."""
    if wave.soaking_at is None:
        return False
    return now >= soak_ends(wave, plan)


def soak_ends(wave: Wave, plan: Plan) -> datetime:
    """Earliest end of the soak: the plan's, and for a gated wave at least one whole comparison window."""
    least_s = max(plan.soak_s, plan.settle_s + plan.window_s) if wave.is_gated else plan.soak_s
    return (wave.soaking_at or wave.opened_at or wave.rollout.created_at) + timedelta(seconds=least_s)
