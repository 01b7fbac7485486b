"""Who is in a rollout's frozen set, for those below who only know device ids."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet

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
