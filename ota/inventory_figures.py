"""What devices report of the models they run: how many run one, and how much arena it really took.

Slots are asked, and those of retired devices taken off: asked the other way round, as slots of devices that
are in service, each question reads and joins the whole fleet, for the sake of the few that are not.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import Count, Exists, Max, Min, OuterRef, Q, QuerySet

from fleet.devices.models import Device, DeviceClass, DeviceSlot


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


def devices_by_run(slots: QuerySet[DeviceSlot]) -> dict[str, int]:
    """Of some slots: how many devices in service run a thing, by its id16 (32 hex digits, "" is nothing).

    A device that runs it in two of them counts once. Two queries of the index of runs.
    """
    retired = slots.filter(device__in=Device.objects.filter(retired_at__isnull=False))
    everybody, gone = (
        dict(part.order_by().values_list("run").annotate(n=Count("device", filter=_is_first(slots))))
        for part in (slots, retired)
    )
    counts = {run: n - gone.get(run, 0) for run, n in everybody.items()}
    return {run: n for run, n in counts.items() if n}


def runs_by_class(id16s: Collection[str]) -> dict[str, list[ClassRuns]]:
    """By id16 (32 hex digits): the classes whose devices run it, by name; a run without devices is absent.

    Two queries. A device that runs it in two slots counts once in `devices`.
    """
    slots = DeviceSlot.objects.filter(run__in=list(id16s))
    rows = slots.filter(device__retired_at=None).order_by()
    told = Q(arena_used__gt=0)
    chips = dict(DeviceClass.objects.values_list("pk", "chip"))
    found: dict[str, list[ClassRuns]] = defaultdict(list)
    for row in (
        rows.values("run", "device__device_class_id")
        .annotate(
            devices=Count("device", filter=_is_first(slots)),
            measured=Count("device", filter=told & _is_first(slots.filter(told))),
            least=Min("arena_used", filter=told),
            most=Max("arena_used", filter=told),
        )
        .order_by("device__device_class_id")
    ):
        found[row["run"]].append(
            ClassRuns(
                device_class=row["device__device_class_id"],
                is_simulated=chips[row["device__device_class_id"]] == "host",
                devices=row["devices"],
                measured=row["measured"],
                least_bytes=row["least"],
                most_bytes=row["most"],
            )
        )
    return dict(found)


def _is_first(slots: QuerySet[DeviceSlot]) -> Q:
    """A slot of some before which none of its device runs the same: counting these counts devices, and sorts
    nobody. Only slots behind the first one are looked at for it.
    """
    before = slots.filter(device=OuterRef("device"), run=OuterRef("run"), slot__lt=OuterRef("slot"))
    return Q(slot=0) | ~Q(Exists(before))
