"""The tick: what a worker does for a rollout, once a second or so, and again after a kill anywhere.

One worker at a time holds a rollout's lease; its fence number is in every transaction it makes, so a worker
that was paused for longer than its lease changes nothing any more. Each step is its own transaction, holds
the rollout's row while it runs, and does at most one batch. A step that is not for the state the rollout is
in begins no transaction; what a person changes meanwhile is the next tick's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.fields.json import KT

from fleet.accounts.audit import TICK, Actor
from ota import device_windows, evidence, operations, readiness, rollback, security, starting, waves, zones
from ota.choices import JOB_TERMINAL, OPERATION_LIVE, JobState, RolloutState
from ota.errors import OtaError
from ota.models import Operation, Rollout
from ota.offers import (
    cancel_queued,
    clear_offers,
    install_jobs,
    make_offers,
    reassert,
    remove_retired,
    skip_quarantined,
    withdraw,
)
from ota.plan import Plan
from ota.retries import renew_changed, retry_due
from ota.timers import expire, take_back_absent
from ota.transitions import move_rollout

log = structlog.get_logger(__name__)

LEASE: Final = timedelta(seconds=10)
POLICY: Final = Actor("gate", "on_fail")
R = RolloutState
ACTIVE: Final = frozenset(
    {R.PREFLIGHT, R.RUNNING, R.PAUSED, R.HALTED, R.ABORTING, R.ROLLING_BACK, R.ROLLBACK_INCOMPLETE}
)
_STARTING = frozenset({R.SCHEDULED, R.READY})  # they need ticks only with a start time
_IS_STARTED = Exists(Operation.objects.filter(rollout=OuterRef("pk"), state__in=OPERATION_LIVE))
_KEEPING = frozenset({R.RUNNING, R.PAUSED, R.HALTED, R.ABORTING})

_UNREAD: Final = (
    *("manifest__leaves", "manifest__blob"),
    *(f"manifest__version__{name}" for name in ("inspection", "probe", "golden")),
)
"""Columns as large as a model's own report, which no step looks at: every step reads its rollout anew."""

Step = Callable[[Rollout, Plan, datetime], object]


class LeaseLost(Exception):
    """Another worker took the rollout over; nothing of this transaction happens."""


def due(*, now: datetime) -> list[UUID]:
    """Rollouts that need ticks, oldest first: those under way, those that somebody has started, and those
    whose start time has come.
    """
    rows = Rollout.objects.filter(Q(state__in=ACTIVE | _STARTING) | _IS_STARTED).order_by("created_at", "pk")
    found = rows.annotate(is_started=_IS_STARTED).values_list(
        "pk", "state", KT("plan__start_at"), "is_started"
    )
    return [
        pk
        for pk, state, start, is_started in found
        if state in ACTIVE or is_started or (start and _time(start) <= now)
    ]


def tick(rollout_id: UUID | str, now: datetime) -> bool:
    """Do one round of steps for a rollout. False when another worker holds it or it needs none.

    Idempotent and safe to kill: each step's transaction happens whole or not at all, and the next tick goes
    on.
    """
    fence = _take(rollout_id, now)
    if fence is None:
        return False
    try:
        _run_all(_BEFORE, rollout_id, fence, now)
        _start(rollout_id, now)
        starting.carry_on(rollout_id, now=now)
        _run_all(_STEPS, rollout_id, fence, now)
    except LeaseLost:
        log.warning("lease_lost", rollout=str(rollout_id), fence=fence)
        return False
    finally:
        Rollout.objects.filter(pk=rollout_id, fence=fence).update(lease_until=None)
    return True


def _take(rollout_id: UUID | str, now: datetime) -> int | None:
    """The fence number of a new lease; None when it is held or the rollout needs no tick."""
    free = Q(lease_until=None) | Q(lease_until__lte=now)
    starts = Q(state__in=_STARTING, plan__start_at__isnull=False) & ~Q(plan__start_at=None)
    found = Rollout.objects.filter(free, Q(state__in=ACTIVE) | _IS_STARTED | starts, pk=rollout_id)
    with transaction.atomic():
        if not found.update(fence=F("fence") + 1, lease_until=now + LEASE):
            return None
        return Rollout.objects.values_list("fence", flat=True).get(pk=rollout_id)


def _run_all(
    steps: Sequence[tuple[frozenset[RolloutState], Step]], rollout_id: UUID | str, fence: int, now: datetime
) -> None:
    """The steps for the rollout's state, which one of them may change for those behind it."""
    state = _state(rollout_id)
    for states, step in steps:
        if state in states:
            _run(rollout_id, fence, states, step, now)
            state = _state(rollout_id)


def _state(rollout_id: UUID | str) -> str | None:
    return Rollout.objects.filter(pk=rollout_id).values_list("state", flat=True).first()


def _run(
    rollout_id: UUID | str, fence: int, states: frozenset[RolloutState], step: Step, now: datetime
) -> None:
    with transaction.atomic():
        # The UPDATE locks the row until commit: verbs wait, and what we read next stays true.
        if not Rollout.objects.filter(pk=rollout_id, fence=fence).update(lease_until=now + LEASE):
            raise LeaseLost
        rollout = Rollout.objects.select_related("manifest__version").defer(*_UNREAD).get(pk=rollout_id)
        if rollout.state in states:
            step(rollout, Plan.parse(rollout.plan), now)


def _preflight(rollout: Rollout, plan: Plan, now: datetime) -> None:
    readiness.finish_preflight(rollout, actor=TICK, now=now)


def _schedule(rollout: Rollout, plan: Plan, now: datetime) -> None:
    """A start time that has come, or was missed, counts once a window is open."""
    is_time = plan.start_at is not None and now >= plan.start_at
    if is_time and zones.is_open_somewhere(plan, now=now):
        move_rollout(rollout, R.READY, actor=TICK, now=now)


def _start(rollout_id: UUID | str, now: datetime) -> None:
    """Ask for the start of what was scheduled. A fleet that is another one by now makes it a draft again: a
    person looks. Not in a transaction of the tick: reading a whole fleet takes longer than a row is locked.
    """
    rollout = Rollout.objects.select_related("manifest__version").defer(*_UNREAD).get(pk=rollout_id)
    if rollout.state != R.READY:
        return
    plan = Plan.parse(rollout.plan)
    if plan.start_at is None or now < plan.start_at:
        return
    if operations.wanted(rollout_id, rollout.rev) is not None:
        return
    try:
        starting.ask(rollout, actor=TICK, now=now)
    except OtaError as problem:
        starting.back_to_draft(rollout, f"{problem.code}: {problem.text}", actor=TICK, now=now)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _expire(rollout: Rollout, plan: Plan, now: datetime) -> None:
    remove_retired(rollout, now=now)
    skip_quarantined(rollout, now=now)
    expire(rollout, plan, now=now)


def _absent(rollout: Rollout, plan: Plan, now: datetime) -> None:
    take_back_absent(rollout, plan, now=now)


def _reassert(rollout: Rollout, plan: Plan, now: datetime) -> None:
    reassert(rollout, now=now)


def _trust(rollout: Rollout, plan: Plan, now: datetime) -> None:
    security.halt_untrusted(rollout, now=now)


def _retry(rollout: Rollout, plan: Plan, now: datetime) -> None:
    renew_changed(rollout, now=now)
    retry_due(rollout, now=now)


def _offer(rollout: Rollout, plan: Plan, now: datetime) -> None:
    make_offers(rollout, plan, plan.cap(is_proven=waves.is_proven(rollout)), now=now)


def _renew(rollout: Rollout, plan: Plan, now: datetime) -> None:
    device_windows.renew(rollout, plan, now=now)


def _policy(rollout: Rollout, plan: Plan, now: datetime) -> None:
    """Proof over many devices rolls back by itself if the plan says so; one device's word waits."""
    withdraw(rollout, actor=POLICY, now=now, reason="halted")
    row = rollout.halted_on
    if plan.on_fail == "rollback" and row is not None and evidence.is_automatic(row):
        rollback.begin(rollout, actor=POLICY, now=now, reason=rollout.reason)


def _abort(rollout: Rollout, plan: Plan, now: datetime) -> None:
    """Stop and keep: withdraw what has not begun, let trials end, keep what is confirmed."""
    is_superseded = rollout.superseded_by_id is not None
    waves.close(rollout, now=now)
    to = JobState.SUPERSEDED if is_superseded else JobState.CANCELLED
    cancel_queued(rollout, actor=TICK, now=now, to=to)
    withdraw(rollout, actor=TICK, now=now)
    clear_offers(rollout, now=now)
    if not install_jobs(rollout).exclude(state__in=JOB_TERMINAL).exists():
        end = R.SUPERSEDED if is_superseded else R.ABORTED
        move_rollout(rollout, end, actor=TICK, now=now, reason=rollout.reason)


_BEFORE: tuple[tuple[frozenset[RolloutState], Step], ...] = (
    (frozenset({R.PREFLIGHT}), _preflight),
    (frozenset({R.SCHEDULED}), _schedule),
)
_STEPS: tuple[tuple[frozenset[RolloutState], Step], ...] = (
    (ACTIVE, _expire),
    (frozenset({R.RUNNING, R.PAUSED}), _absent),
    (_KEEPING, _reassert),
    (frozenset({R.RUNNING, R.PAUSED}), _trust),
    (frozenset({R.RUNNING}), _retry),
    (frozenset({R.RUNNING}), lambda rollout, plan, now: waves.advance(rollout, plan, now=now)),
    (frozenset({R.PAUSED}), lambda rollout, plan, now: waves.watch(rollout, plan, now=now)),
    (frozenset({R.RUNNING}), _renew),
    (frozenset({R.RUNNING}), _offer),
    (frozenset({R.HALTED}), _policy),
    (frozenset({R.ABORTING}), _abort),
    (
        frozenset({R.ROLLING_BACK, R.ROLLBACK_INCOMPLETE}),
        lambda rollout, plan, now: rollback.take_back(rollout, plan, now=now),
    ),
)
