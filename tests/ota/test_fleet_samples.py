"""The fleet counted each few minutes, and the curves that are drawn from it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.console import charts
from fleet.devices.models import Device
from ota import fleet_samples
from ota.models import FleetSample
from tests.console import rows

pytestmark = pytest.mark.django_db


def test_a_sample_counts_devices_in_service_once_a_slot(db: None) -> None:
    now = rows.present().replace(minute=12, second=3)
    filled = rows.fill(now, telemetry=False)
    Device.objects.filter(pk="dev-000").update(retired_at=now)
    assert fleet_samples.sample(now=now)
    assert not fleet_samples.sample(now=now + timedelta(seconds=100)), "the same five minutes"
    row = FleetSample.objects.get()
    assert row.at == now.replace(minute=10, second=0)
    online = Device.objects.filter(presence="online", retired_at=None).count()
    assert (row.devices, row.online, row.newest) == (79, online, filled.manifests["2.0.0"].id16)
    assert row.on_newest == 50, "dev-000 runs the version under way"
    assert fleet_samples.sample(now=now + timedelta(minutes=5))
    assert [one.at.minute for one in fleet_samples.day_before(now + timedelta(minutes=5))] == [10, 15]


def test_old_samples_are_forgotten_and_an_empty_fleet_has_some_too(now: datetime) -> None:
    for age in (timedelta(days=9), timedelta(days=7)):
        FleetSample.objects.create(at=now - age, devices=1, online=1)
    assert fleet_samples.sample(now=now)
    kept = FleetSample.objects.order_by("at")
    assert [now - row.at for row in kept] == [timedelta(days=7), timedelta(0)]
    assert (kept[1].devices, kept[1].newest, kept[1].on_newest) == (0, "", 0)


def test_a_curve_breaks_where_nobody_counted_and_says_its_ends(now: datetime) -> None:
    start = now - timedelta(hours=24)
    span: dict[str, Any] = {"start": start, "end": now, "unit": "ratio", "gap": timedelta(minutes=15)}
    minutes = [0, 5, 10, 60, 65]
    values = [(start + timedelta(minutes=m), m / 100) for m in minutes]
    found = charts.spark("Share online", values, **span)
    assert len(found.runs) == 2
    assert found.title == "Share online over 24 hours: least 0.0 %, most 65.0 %, now 65.0 %"
    assert charts.spark("Share online", [(now, None)], **span).runs == []
    assert charts.spark("Alerts", [(start, 0.0), (now, 0.0)], **{**span, "gap": timedelta(days=2)}).runs
