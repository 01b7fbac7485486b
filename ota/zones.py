"""Zones of devices: which of them have an open maintenance window now."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet
from django.db.models.fields.json import KT

from fleet.devices.models import Device
from ota import windows
from ota.models import Job, Membership, Wave
from ota.plan import Plan

MAX_ZONES = 600
"""Most zones that are told apart, rising by name: more than the IANA database has."""


def of_device(device: Device) -> str:
    """The zone a device says it is in; "" when it says none."""
    return str(device.attributes.get(windows.ATTRIBUTE, ""))


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
    return bool(open_zones(plan, _zones(devices.annotate(zone=KT("attributes__tz"))), now=now))


def within(jobs: QuerySet[Job], plan: Plan, *, now: datetime) -> QuerySet[Job]:
    """Those jobs whose device may be offered something now."""
    if not plan.windows:
        return jobs
    if not is_by_device(plan):
        return jobs if windows.is_open(plan.windows, now) else jobs.none()
    jobs = jobs.annotate(zone=KT("device__attributes__tz"))
    found = open_zones(plan, _zones(jobs), now=now)
    is_open = Q(zone__in=found - {""})
    return jobs.filter(is_open | Q(zone=None) if "" in found else is_open)


def opens_at(plan: Plan, *, now: datetime) -> datetime:
    """When a window of the plan is next open for some zone of the fleet; now when one is."""
    if not is_by_device(plan):
        return windows.opens_at(plan.windows, now)
    zones = _zones(Device.objects.filter(retired_at=None).annotate(zone=KT("attributes__tz"))) or [""]
    return min(windows.opens_at(plan.windows, now, zone or "UTC") for zone in zones)


def _zones(rows: Any) -> list[str]:
    """Zones of rows annotated with `zone`, "" for none."""
    names = rows.order_by("zone").values_list("zone", flat=True).distinct()[:MAX_ZONES]
    return sorted({name or "" for name in names})
