"""The start of a rollout: what was previewed and approved is compared with the fleet of now, then frozen.

Two halves. `ask` is the verb's, and the tick's for a scheduled rollout: it checks everything and stores an
operation. `carry_on` is a worker's: it writes who is in which wave and lets the rollout run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from ota import approval, dry_runs, operations, security
from ota.assignment import sizes
from ota.choices import OperationState, RolloutState
from ota.copying import renew_statistics
from ota.errors import OtaError, RolloutError
from ota.frozen import Draw, difference, forget, make_waves, pack, unpack
from ota.locks import lock, try_lock
from ota.models import Membership, Operation, Rollout
from ota.plan import Plan
from ota.queues import enqueue
from ota.supersede import check_overlap, held_meanwhile, take_over
from ota.targeting import BATCH, Member, members
from ota.transitions import move_rollout

KIND: Final = "rollout.start"
EXPIRES_S: Final = 3.0
"""A tick that no worker took by then is dropped: the schedule sends the next."""


def ask(rollout: Rollout, *, actor: Actor, now: datetime) -> Operation | str | None:
    """Check a ready rollout against the fleet of now, freeze who is eligible, and leave the rest to
    `carry_on`: the operation that it becomes.

    What was checked is what runs: the operation keeps the devices as they were seen here. One short
    transaction stores it, whatever their number, so over REST it commits with its idempotency key.

    A text says why it does not start: the eligible set differs from the previewed one by more than 5 % or by
    a class (nobody is eligible any more, say), a wave has lost all devices that it names, or it needs an
    approval that it does not have. It is a draft again then, and what was approved is void. None: the rollout
    was not as `rollout` shows it. Raises OverlapError when other rollouts hold every device, RevokedError
    when its manifest is trusted no more, PlanError when the waves do not fit in what is left or a query is
    none any more; then nothing changes.
    """
    everyone = list(members(rollout, now=now))
    changed = _changed(rollout, everyone)
    if changed:
        is_draft = back_to_draft(rollout, f"target_changed: {changed}", actor=actor, now=now)
        return changed if is_draft else None
    _check_sizes(rollout, everyone)
    with transaction.atomic():
        found = Rollout.objects.filter(pk=rollout.pk, state=RolloutState.READY, rev=rollout.rev)
        if found.update(rev=F("rev") + 1) != 1:
            return None
        rollout.rev += 1
        operation = operations.ask(
            KIND,
            rollout.pk,
            rev=rollout.rev,
            total=len(everyone),
            frozen=pack(everyone),
            actor=actor,
            now=now,
        )
        told = {"operation": str(operation.pk), "devices": operation.total}
        audit.record(
            actor=actor, verb=KIND, subject_kind="rollout", subject_id=str(rollout.pk), at=now, after=told
        )
        enqueue("ota.tick_rollout", str(rollout.pk), expires_s=EXPIRES_S)
    return operation


def carry_on(rollout_id: UUID | str, *, now: datetime) -> bool:
    """Do what is left of a start that was asked for: memberships, BATCH rows a transaction, then one short
    one that makes the waves and lets the rollout run. False when there is none or another worker is at it.

    Until the rollout runs nothing looks at the memberships. Killed anywhere, the next call goes on behind the
    last batch. One that was edited or cancelled meanwhile does not start, and neither does one whose manifest
    is trusted no more or some of whose devices another rollout took meanwhile: it is a draft again, and the
    operation says why. Both leave no row behind.
    """
    with try_lock(f"ota.start {rollout_id}") as is_mine:
        operation = operations.live(rollout_id) if is_mine else None
        if operation is None:
            return False
        rollout = Rollout.objects.select_related("manifest__version").get(pk=rollout_id)
        if rollout.state != RolloutState.READY or rollout.rev != operation.rev:
            forget(rollout)
            return operations.end(operation, OperationState.CANCELLED, now=now)
        try:
            return _work(rollout, operation, now=now)
        except IntegrityError:
            problem = RolloutError("target_changed", "a device was deleted while the rollout started")
            return _fail(rollout, operation, problem, now=now)
        except OtaError as problem:
            return _fail(rollout, operation, problem, now=now)


def _work(rollout: Rollout, operation: Operation, *, now: datetime) -> bool:
    if not operation.done:
        forget(rollout)  # what an earlier start left that was cancelled
    if operation.frozen is None:  # it was ended meanwhile
        return False
    draw = Draw(rollout, unpack(bytes(operation.frozen)), at=operation.asked_at)
    while operation.done < operation.total:
        first, count = operation.done, min(BATCH, operation.total - operation.done)
        with transaction.atomic():
            if not operations.advance(operation, count):
                return False
            draw.write(first, count)
        if not _is_wanted(rollout):
            break
    renew_statistics(Membership)
    security.check(rollout)
    # Two rollouts of a slot begin one after the other: the second sees what the first one holds.
    with lock(f"ota.begin {rollout.slot}"):
        taken = held_meanwhile(rollout)
        if taken:
            raise RolloutError("target_changed", f"another rollout took {taken} of its devices meanwhile")
        return _begin(rollout, operation, draw, now=now)


def _is_wanted(rollout: Rollout) -> bool:
    return Rollout.objects.filter(pk=rollout.pk, state=RolloutState.READY, rev=rollout.rev).exists()


def _begin(rollout: Rollout, operation: Operation, draw: Draw, *, now: datetime) -> bool:
    """Make the waves and let the rollout run, in one short transaction; False when it changed meanwhile."""
    actor, summary = operation.asked_by, rollout.summary | draw.summary()
    with transaction.atomic():
        to = RolloutState.RUNNING
        is_running = move_rollout(rollout, to, actor=actor, now=now, started_at=now, summary=summary)
        if is_running:
            make_waves(rollout, draw.sizes())
            take_over(rollout, actor=actor, now=now)
            operations.end(operation, OperationState.SUCCEEDED, now=now)
    if not is_running:  # edited or cancelled meanwhile
        forget(rollout)
        operations.end(operation, OperationState.CANCELLED, now=now)
    return is_running


def _fail(rollout: Rollout, operation: Operation, problem: OtaError, *, now: datetime) -> bool:
    forget(rollout)
    told = {"code": problem.code, "text": problem.text, "fix": problem.fix}
    rollout.refresh_from_db(fields=["state", "rev"])
    with transaction.atomic():
        operations.end(operation, OperationState.FAILED, now=now, problem=told)
        if rollout.state == RolloutState.READY and rollout.rev == operation.rev:
            why = f"{problem.code}: {problem.text}"
            back_to_draft(rollout, why, actor=operation.asked_by, now=now)
    return True


def dry_run(rollout: Rollout, *, now: datetime) -> dict[str, Any]:
    """The same checks, then only count, as `ota.dry_runs.start` says. Raises as `begin`, and RolloutError
    `target_changed`; nothing changes.
    """
    everyone = list(members(rollout, now=now))
    changed = _changed(rollout, everyone)
    if changed:
        raise target_changed(changed)
    return dry_runs.start(rollout, everyone)


def target_changed(why: str) -> RolloutError:
    """What a start is refused with when the fleet is another one than previewed."""
    return RolloutError("target_changed", f"the fleet changed since preflight: {why}", "run preflight again")


def _changed(rollout: Rollout, everyone: Sequence[Member]) -> str:
    security.check(rollout)
    eligible = sum(not member.skip for member in everyone)
    check_overlap(rollout, eligible, (member.skip for member in everyone))
    return difference(rollout, everyone) or _unnamed(rollout, everyone) or _unapproved(rollout, eligible)


def _unnamed(rollout: Rollout, everyone: Sequence[Member]) -> str:
    """Which wave has lost every device that it names, "" when none has.

    Such a wave is the plan's first look at the candidate: a few devices of thousands, far below the share
    that makes a fleet another one, and without them it would pass at once.
    """
    eligible = {member.device_id for member in everyone if not member.skip}
    for n, wave in enumerate(Plan.parse(rollout.plan).waves, start=1):
        if wave.named and not eligible.intersection(wave.named):
            return f"none of the devices that wave {n} names is eligible any more"
    return ""


def _check_sizes(rollout: Rollout, everyone: Sequence[Member]) -> None:
    """Raise PlanError as the draw would."""
    plan = Plan.parse(rollout.plan)
    eligible = [member for member in everyone if not member.skip]
    named = Counter(plan.named[member.device_id] for member in eligible if member.device_id in plan.named)
    drawn = (member.candidate.stratum for member in eligible if member.device_id not in plan.named)
    sizes(Counter(drawn), plan, named)


def back_to_draft(rollout: Rollout, reason: str, *, actor: Actor, now: datetime) -> bool:
    """Make a rollout that has not started a draft again and void its approvals. False when it changed
    meanwhile.
    """
    with transaction.atomic():
        if not move_rollout(rollout, RolloutState.DRAFT, actor=actor, now=now, reason=reason[:2000]):
            return False
        approval.void(rollout, now=now)
    return True


def _unapproved(rollout: Rollout, eligible: int) -> str:
    """Why the set of now may not run without another word; "" when it may."""
    reasons = approval.needed(Plan.parse(rollout.plan), eligible)
    if not reasons or approval.live(rollout) is not None:
        return ""
    return f"it needs an approval ({'; '.join(reasons)})"
