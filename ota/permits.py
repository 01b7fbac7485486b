"""What every verb of a rollout begins with: the row as it is now, or a refusal that says what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from fleet.accounts.audit import Actor
from ota.choices import ROLLOUT_TERMINAL, RolloutState
from ota.errors import OtaError
from ota.models import Rollout
from ota.transitions import IllegalTransition, move_rollout
from ota.verbs import verbs

_IMMUTABLE = ("edit", "delete")


class StaleError(OtaError):
    """Somebody changed the rollout since the caller read it (`stale`). etag: its revision now."""

    def __init__(self, rev: int) -> None:
        super().__init__("stale", "this was changed since you read it")
        self.etag = f'"{rev}"'


class ImmutableError(OtaError):
    """A rollout that has started or ended is changed no more (`immutable`). state: where it is; allowed: what
    could be asked for instead.
    """

    def __init__(self, state: str, allowed: Iterable[str]) -> None:
        super().__init__("immutable", f"a rollout that is {state.replace('_', ' ')} is changed no more")
        self.state = str(state)
        self.allowed = sorted(allowed)


def permitted(rollout: Rollout, verb: str) -> Rollout:
    """The rollout as it is now.

    Raises StaleError when it is not at `rollout.expected_rev` any more (the conditional UPDATE that follows
    names the revision that was compared here, so nothing slips in between), ImmutableError when a verb that
    rewrites it comes after its start or end, IllegalTransition when its state does not allow the verb.
    """
    fresh = Rollout.objects.select_related("manifest__version").get(pk=rollout.pk)
    if rollout.expected_rev not in (None, fresh.rev):
        raise StaleError(fresh.rev)
    if verb in _IMMUTABLE and (fresh.started_at is not None or fresh.state in ROLLOUT_TERMINAL):
        raise ImmutableError(fresh.state, verbs(fresh))
    if verb == "delete" and fresh.state == RolloutState.DRAFT:
        return fresh
    if verb not in verbs(fresh):
        raise IllegalTransition(fresh.state, verbs(fresh), asked=verb)
    return fresh


def refused(rollout: Rollout, verb: str) -> OtaError:
    """What to raise when somebody else was faster: the state of now with what it allows."""
    fresh = Rollout.objects.get(pk=rollout.pk)
    if rollout.expected_rev not in (None, fresh.rev):
        return StaleError(fresh.rev)
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
