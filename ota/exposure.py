"""How far a wave has come, counted from its jobs: exposed, failed, reached, settled, soaked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet

from fleet.devices.models import DeviceEvent, DeviceSlot, Presence
from fleet.telemetry import queries
from ota.choices import JOB_TERMINAL, JobState
from ota.gates.failures import CLASSES, FIRST_WAVE, SECURITY, failure_class
from ota.job_counts import devices_by, newest_of
from ota.models import Job, Rollout, Wave
from ota.offers import missing_count, newest_jobs
from ota.plan import Plan

_SINGLES_SHOWN = 20


class Alike(NamedTuple):
    """How many devices of a wave are alike, by each one's newest attempt. is_late: since the wave's restart,
    True without one.
    """

    state: str
    code: str
    is_exposed: bool
    is_late: bool
    n: int


@dataclass(frozen=True)
class Tally:
    """The devices of a wave counted once, for all that is judged on counts.

    kinds: of every device that has a job. offline: of those that wait for their offer, the ones that are not
    connected. aside: those set aside by a person who acknowledged their report (`ota.security`).
    """

    kinds: tuple[Alike, ...]
    offline: int
    aside: int

    @property
    def n(self) -> int:
        """Devices that have a job."""
        return sum(kind.n for kind in self.kinds)


def tally(wave: Wave) -> Tally:
    """Count a wave. Devices are looked at for those of whom it is asked, not joined with every job: with
    100,000 jobs that took half of the time (`tests.bench.rollout_scale`).
    """
    late = Q(state_at__gte=wave.restarted_at) | Q(exposed_at__gte=wave.restarted_at)
    kinds = {
        "is_exposed": Q(exposed_at__isnull=False),
        "is_late": late if wave.restarted_at is not None else Q(state__isnull=False),
    }
    told = Job.objects.filter(wave=wave).annotate(
        **{name: ExpressionWrapper(kind, output_field=BooleanField()) for name, kind in kinds.items()}
    )
    jobs = newest_of(Job.objects.filter(wave=wave)).order_by()
    aside = jobs.filter(state=JobState.FAILED, code__in=SECURITY, device__quarantined_at__isnull=False)
    return Tally(
        kinds=tuple(Alike._make((*kind, n)) for kind, n in devices_by(told, "state", "code", *kinds).items()),
        offline=jobs.filter(state=JobState.QUEUED).exclude(device__presence=Presence.ONLINE).count(),
        aside=aside.count(),
    )


def hard_counts(wave: Wave, plan: Plan, counted: Tally | None = None) -> dict[str, Any]:
    """Exposed and failed devices of a wave, by each one's newest attempt; after a restart only later ones.

    counted: its `tally`, None takes one.
    """
    jobs = newest_jobs(wave)
    if wave.restarted_at is not None:
        jobs = jobs.filter(Q(state_at__gte=wave.restarted_at) | Q(exposed_at__gte=wave.restarted_at))
    failed = dict.fromkeys(CLASSES, 0)
    exposed = unexposed_model = 0
    for kind in (counted or tally(wave)).kinds:
        if not kind.is_late:
            continue
        exposed += kind.n if kind.is_exposed else 0
        if name := failure_class(kind.state, kind.code):
            failed[name] += kind.n
            unexposed_model += kind.n if name == "model" and not kind.is_exposed else 0
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
    confirmed = newest_of(Job.objects.filter(wave=wave)).filter(state=JobState.CONFIRMED)
    if wave.restarted_at is not None:
        confirmed = confirmed.filter(exposed_at__gte=wave.restarted_at)
    counts = _self_tests(confirmed, rollout)
    told = DeviceEvent.objects.filter(
        kind="golden_mismatch",
        device__in=confirmed.values("device"),
        device__jobs__in=confirmed,
        at__gte=F("device__jobs__exposed_at"),
        data__mid=rollout.manifest.mid,
    )
    said = set(told.values_list("device_id", flat=True).distinct())
    of_said = _self_tests(confirmed.filter(device__in=said), rollout) if said else {}
    untested = len(said) - sum(of_said.values())
    passed = untested + sum(n for (run, agreed), n in of_said.items() if agreed == run)
    wrong = sum(n for (run, agreed), n in counts.items() if agreed < run)
    return {"n": sum(counts.values()) + untested, "k": wrong + passed}


def _self_tests(jobs: QuerySet[Job], rollout: Rollout) -> dict[tuple[int, int], int]:
    """(vectors run, those that agreed): devices of these jobs that run the candidate and tested it so."""
    # Device and slot alone join, and the manifest is looked at afterwards. With it in the condition the
    # planner goes by its statistics of what slots run, which know nothing of a manifest that has just come.
    selected, parameters = jobs.order_by().values("device_id").query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN s.run = %s THEN (s.selftest->>0)::int END AS run,"  # noqa: S608 - a query set's
            " CASE WHEN s.run = %s THEN coalesce((s.selftest->>1)::int, 0) END AS agreed, count(*)"
            f' FROM ({selected}) AS d(id) JOIN "{DeviceSlot._meta.db_table}" s'
            " ON s.device_id = d.id AND s.slot = %s GROUP BY 1, 2",
            [rollout.manifest.id16, rollout.manifest.id16, *parameters, rollout.slot],
        )
        return {(run, agreed): n for run, agreed, n in cursor.fetchall() if run}


def reach(wave: Wave, rollout: Rollout, plan: Plan, counted: Tally | None = None) -> dict[str, int]:
    """Devices confirmed and seen with telemetry of the candidate, against how many are needed.

    {"reached", "needed", "of", "confirmed"}. of: reachable devices: not skipped, removed or set aside for a
    broken signature, and not waiting offline. Before the last wave at least half of the wave must be
    reachable for the share to mean anything; a tail needs none. counted: its `tally`, None takes one.
    """
    counted = counted or tally(wave)
    confirmed = sum(kind.n for kind in counted.kinds if kind.state == JobState.CONFIRMED)
    out = sum(kind.n for kind in counted.kinds if kind.state in (JobState.SKIPPED, JobState.REMOVED))
    size = counted.n - out - counted.aside + missing_count(wave, have=counted.n)
    reachable = size - counted.offline
    needed = math.ceil(plan.min_reach * reachable - 1e-9)
    is_last = wave.n == len(plan.waves)
    needed = max(needed, min(1, size) if is_last else math.ceil(size / 2))
    if plan.is_tail(wave.n):
        needed = 0  # devices join it one by one: their number says nothing
    reached = confirmed
    if reached and reached >= needed and wave.opened_at is not None:
        of_them = newest_of(Job.objects.filter(wave=wave)).filter(state=JobState.CONFIRMED)
        names = of_them.order_by().values_list("device_id", flat=True)
        reached = queries.count_reporting(names, rollout.manifest.mid, wave.opened_at)
    return {"reached": reached, "needed": needed, "of": reachable, "confirmed": confirmed}


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
