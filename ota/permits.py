"""What every verb of a rollout begins with: the row as it is now, or a refusal that says what is allowed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fleet.accounts.audit import Actor
from ota.choices import RolloutState
from ota.models import Rollout
from ota.transitions import IllegalTransition, move_rollout
from ota.verbs import verbs


def permitted(rollout: Rollout, verb: str) -> Rollout:
    """The rollout as it is now. Raises IllegalTransition when its state does not allow the verb."""
    fresh = Rollout.objects.select_related("manifest__version").get(pk=rollout.pk)
    if verb not in verbs(fresh):
        raise IllegalTransition(fresh.state, verbs(fresh), asked=verb)
    return fresh


def refused(rollout: Rollout, verb: str) -> IllegalTransition:
    """What to raise when somebody else was faster: the state of now with what it allows."""
    fresh = Rollout.objects.get(pk=rollout.pk)
    return IllegalTransition(fresh.state, verbs(fresh), asked=verb)


def move(
    rollout: Rollout,
    verb: str,
    to: RolloutState,
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
    **fields: Any,
) -> None:
    """Make the move that a verb means. Raises IllegalTransition when somebody else moved it meanwhile."""
    if not move_rollout(rollout, to, actor=actor, now=now, reason=reason, **fields):
        raise refused(rollout, verb)


def do(
    rollout: Rollout,
    verb: str,
    to: RolloutState,
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
    **fields: Any,
) -> Rollout:
    """`permitted` and `move` in one; returns the row as it is then."""
    fresh = permitted(rollout, verb)
    move(fresh, verb, to, actor=actor, now=now, reason=reason, **fields)
    return fresh


def refreshed(rollout: Rollout) -> Rollout:
    """The same object, read again."""
    rollout.refresh_from_db()
    return rollout
