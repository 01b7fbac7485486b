"""Pages whose figures take long to count show those of a moment ago, and say so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.devices.models import Device
from tests.alerts.planting import plant_devices, plant_windows
from tests.console import rows

pytestmark = pytest.mark.django_db(transaction=True)
AS_OF = re.compile(r'data-test="as-of">[^<]*\d\d:\d\d:\d\d UTC')


@pytest.fixture
def slow(settings: Any) -> Iterator[None]:
    """Everything takes long."""
    settings.SLOW_COUNT_S = 0
    yield
    caches["default"].clear()


def shown(client: Client, path: str, *, reads: str) -> tuple[str, bool]:
    """A page, and whether a statement with the text `reads` was needed for it."""
    with CaptureQueriesContext(connection) as seen:
        html = client.get(path).content.decode()
    return html, any(reads in one["sql"] for one in seen)


def moment(html: str) -> str:
    found = AS_OF.search(html)
    assert found is not None, "it says of when it is"
    return found[0]


def online(html: str) -> str:
    found = re.search(r'data-test="figure-online".*?<span class="value">(.*?)</span>', html, re.S)
    assert found is not None
    return found[1]


def test_the_overview_says_of_when_its_counts_are_once_they_are_not_of_now(
    filled: rows.Filled, as_role: Callable[[str], Client], slow: None
) -> None:
    client = as_role("viewer")
    first = client.get("/").content.decode()
    assert not AS_OF.search(first), "they are of now"
    Device.objects.update(presence="offline")
    again = client.get("/").content.decode()
    assert online(again) == online(first)
    assert AS_OF.search(again)


def test_the_overview_of_a_small_fleet_is_of_now(
    filled: rows.Filled, as_role: Callable[[str], Client]
) -> None:
    client = as_role("viewer")
    first = client.get("/").content.decode()
    Device.objects.update(presence="offline")
    again = client.get("/").content.decode()
    assert online(again) != online(first)
    assert not AS_OF.search(again)


def test_the_list_of_rollouts_says_of_when_its_bars_are_once_they_are_not_of_now(
    filled: rows.Filled, as_role: Callable[[str], Client], slow: None
) -> None:
    client = as_role("viewer")
    first, is_read = shown(client, "/rollouts", reads='FROM "ota_job"')
    assert is_read
    assert not AS_OF.search(first)
    again, is_read_again = shown(client, "/rollouts", reads='FROM "ota_job"')
    assert not is_read_again
    assert moment(again)


@pytest.mark.parametrize(
    ("path", "reads"),
    [
        ("/telemetry/drift", "tele_drift"),
        ("/models/activity/compare?versions=1.0.0,2.0.0", "tele_device_day"),
        ("/models/activity/compare?versions=1.0.0,2.0.0", "devices_deviceslot"),
        ("/telemetry/anomalies", "tele_device_day w"),
    ],
)
def test_a_page_says_of_when_it_is_and_is_not_summed_up_for_each_reader(
    filled: rows.Filled,
    present: datetime,
    as_role: Callable[[str], Client],
    slow: None,
    path: str,
    reads: str,
) -> None:
    plant_windows(plant_devices(1, present), present, 3, n=100, anom_n=10)
    client = as_role("viewer")
    first, is_read = shown(client, path, reads=reads)
    assert is_read
    again, is_read_again = shown(client, path, reads=reads)
    assert not is_read_again
    assert moment(again) == moment(first)


def test_that_nothing_was_anomalous_is_said_with_its_time_too(
    filled: rows.Filled, as_role: Callable[[str], Client], slow: None
) -> None:
    client = as_role("viewer")
    first = client.get("/telemetry/anomalies").content.decode()
    again = client.get("/telemetry/anomalies").content.decode()
    assert "No anomaly since yesterday" in again
    assert moment(again) == moment(first)


def test_an_empty_list_is_not_looked_for_twice(as_role: Callable[[str], Client], filled: rows.Filled) -> None:
    client = as_role("viewer")
    with CaptureQueriesContext(connection) as seen:
        html = client.get("/devices?find=nobody-at-all").content.decode()
    assert "No device fits this filter" in html
    listed = [one for one in seen if 'FROM "devices_device"' in one["sql"] and "LIMIT 51" in one["sql"]]
    assert listed == []
