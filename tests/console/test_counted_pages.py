"""Pages whose figures take long to count show those of a moment ago, and say so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.devices.models import Device
from tests.console import rows

pytestmark = pytest.mark.django_db(transaction=True)
AS_OF = re.compile(r'data-test="as-of">[^<]*\d\d:\d\d:\d\d UTC')


@pytest.fixture
def slow(settings: Any) -> Iterator[None]:
    """Everything takes long."""
    settings.SLOW_COUNT_S = 0
    yield
    caches["default"].clear()


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


def test_drift_says_of_when_it_is_and_is_not_summed_up_for_each_reader(
    filled: rows.Filled, as_role: Callable[[str], Client], slow: None
) -> None:
    client = as_role("viewer")
    first = client.get("/telemetry/drift").content.decode()
    shown = AS_OF.search(first)
    assert shown is not None
    with CaptureQueriesContext(connection) as seen:
        again = client.get("/telemetry/drift").content.decode()
    assert shown[0] in again
    assert not [one for one in seen if "tele_drift" in one["sql"]]


def test_an_empty_list_is_not_looked_for_twice(as_role: Callable[[str], Client], filled: rows.Filled) -> None:
    client = as_role("viewer")
    with CaptureQueriesContext(connection) as seen:
        html = client.get("/devices?find=nobody-at-all").content.decode()
    assert "No device fits this filter" in html
    listed = [one for one in seen if 'FROM "devices_device"' in one["sql"] and "LIMIT 51" in one["sql"]]
    assert listed == []


def test_a_comparison_of_versions_says_of_when_it_is_and_reads_devices_once(
    filled: rows.Filled, as_role: Callable[[str], Client], slow: None
) -> None:
    client, pair = as_role("viewer"), "/models/activity/compare?versions=1.0.0,2.0.0"
    shown = AS_OF.search(client.get(pair).content.decode())
    assert shown is not None
    with CaptureQueriesContext(connection) as seen:
        again = client.get(pair).content.decode()
    assert shown[0] in again
    assert not [one for one in seen if "tele_device_day" in one["sql"] or "devices_deviceslot" in one["sql"]]
