"""The start of a rollout: what was previewed and approved is compared with the fleet of now, then frozen.

Used by the verb and by the tick that starts a scheduled rollout.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from fleet.accounts.audit import Actor
from ota import approval
from ota.choices import RolloutState
from ota.frozen import difference, freeze
from ota.models import Rollout
from ota.plan import Plan
from ota.targeting import members
from ota.transitions import move_rollout


def begin(rollout: Rollout, *, actor: Actor, now: datetime) -> str | None:
    """Freeze who is in which wave and let a ready rollout run; "" when it runs now.

    A text says why it does not: the eligible set differs from the previewed one by more than 5 % or by a
    class, or it needs an approval that it does not have. It is a draft again then, and what was approved is
    void. None: the rollout was not as `rollout` shows it. Raises PlanError when nobody is eligible any more,
    or a query is none any more; then nothing changes.
    """
    with transaction.atomic():
        everyone = list(members(rollout, now=now))
        changed = difference(rollout, everyone) or _unapproved(rollout, sum(not one.skip for one in everyone))
        if changed:
            return (
                changed
                if back_to_draft(rollout, f"target_changed: {changed}", actor=actor, now=now)
                else None
            )
        # the move comes first: it locks the row, so that two starts cannot both freeze a set
        if not move_rollout(rollout, RolloutState.RUNNING, actor=actor, now=now, started_at=now):
            return None
        summary = freeze(rollout, everyone, now=now)
        Rollout.objects.filter(pk=rollout.pk).update(summary=rollout.summary | summary)
    return ""


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
