"""The verbs of a rollout, for REST, console and commands alike. States and edges: `ota.choices`, `ota.verbs`.

A verb that the state does not allow raises IllegalTransition with what is allowed. What follows from a verb
over time is the tick's work (`ota.ticking`); what devices answer is `ota.reports`'.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from fleet.accounts.audit import Actor
from ota import approval, dry_runs, rollback_target, security, starting
from ota import rollback as taking_back
from ota.choices import Decision, RolloutState, WaveState
from ota.drafts import create, delete, edit
from ota.errors import RolloutError
from ota.explain import explain
from ota.live import state
from ota.models import Operation, Rollout
from ota.offers import withdraw
from ota.permits import do as _do
from ota.permits import move as _move
from ota.permits import permitted as _permitted
from ota.permits import refreshed as _refreshed
from ota.permits import refused as _refused
from ota.plan import Plan, PlanError
from ota.readiness import after_approval, finish_preflight, preview
from ota.retries import retry_failed
from ota.reverts import create_revert
from ota.starting import carry_on
from ota.targeting import Target, TargetError
from ota.ticking import due, tick
from ota.transitions import IllegalTransition, move_wave
from ota.verbs import VERBS, allowed
from ota.waves import current

__all__ = [
    "IllegalTransition",
    "PlanError",
    "RolloutError",
    "abort",
    "allowed",
    "approve",
    "cancel",
    "carry_on",
    "create",
    "create_revert",
    "delete",
    "due",
    "edit",
    "explain",
    "override",
    "pause",
    "preview",
    "reject",
    "resume",
    "retry_failed",
    "rollback",
    "run_preflight",
    "start",
    "state",
    "submit",
    "tick",
]


def submit(rollout: Rollout, *, actor: Actor, now: datetime) -> Rollout:
    """Check a draft against the fleet and put it up for approval.

    It becomes `awaiting_approval` when a second person must approve (`ota.approval.needed`), else `scheduled`
    with a start time, else `ready`; `preflight_failed` with the reasons in `rollout.summary`. A call that was
    killed in between is finished by the next tick. Raises TargetError when a query is none any more
    (`group_query_invalid`, `query_unknown_field`); the rollout stays where it is then.
    """
    _check_queries(_permitted(rollout, "submit"), now=now)
    fresh = _do(rollout, "submit", RolloutState.PREFLIGHT, actor=actor, now=now)
    finish_preflight(fresh, actor=actor, now=now)
    return _refreshed(rollout)


run_preflight = submit
"""The same under the name it had before there was an approval."""


def approve(
    rollout: Rollout,
    *,
    actor: Actor,
    now: datetime,
    manifest_sha256: str,
    plan_digest: str,
    target_digest: str,
    reason: str = "",
) -> Rollout:
    """Let what was submitted run: `scheduled` or `ready`. The digests name what the approver has read.

    Raises RolloutError `approver_is_author`, and `approval_stale` with the difference in words.
    """
    with transaction.atomic():
        fresh = _permitted(rollout, "approve")
        approval.check_second(fresh, actor)
        approval.check_current(
            fresh, manifest_sha256=manifest_sha256, plan_digest=plan_digest, target_digest=target_digest
        )
        _move(fresh, "approve", after_approval(Plan.parse(fresh.plan)), actor=actor, now=now)
        approval.decide(fresh, Decision.APPROVE, actor=actor, now=now, reason=reason)
    return _refreshed(rollout)


def reject(rollout: Rollout, *, actor: Actor, now: datetime, reason: str) -> Rollout:
    """Say no to what was submitted, for good. Raises RolloutError `approver_is_author`, `validation` without
    a reason.
    """
    with transaction.atomic():
        fresh = _permitted(rollout, "reject")
        approval.check_second(fresh, actor)
        if not reason.strip():
            raise RolloutError("validation", "a rejection says why")
        _move(fresh, "reject", RolloutState.REJECTED, actor=actor, now=now, reason=reason)
        approval.decide(fresh, Decision.REJECT, actor=actor, now=now, reason=reason)
    return _refreshed(rollout)


def start(
    rollout: Rollout, *, actor: Actor, now: datetime, dry_run: bool = False
) -> Operation | dict[str, Any]:
    """Freeze who is eligible and let a worker make the rollout run; one that supersedes ends those in its
    way.

    Returns the operation that does it (`ota.starting.carry_on`); the rollout stays `ready` until then and is
    started no second time. dry_run: the same checks, then only count, as `ota.dry_runs.start` says. Raises
    RolloutError `target_changed` when the eligible set is not the previewed and approved one any more
    (`ota.starting.ask` says how far), or needs an approval by now; the rollout is a draft again then, unless
    it was a dry run. Raises OverlapError when other rollouts hold every device, RevokedError when its
    manifest is trusted no more, PlanError when a query is none any more; then nothing changes.
    """
    fresh = _permitted(rollout, "start")
    if dry_run:
        return starting.dry_run(fresh, now=now)
    asked = starting.ask(fresh, actor=actor, now=now)
    if asked is None:
        raise _refused(rollout, "start")
    _refreshed(rollout)
    if isinstance(asked, str):
        raise starting.target_changed(asked)
    return asked


def pause(
    rollout: Rollout, *, actor: Actor, now: datetime, reason: str = "", finish_in_flight: bool = False
) -> Rollout:
    """Make no more offers. Offers whose trial has not begun are withdrawn, or may finish; trials end."""
    with transaction.atomic():
        fresh = _do(rollout, "pause", RolloutState.PAUSED, actor=actor, now=now, reason=reason)
        if not finish_in_flight:
            withdraw(fresh, actor=actor, now=now, reason="paused")
    return _refreshed(rollout)


def resume(
    rollout: Rollout,
    *,
    actor: Actor,
    now: datetime,
    ack_evidence: UUID | str | None = None,
    reason: str = "",
) -> Rollout:
    """Go on after a pause; after a halt only with the evidence that halted it, and a reason.

    After a halt the failed wave opens again, its counters and processes start anew with half of their alpha,
    and whoever says so wrote nothing of the plan. Raises RolloutError `evidence_not_current` when
    `ack_evidence` is not the evidence, `validation` without a reason, `approver_is_author`.
    """
    with transaction.atomic():
        fresh = _permitted(rollout, "resume")
        was_halted = fresh.state == RolloutState.HALTED
        if was_halted:
            approval.check_second(fresh, actor)
            approval.check_acknowledged(fresh, ack_evidence, reason)
        why = f"evidence {ack_evidence} acknowledged: {reason}" if was_halted else reason
        _move(fresh, "resume", RolloutState.RUNNING, actor=actor, now=now, reason=why)
        if was_halted:
            row = fresh.halted_on
            approval.decide(fresh, Decision.RESUME, actor=actor, now=now, reason=reason, rests_on=row)
        wave = current(fresh)
        if was_halted:
            security.set_aside(fresh.halted_on, actor=actor, now=now)
        if was_halted and wave is not None and wave.state == WaveState.FAILED:
            move_wave(
                wave,
                WaveState.OPEN,
                actor=actor,
                now=now,
                reason=why,
                opened_at=wave.opened_at if Plan.parse(fresh.plan).is_tail(wave.n) else now,
                soaking_at=None,
                finished_at=None,
                verdict="",
                reasons=[],
                restarts=wave.restarts + 1,
                restarted_at=now,
            )
    return _refreshed(rollout)


def override(
    rollout: Rollout,
    *,
    actor: Actor,
    now: datetime,
    ack_evidence: UUID | str | None,
    reason: str,
    wave: int | None = None,
    dry_run: bool = False,
) -> Rollout | dict[str, Any]:
    """Let a failed or inconclusive wave count as passed, in red for good.

    wave: its number; None = the one under way. dry_run: the same checks, then only {"dry_run": true, "wave":
    n, "opens": number of the wave that opens next or None, "devices": its size}. Raises IllegalTransition
    when that wave waits for no verdict, RolloutError as `resume` after a halt: evidence of another wave or
    rollout, or that a newer one replaced, is `evidence_not_current`.
    """
    with transaction.atomic():
        fresh = _permitted(rollout, "override")
        row = current(fresh)
        if row is None or row.state not in (WaveState.FAILED, WaveState.INCONCLUSIVE):
            raise _refused(rollout, "override")
        if wave not in (None, row.n):
            judged = fresh.waves.filter(n=wave).values_list("state", flat=True).first()
            raise IllegalTransition(judged or "unknown", (), asked=f"override of wave {wave}")
        approval.check_second(fresh, actor)
        found = approval.check_acknowledged(fresh, ack_evidence, reason, row)
        following = fresh.waves.filter(n=row.n + 1).first()
        if dry_run:
            opens = following.n if following else None
            size = following.size if following else 0
            return {"dry_run": True, "wave": row.n, "opens": opens, "devices": size}
        why = f"evidence {ack_evidence} overridden: {reason}"
        if fresh.state == RolloutState.HALTED:
            security.set_aside(fresh.halted_on, actor=actor, now=now)
            _move(fresh, "override", RolloutState.RUNNING, actor=actor, now=now, reason=why)
        about = {"evidence": str(ack_evidence), "why": reason}
        if not move_wave(row, WaveState.OVERRIDDEN, actor=actor, now=now, reason=why, about=about):
            raise _refused(rollout, "override")
        approval.decide(fresh, Decision.OVERRIDE, actor=actor, now=now, reason=reason, rests_on=found)
    return _refreshed(rollout)


def abort(
    rollout: Rollout, *, actor: Actor, now: datetime, reason: str = "", dry_run: bool = False
) -> Rollout | dict[str, Any]:
    """Stop and keep: nothing new is offered, what has begun ends, confirmed devices keep the candidate.

    dry_run: only count, as `ota.dry_runs.abort` says.
    """
    if dry_run:
        return dry_runs.abort(_permitted(rollout, "abort"))
    with transaction.atomic():
        fresh = _do(rollout, "abort", RolloutState.ABORTING, actor=actor, now=now, reason=reason)
        withdraw(fresh, actor=actor, now=now, reason="aborting")
    return _refreshed(rollout)


def rollback(
    rollout: Rollout, *, actor: Actor, now: datetime, reason: str = "", dry_run: bool = False
) -> Rollout | dict[str, Any]:
    """Take the candidate back from every exposed device. dry_run as `ota.rollback`. Raises RollbackError when
    the plan has no way back.
    """
    now_is = Rollout.objects.get(pk=rollout.pk)
    if "rollback" in VERBS[now_is.state]:
        rollback_target.available(now_is)  # the verb is not offered then; who asks for it hears why
    if dry_run:
        return taking_back.dry_run(_permitted(rollout, "rollback"))
    with transaction.atomic():
        to = RolloutState.ROLLING_BACK
        fresh = _do(rollout, "rollback", to, actor=actor, now=now, reason=reason, rollback_started_at=now)
        withdraw(fresh, actor=actor, now=now, reason="rolling back")
    return _refreshed(rollout)


def cancel(rollout: Rollout, *, actor: Actor, now: datetime, reason: str = "") -> Rollout:
    """Give up a rollout that has not started."""
    _do(rollout, "cancel", RolloutState.CANCELLED, actor=actor, now=now, reason=reason)
    return _refreshed(rollout)


def _check_queries(rollout: Rollout, *, now: datetime) -> None:
    """Raise TargetError for a query that is none any more; names that are gone are preflight's to report."""
    try:
        Target.parse(rollout.target).check(now=now)
    except TargetError as error:
        if error.position is not None:
            raise
