"""Two rollouts that want the same devices' slot: the later one leaves them out, or ends the earlier one.

Superseding is fix-forward: the older rollout stops as an abort does (nothing new is offered, offers are
withdrawn, trials end), and what it had confirmed keeps running until the newer one offers its own. A rollout
that is taking a model back is never superseded: its devices still run what was found to be bad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Exists, OuterRef

from fleet.accounts.audit import Actor
from ota.choices import ROLLOUT_LIVE, RolloutState
from ota.models import Membership, Rollout
from ota.offers import withdraw
from ota.plan import PlanError
from ota.targeting import holding
from ota.transitions import BATCH, IllegalTransition, move_rollout

SUPERSEDABLE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED})
_TRIES = 3


class OverlapError(PlanError):
    """Other live rollouts of the slot hold every device that would be eligible (`overlap`).

    existing: {"rollout": id, "name", "state"} of the oldest of them.
    """

    def __init__(self, other: Rollout, count: int) -> None:
        fix = "wait for it, abort it, or let this plan supersede it"
        text = f"{other.name!r} ({other.state.replace('_', ' ')}) holds all {count} devices that are left"
        super().__init__("overlap", "target", text, fix)
        self.existing = {"rollout": str(other.pk), "name": other.name, "state": str(other.state)}


def check_overlap(rollout: Rollout, eligible: int, skipped: Iterable[str]) -> None:
    """Raise OverlapError when nobody is eligible and it is other rollouts that hold devices.

    skipped: why each device is left out, or a count by reason.
    """
    if eligible:
        return
    held = Counter(skipped)["other_rollout"]
    if not held:
        return
    live = Rollout.objects.filter(slot=rollout.slot, state__in=ROLLOUT_LIVE).exclude(pk=rollout.pk)
    other = live.order_by("created_at").first()
    if other is not None:
        raise OverlapError(other, held)


def in_the_way(rollout: Rollout, device_ids: Iterable[str]) -> list[tuple[Rollout, int]]:
    """Live rollouts of the slot that hold some of these devices and can be superseded, oldest first, and how
    many of them each holds; none unless the plan says `supersede`.
    """
    if not rollout.plan.get("supersede"):
        return []
    live = Membership.objects.filter(
        wave__gt=0, rollout__slot=rollout.slot, rollout__state__in=SUPERSEDABLE
    ).exclude(rollout_id=rollout.pk)
    counts: Counter[UUID] = Counter()
    ids = list(device_ids)
    for at in range(0, len(ids), BATCH):
        held = live.filter(device_id__in=ids[at : at + BATCH]).order_by().values_list("rollout_id")
        counts.update(dict(held.annotate(n=Count("pk"))))
    rows = Rollout.objects.filter(pk__in=counts).order_by("created_at")
    return [(row, counts[row.pk]) for row in rows]


def held_meanwhile(rollout: Rollout) -> int:
    """How many of the devices that a start has frozen another rollout holds by now, that it does not end."""
    rivals = holding(rollout)
    if not rivals:
        return 0
    others = Membership.objects.filter(device_id=OuterRef("device_id"), rollout_id__in=rivals, wave__gt=0)
    return Membership.objects.filter(Exists(others), rollout=rollout, wave__gt=0).count()


def take_over(rollout: Rollout, *, actor: Actor, now: datetime) -> list[Rollout]:
    """End the rollouts that hold devices of one that has just been frozen; returns them.

    Call it in the transaction of the start. Each goes to `aborting` and, once its trials have ended, to
    `superseded`; it names this one as its successor. Raises IllegalTransition when one kept changing.
    """
    ids = Membership.objects.filter(rollout=rollout, wave__gt=0).values_list("device_id", flat=True)
    ended = []
    for other, _ in in_the_way(rollout, ids):
        if _end(other, rollout, actor=actor, now=now):
            withdraw(other, actor=actor, now=now, reason="superseded")
            ended.append(other)
    return ended


def _end(other: Rollout, by: Rollout, *, actor: Actor, now: datetime) -> bool:
    """False when it ended by itself meanwhile."""
    for _ in range(_TRIES):
        if other.state not in SUPERSEDABLE:
            if other.state in ROLLOUT_LIVE - {RolloutState.ABORTING}:
                raise IllegalTransition(other.state, [], asked=f"superseding {other.name!r}")
            return False
        why = f"superseded by {by.name}"
        if move_rollout(other, RolloutState.ABORTING, actor=actor, now=now, reason=why, superseded_by=by):
            return True
        other.refresh_from_db()
    raise IllegalTransition(other.state, [], asked=f"superseding {other.name!r}")
