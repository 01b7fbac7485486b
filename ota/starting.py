"""The start of a rollout: what was previewed and approved is compared with the fleet of now, then frozen.

Used by the verb and by the tick that starts a scheduled rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from fleet.accounts.audit import Actor
from ota import approval, dry_runs, security
from ota.choices import RolloutState
from ota.errors import RolloutError
from ota.frozen import Frozen, difference, forget, freeze, make_waves
from ota.locks import lock
from ota.models import Rollout
from ota.plan import Plan
from ota.supersede import check_overlap, take_over
from ota.targeting import Member, members
from ota.transitions import move_rollout


def begin(rollout: Rollout, *, actor: Actor, now: datetime) -> str | None:
    """Freeze who is in which wave and let a ready rollout run; "" when it runs now.

    The memberships come first, in transactions of their own that nobody looks at yet, then one short
    transaction makes the waves and lets the rollout run: killed anywhere before it, the rollout has not
    started and is started anew. Of two callers one waits for the other, and then finds it running. Over REST
    all of it is part of the transaction that keeps the idempotency key: key and start commit together.

    A text says why it does not: the eligible set differs from the previewed one by more than 5 % or by a
    class, or it needs an approval that it does not have. It is a draft again then, and what was approved is
    void. None: the rollout was not as `rollout` shows it. Raises OverlapError when other rollouts hold every
    device, RevokedError when its manifest is trusted no more, PlanError when nobody is eligible any more or a
    query is none any more; then nothing changes.
    """
    with lock(f"ota.freeze {rollout.pk}"):
        if not Rollout.objects.filter(pk=rollout.pk, state=rollout.state, rev=rollout.rev).exists():
            return None
        everyone = list(members(rollout, now=now))
        changed = _changed(rollout, everyone)
        if changed:
            is_draft = back_to_draft(rollout, f"target_changed: {changed}", actor=actor, now=now)
            return changed if is_draft else None
        return "" if _run(rollout, freeze(rollout, everyone, now=now), actor=actor, now=now) else None


def _run(rollout: Rollout, frozen: Frozen, *, actor: Actor, now: datetime) -> bool:
    """Make the waves and let the rollout run, in one short transaction; False when it changed meanwhile."""
    summary = rollout.summary | frozen.summary
    with transaction.atomic():
        to = RolloutState.RUNNING
        is_running = move_rollout(rollout, to, actor=actor, now=now, started_at=now, summary=summary)
        if is_running:
            make_waves(rollout, frozen)
            take_over(rollout, actor=actor, now=now)
    if not is_running:  # edited or cancelled meanwhile
        forget(rollout)
    return is_running


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
    return difference(rollout, everyone) or _unapproved(rollout, eligible)


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
