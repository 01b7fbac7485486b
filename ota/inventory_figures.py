"""What devices report of the models they run: how many run one, and how much arena it really took."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import Count, Max, Min, Q

from fleet.devices.models import DeviceSlot


@dataclass(frozen=True)
class ClassRuns:
    """One model run on the devices of one class. devices: that run it now, retired ones left out.

    measured: of these, devices that told an arena; least_bytes, most_bytes: what they told, None when none.
    is_simulated: virtual devices, whose arena is no ESP32's.
    """

    device_class: str
    is_simulated: bool
    devices: int
    measured: int
    least_bytes: int | None
    most_bytes: int | None


def runs_by_class(id16s: Collection[str]) -> dict[str, list[ClassRuns]]:
    """By id16 (32 hex digits): the classes whose devices run it, by name; a run without devices is absent.

    One query. A device that runs it in two slots counts once in `devices`.
    """
    rows = DeviceSlot.objects.filter(run__in=list(id16s), device__retired_at=None).order_by()
    told = Q(arena_used__gt=0)
    found: dict[str, list[ClassRuns]] = defaultdict(list)
    for row in (
        rows.values("run", "device__device_class_id", "device__device_class__chip")
        .annotate(
            devices=Count("device_id", distinct=True),
            measured=Count("device_id", distinct=True, filter=told),
            least=Min("arena_used", filter=told),
            most=Max("arena_used", filter=told),
        )
        .order_by("device__device_class_id")
    ):
        found[row["run"]].append(
            ClassRuns(
                device_class=row["device__device_class_id"],
                is_simulated=row["device__device_class__chip"] == "host",
                devices=row["devices"],
                measured=row["measured"],
                least_bytes=row["least"],
                most_bytes=row["most"],
            )
        )
    return dict(found)
