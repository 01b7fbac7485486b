"""Who is in a rollout's frozen set, for those below who only know device ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import Case, CharField, QuerySet, Value, When
from django.db.models.functions import Cast, Concat

from ota.choices import Arm
from ota.models import Membership


def device_ids(rollout_id: str | None) -> QuerySet[Any, Any]:
    """Ids of the devices frozen into a rollout, wave or control; None: into any; not an id: of nobody."""
    rows = Membership.objects.exclude(arm=Arm.SKIPPED).order_by()
    if rollout_id is not None:
        try:
            rows = rows.filter(rollout=UUID(rollout_id))
        except ValueError:
            rows = rows.filter(pk__lt=0)
    return rows.values("device_id")


def arms(rollout_ids: Sequence[UUID]) -> QuerySet[Any, Any]:
    """Rows of (device_id, of_rollout, of_arm) of the devices frozen into these rollouts.

    of_arm: `control`, or `wave-<n>` of the wave that a device was drawn for.
    """
    wave = Concat(Value("wave-"), Cast("wave", CharField()))
    arm = Case(When(arm=Arm.CONTROL, then=Value("control")), default=wave, output_field=CharField())
    return (
        Membership.objects.filter(rollout__in=rollout_ids)
        .exclude(arm=Arm.SKIPPED)
        .order_by()
        .values("device_id", of_rollout=Cast("rollout_id", CharField()), of_arm=arm)
    )
