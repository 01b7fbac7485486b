"""The maintenance window that a rollout tells devices, as configuration key 6 (SPEC.md section 6).

The server offers nothing outside a window; a device that got its offer late in one puts its trial off with
`maintenance_window` until the next. The device repeats one window every week in UTC, so it is told anew after
a clock change and for the next of several. A window that a person set for a device (`delivery.set_config`,
key 6) wins over the rollout's and is never touched here. The key is the device's, not a slot's: another
rollout on another slot of that device waits for the same window meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from django.db.models import Exists, OuterRef, Q

from ota import delivery, windows, zones
from ota.choices import JOB_TERMINAL, JOB_WITHDRAWABLE
from ota.models import DesiredState, Job, Rollout
from ota.offers import install_jobs
from ota.plan import Plan
from ota.reports import WITHDRAWN

BATCH: Final = 500


def tell(told: Mapping[str, Sequence[int] | None], *, now: datetime) -> dict[str, int]:
    """Device -> window it is told from now on, None for none. Returns and raises as `delivery.write`."""

    def editor(window: Sequence[int] | None) -> delivery.Edit:
        def edit(row: DesiredState) -> None:
            row.window = None if window is None else list(window)

        return edit

    return delivery.write({name: editor(window) for name, window in told.items()}, now=now)


def renew(rollout: Rollout, plan: Plan, *, now: datetime) -> int:
    """Tell devices that wait for their trial the window that counts for them now, where they were told
    another one. Returns how many documents changed, at most BATCH.
    """
    if not plan.windows:
        return 0
    jobs = install_jobs(rollout).filter(state__in=JOB_WITHDRAWABLE).exclude(code=WITHDRAWN)
    late: dict[str, Sequence[int]] = {}
    for zone, devices in zones.by_zone(jobs, plan):
        wanted = list(windows.device_window(plan.windows, now, zone))
        rows = devices.exclude(device__desired__window=wanted).order_by("device_id")
        late |= dict.fromkeys(rows.values_list("device_id", flat=True)[: BATCH - len(late)], wanted)
    return len(tell(late, now=now)) if late else 0


def clear(*, now: datetime, limit: int = BATCH) -> int:
    """Take the window out of the documents of devices that no rollout with windows is changing any more: it
    must not hold back the next one. Returns how many.
    """
    live = Job.objects.filter(device_id=OuterRef("device_id"), kind="install").exclude(state__in=JOB_TERMINAL)
    has_windows = Q(rollout__plan__has_key="windows") & ~Q(rollout__plan__windows=[])
    rows = DesiredState.objects.filter(~Exists(live.filter(has_windows)), window__isnull=False)
    names = list(rows.order_by("device_id").values_list("device_id", flat=True)[:limit])
    return len(tell(dict.fromkeys(names, None), now=now)) if names else 0
