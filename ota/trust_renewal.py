"""Documents of an older trust document get a counter of the newest: a device that holds it takes no others.

A device that has not got the new trust document yet refuses them and judges them again when it comes, so the
order in which the two arrive does not matter.
"""

from __future__ import annotations

from datetime import datetime

from ota import delivery
from ota.desired import last_counter
from ota.models import DesiredState, Trust
from ota.transitions import BATCH


def renew(*, now: datetime, limit: int = BATCH) -> int:
    """Write up to `limit` documents anew whose counter is of an older trust version; returns how many.

    Safe to repeat: a document is written once for each trust version. Devices that report a counter which
    even this version cannot pass are left out.
    """
    version = Trust.objects.order_by("-version").values_list("version", flat=True).first()
    if version is None:
        return 0
    old = DesiredState.objects.filter(
        counter__gt=0,
        counter__lte=last_counter(version - 1),
        device__retired_at=None,
        device__desired_counter__lt=last_counter(version),
    )
    names = list(old.order_by("device_id").values_list("device_id", flat=True)[:limit])
    return len(delivery.write(dict.fromkeys(names, _as_it_is), now=now)) if names else 0


def _as_it_is(row: DesiredState) -> None:
    """An edit that changes nothing but counter and expiry."""
