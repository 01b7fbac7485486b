"""The tail of a rollout: a wave behind the last one for devices that join the target after the start.

Only a plan with `late: tail` has one. It opens when the last wave has passed and stays open for `tail_days`;
hard gates stay armed all that time. A late device never enters an earlier wave: who was in it is frozen. What
is not eligible yet, quarantined say, is looked at again until the tail closes, and so is what the start left
out because the model did not fit it, because it was quarantined, or because another rollout held it: it comes
in by the same way once that is over. Who ran the model before the start stays out. The rollout holds its
devices' slot until then, as every live rollout does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from django.db.models import F

from fleet.accounts.audit import TICK
from fleet.accounts.models import AuditEvent
from ota.assignment import device_hash
from ota.choices import Arm
from ota.models import Membership, Rollout, Wave
from ota.plan import Plan
from ota.plan_parts import DAY_S
from ota.targeting import BATCH, TargetError, members

LOOK_EVERY: Final = timedelta(seconds=10)
_PLACE: Final = ("arm", "wave", "stratum", "rank", "baseline_run")
_AT_ONCE: Final = 500


def closes_at(wave: Wave, plan: Plan) -> datetime | None:
    """When an open tail takes in its last device; None before it opened."""
    return wave.opened_at + timedelta(seconds=plan.tail_days * DAY_S) if wave.opened_at else None


def is_over(wave: Wave, plan: Plan, *, now: datetime) -> bool:
    """True when the tail takes nobody in any more."""
    end = closes_at(wave, plan)
    return end is not None and now >= end


def join(wave: Wave, rollout: Rollout, plan: Plan, *, now: datetime) -> int:
    """Take up to BATCH devices into an open tail; returns how many. They joined the target since the start,
    or were left out then and are fit by now: that leaves an audit row each, for their frozen row changes.

    The fleet is looked at every LOOK_EVERY. A target that means nothing definite any more takes nobody in.
    """
    if is_over(wave, plan, now=now) or (wave.joined_at is not None and now < wave.joined_at + LOOK_EVERY):
        return 0
    salt = bytes(rollout.salt)
    try:
        eligible = (one for one in members(rollout, now=now, is_late=True) if not one.skip)
        found = list(islice(eligible, BATCH))
    except TargetError:
        found = []
    rows = [
        Membership(
            rollout=rollout,
            device_id=one.device_id,
            arm=Arm.WAVE,
            wave=wave.n,
            stratum=one.candidate.stratum,
            h=device_hash(salt, one.device_id),
            rank=wave.size + place,
            baseline_run=one.run,
        )
        for place, one in enumerate(found)
    ]
    left_out = _left_out(rollout, [row.device_id for row in rows])
    Membership.objects.bulk_create(row for row in rows if row.device_id not in left_out)
    _take_in([(left_out[row.device_id], row) for row in rows if row.device_id in left_out], now=now)
    Wave.objects.filter(pk=wave.pk).update(size=F("size") + len(rows), joined_at=now)
    wave.size, wave.joined_at = wave.size + len(rows), now
    return len(rows)


def _left_out(rollout: Rollout, device_ids: Sequence[str]) -> dict[str, Membership]:
    """Those of the devices that the start left out, with their rows."""
    rows = Membership.objects.filter(rollout=rollout, arm=Arm.SKIPPED, device_id__in=device_ids)
    return {row.device_id: row for row in rows}


def _take_in(pairs: Sequence[tuple[Membership, Membership]], *, now: datetime) -> None:
    """Give devices that were left out the place that the second row of each pair describes. What they were
    left out for stays readable.
    """
    for mine, place in pairs:
        for name in _PLACE:
            setattr(mine, name, getattr(place, name))
    Membership.objects.bulk_update((mine for mine, _ in pairs), _PLACE, batch_size=_AT_ONCE)
    AuditEvent.objects.bulk_create(
        AuditEvent(
            at=now,
            actor_kind=TICK.kind,
            actor=TICK.name,
            verb="rollout.take_in",
            subject_kind="rollout",
            subject_id=str(mine.rollout_id),
            before={"device": mine.device_id, "left_out": mine.skip_reason},
            after={"device": mine.device_id, "wave": mine.wave},
            reason="the device is eligible now",
        )
        for mine, _ in pairs
    )
