"""Who is there: what was heard of lately is online, what was silent for long is not.

Presence decides nothing; it is for people, and for timers that stand still while a device is away.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Q

from fleet import hints
from fleet.devices.models import Device, Presence

STALE_AFTER: Final = timedelta(minutes=15)
TOUCH_EVERY: Final = timedelta(seconds=10)


def touch(device_ids: Collection[str], now: datetime) -> int:
    """Note that these devices were heard of, at most once in TOUCH_EVERY each; returns how many rows changed.

    One that was set offline for its silence is online again. Rows that another transaction holds are left
    out: presence is not worth waiting for, and waiting could lock two gateways against each other.
    """
    due = Q(last_seen_at__isnull=True) | Q(last_seen_at__lt=now - TOUCH_EVERY)
    with transaction.atomic():
        ids = list(
            Device.objects.filter(due, pk__in=list(device_ids))
            .order_by("pk")
            .select_for_update(skip_locked=True)
            .values_list("pk", flat=True)
        )
        if not ids:
            return 0
        silent = Device.objects.filter(
            pk__in=ids, presence=Presence.OFFLINE, last_seen_at__lt=now - STALE_AFTER
        )
        silent.update(presence=Presence.ONLINE)
        return Device.objects.filter(pk__in=ids).update(last_seen_at=now)


def mark_stale(now: datetime) -> int:
    """Set devices offline that claim to be online and were not heard of for STALE_AFTER; returns how many.

    A broker that was killed sends no last wills, so `online` alone could stay true for ever. A row that a
    gateway holds is left out: its device is being heard of.
    """
    with transaction.atomic():
        silent = list(
            Device.objects.filter(presence=Presence.ONLINE, last_seen_at__lt=now - STALE_AFTER)
            .order_by("pk")
            .select_for_update(skip_locked=True)
            .values_list("pk", flat=True)
        )
        hints.changed(*map(hints.device, silent))
        return Device.objects.filter(pk__in=silent).update(presence=Presence.OFFLINE) if silent else 0
