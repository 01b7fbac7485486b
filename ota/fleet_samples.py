"""The fleet counted each few minutes: nobody else keeps how many devices were online an hour ago."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Q

from fleet.devices.models import Device, DeviceSlot, Presence
from ota.choices import RolloutState
from ota.models import FleetSample, Manifest, Rollout
from ota.rollout_lists import MANIFEST_BYTES

EVERY: Final = timedelta(minutes=5)
KEPT: Final = timedelta(days=8)


def newest_completed() -> Manifest | None:
    """The newest manifest, by seq, whose rollout in slot 0 completed; with its version. None before one."""
    done = Rollout.objects.filter(state=RolloutState.COMPLETED, slot=0, finished_at__isnull=False)
    rows = done.select_related("manifest__version").defer("plan", "target", "summary", *MANIFEST_BYTES)
    row = rows.order_by("-manifest__seq", "-finished_at").first()
    return row.manifest if row else None


def sample(*, now: datetime) -> bool:
    """Count the fleet and forget what is older than KEPT. False when there is a sample of this time
    already.

    Safe to call twice and from two workers: the time of a sample is its key, rounded down to EVERY.
    """
    seconds = EVERY.total_seconds()
    at = datetime.fromtimestamp(now.timestamp() // seconds * seconds, tz=now.tzinfo)
    if FleetSample.objects.filter(pk=at).exists():
        return False
    counts = Device.objects.filter(retired_at=None).aggregate(
        devices=Count("pk"), online=Count("pk", filter=Q(presence=Presence.ONLINE))
    )
    newest = newest_completed()
    run = newest.id16 if newest else ""
    on_newest = DeviceSlot.objects.filter(run=run, slot=0, device__retired_at=None).count() if run else 0
    made = FleetSample.objects.bulk_create(
        [FleetSample(at=at, newest=run, on_newest=on_newest, **counts)], ignore_conflicts=True
    )
    FleetSample.objects.filter(at__lt=now - KEPT).delete()
    return bool(made)


def day_before(now: datetime) -> list[FleetSample]:
    """Samples of the last 24 hours, oldest first; at most 288."""
    return list(FleetSample.objects.filter(at__gt=now - timedelta(hours=24), at__lte=now))
