"""Zones of devices: which of them have an open maintenance window now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet, TextField, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce

from fleet.devices import time_zones
from fleet.devices.models import Device
from ota import windows
from ota.models import Job, Membership, Wave
from ota.plan import Plan

MAX_ZONES = 600
"""Most zones that are told apart, rising by name: more than the IANA database has."""


def of_device(device: Device) -> str:
    """The zone a device says it is in; "" when it says none."""
    return str(device.attributes.get(time_zones.ATTRIBUTE, ""))


def open_zones(plan: Plan, zones: list[str], *, now: datetime) -> set[str]:
    """Those zones (attribute values, "" = none) in which a window of the plan is open now."""
    return {zone for zone in zones if windows.is_open(plan.windows, now, zone or "UTC")}


def is_by_device(plan: Plan) -> bool:
    """True when the answer depends on the device's zone."""
    return any(window.tz == windows.DEVICE for window in plan.windows)


def is_open_somewhere(plan: Plan, *, now: datetime, wave: Wave | None = None) -> bool:
    """True when a window of the plan is open for some device: of a wave, or of the fleet."""
    if not is_by_device(plan):
        return windows.is_open(plan.windows, now)
    devices = Device.objects.filter(retired_at=None)
    if wave is not None:
        members = Membership.objects.filter(rollout_id=wave.rollout_id, wave=wave.n)
        devices = devices.filter(pk__in=members.values("device_id"))
    return bool(open_zones(plan, _zones(devices.annotate(zone=_zone_in("attributes"))), now=now))


@dataclass(frozen=True)
class Told:
    """What a device is told of its windows. config: key 6, see `windows.device_window`. last_close: end of
    the window after the present one.
    """

    config: tuple[int, int, int]
    last_close: datetime


def of_jobs(jobs: Sequence[Job], plan: Plan, *, now: datetime) -> dict[str, Told]:
    """What each job's device is told of the plan's windows; {} without windows."""
    if not plan.windows or not jobs:
        return {}
    ids = [job.device_id for job in jobs]
    devices = Device.objects.filter(pk__in=ids).annotate(zone=_zone_in("attributes"))
    zones = {pk: zone or "UTC" for pk, zone in devices.values_list("pk", "zone")}
    told = {
        zone: Told(
            windows.device_window(plan.windows, now, zone), windows.last_close(plan.windows, now, zone)
        )
        for zone in set(zones.values())
    }
    return {pk: told[zone] for pk, zone in zones.items()}


def within(jobs: QuerySet[Job], plan: Plan, *, now: datetime) -> QuerySet[Job]:
    """Those jobs whose device may be offered something now."""
    if not plan.windows:
        return jobs
    if not is_by_device(plan):
        return jobs if windows.is_open(plan.windows, now) else jobs.none()
    jobs = jobs.annotate(zone=_zone_in("device__attributes"))
    found = open_zones(plan, _zones(jobs), now=now)
    return jobs.filter(zone__in=found)


def by_zone(jobs: QuerySet[Job], plan: Plan) -> list[tuple[str, QuerySet[Job]]]:
    """The jobs by the zone that counts for their device; one part when the plan's windows are in fixed zones.

    A device that names no zone is in UTC.
    """
    if not is_by_device(plan):
        return [("UTC", jobs)]
    jobs = jobs.annotate(zone=_zone_in("device__attributes"))
    return [(zone or "UTC", jobs.filter(zone=zone)) for zone in _zones(jobs)]


def opens_at(plan: Plan, *, now: datetime) -> datetime:
    """When a window of the plan is next open for some zone of the fleet; now when one is."""
    if not is_by_device(plan):
        return windows.opens_at(plan.windows, now)
    zones = _zones(Device.objects.filter(retired_at=None).annotate(zone=_zone_in("attributes"))) or [""]
    return min(windows.opens_at(plan.windows, now, zone or "UTC") for zone in zones)


def _zone_in(attributes: str) -> Coalesce:
    """The zone that a device's attributes say, "" for none."""
    return Coalesce(KeyTextTransform(time_zones.ATTRIBUTE, attributes), Value(""), output_field=TextField())


def _zones(rows: Any) -> list[str]:
    """Zones of rows annotated with `zone`, "" for none."""
    return list(rows.order_by("zone").values_list("zone", flat=True).distinct()[:MAX_ZONES])
