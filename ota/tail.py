"""The tail of a rollout: a wave behind the last one for devices that join the target after the start.

Only a plan with `late: tail` has one. It opens when the last wave has passed and stays open for `tail_days`;
hard gates stay armed all that time. A late device never enters an earlier wave: who was in it is frozen. What
is not eligible yet, quarantined say, is looked at again until the tail closes. The rollout holds its devices'
slot until then, as every live rollout does.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from django.db.models import F

from ota.assignment import device_hash
from ota.choices import Arm
from ota.models import Membership, Rollout, Wave
from ota.plan import Plan
from ota.plan_parts import DAY_S
from ota.targeting import BATCH, TargetError, members

LOOK_EVERY: Final = timedelta(seconds=10)


def closes_at(wave: Wave, plan: Plan) -> datetime | None:
    """When an open tail takes in its last device; None before it opened."""
    return wave.opened_at + timedelta(seconds=plan.tail_days * DAY_S) if wave.opened_at else None


def is_over(wave: Wave, plan: Plan, *, now: datetime) -> bool:
    """True when the tail takes nobody in any more."""
    end = closes_at(wave, plan)
    return end is not None and now >= end


def join(wave: Wave, rollout: Rollout, plan: Plan, *, now: datetime) -> int:
    """Take up to BATCH devices that joined the target since the start into an open tail; returns how many.

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
    Membership.objects.bulk_create(rows)
    Wave.objects.filter(pk=wave.pk).update(size=F("size") + len(rows), joined_at=now)
    wave.size, wave.joined_at = wave.size + len(rows), now
    return len(rows)
