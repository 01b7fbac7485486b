"""The anomaly grid: the worst devices first, hours as bars on one scale, and the call that gives the same."""

import html
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from fleet.console import heat
from fleet.console.heat import Hour
from tests.alerts.planting import plant_devices, plant_windows
from tests.api.conftest import Caller
from tests.api.conftest import call as call

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db


@pytest.fixture
def told(present: datetime) -> None:
    """Three devices with a hundred inferences a window: 40, 10 and no anomalies in the last hours."""
    ids = plant_devices(3, present)
    for one, anom_n in zip(ids, (10, 40, 0), strict=True):
        for back in (0, 2):
            plant_windows([one], present - timedelta(hours=back), 3, n=100, anom_n=anom_n)


def test_the_worst_device_comes_first_with_its_hours(as_role: AsRole, told: None, call: Caller) -> None:
    text = html.unescape(as_role("viewer").get("/telemetry/anomalies").content.decode())
    assert re.findall(r'class="main"><a href="/devices/([^"]+)"', text) == ["host-a-001", "host-a-000"]
    assert "host-a-001 stands out most: up to 40.0 %" in text
    assert 'aria-label="host-a-000: up to 10.0 %' in text
    assert "40.0 % of " in text
    found = re.search(r'data-test="api-call">POST /api/v1(\S+)\n(.*?)</pre>', text, re.DOTALL)
    assert found is not None
    answer = call("POST", found[1], json.loads(found[2]))
    assert answer.status_code == 200, answer.json()
    points = [p for one in answer.json()["series"] for p in one["points"] if p[5]]
    assert len(points) == text.count('data-label="Inferences"') >= 4


def test_a_query_narrows_it_and_a_wrong_one_shows_nothing(as_role: AsRole, told: None) -> None:
    client = as_role("viewer")
    assert "host-a-001" not in client.get("/telemetry/anomalies?q=id==host-a-000").content.decode()
    refused = client.get("/telemetry/anomalies?q=colour==red")
    assert refused.status_code == 422
    assert "query_unknown_field" in refused.content.decode()
    assert 'data-test="grid"' not in refused.content.decode()


def test_bars_share_a_scale_and_an_hour_without_inferences_is_no_zero(now: datetime) -> None:
    hours: list[list[tuple[float | None, int]]] = [[(0.4, 9), (None, 0)], [(0.1, 9), (0.0, 9)]]
    rows: list[Any] = [
        (name, [Hour(now + timedelta(hours=n), ratio, k) for n, (ratio, k) in enumerate(some)])
        for name, some in zip("ab", hours, strict=True)
    ]
    a, b = heat.strips(rows)
    assert len(a.cells) == 1, "the empty hour has no cell"
    assert [cell.height for cell in b.cells] == [pytest.approx(a.cells[0].height / 4, abs=0.01), 0.0]
    assert a.cells[0].height == heat.HEIGHT - 2
    assert heat.strips([("c", [])])[0].said == "no inference in this time"
