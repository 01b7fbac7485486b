"""The telemetry explorer: the mix of classes, what is missing, and the call that gives the same."""

import html
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from fleet.telemetry import gaps, ingest, unproven
from fleet.telemetry.ingest import Delivery
from tests.alerts.planting import plant_devices
from tests.api.conftest import Caller
from tests.api.conftest import call as call
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db


@pytest.fixture
def told(db: None) -> None:
    """A sketch with 30 and 10 inferences of two classes, and windows with a gap between them."""
    now = timezone.now()
    start = now - timedelta(hours=2)
    keys = {2: 40, 3: [30, 0, 10], 4: [0] * 9 + [40], 6: [900, 0, 100, 40]}
    ingest.store([Delivery("dev-1", sketch_batch(start, keys, first=4))], slot=0, now=now)
    ingest.store([Delivery("dev-1", make_batch(start, 2))], slot=0, now=now)
    ingest.store([Delivery("dev-1", make_batch(start, 2, first=5))], slot=0, now=now)
    gaps.run(now + timedelta(minutes=2), installation_id=bytes(16))


def page(client: Any, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_the_mix_of_classes_has_a_line_for_each(as_role: Any, told: None) -> None:
    text = page(as_role("viewer"), "/telemetry?metric=class-mix&range=6h")
    assert "activity 1.0.0 class 0" in text
    assert "activity 1.0.0 class 2" in text
    assert "75.00" in text
    assert "Buckets of 1 h" in text


def test_it_says_that_records_are_missing(as_role: Any, told: None) -> None:
    client = as_role("viewer")
    assert "1 range of records that have not arrived touches this" in page(client, "/telemetry?range=6h")
    earlier = timezone.now() - timedelta(days=2)
    assert 'data-test="gaps"' not in page(client, f"/telemetry?range=6h&end={earlier:%Y-%m-%dT%H:%M}")


def test_an_estimate_that_cannot_be_given_says_why(as_role: Any, told: None) -> None:
    text = page(as_role("viewer"), "/telemetry?metric=accuracy-estimate&range=6h")
    assert 'data-test="reason-uncalibrated"' in text
    assert "too few labels in it" in text
    assert 'data-test="no-estimate"' in text
    assert "No telemetry in this range" not in text


def test_the_devices_page_shows_windows_without_a_mac_while_the_mode_is_on(
    as_role: Any, settings: Any
) -> None:
    now = timezone.now()
    (device,) = plant_devices(1, now)
    batch = make_batch(now - timedelta(minutes=1), 3, model="a-b", version="<b>1")
    unproven.store([Delivery(device, batch)], now=now)
    client = as_role("viewer")
    assert 'data-test="unproven"' not in page(client, f"/devices/{device}")
    settings.DEBUG_JSON = True
    text = page(client, f"/devices/{device}")
    assert 'data-test="unproven"' in text
    assert text.count('data-label="Top class"') == 3
    assert "a-b &lt;b&gt;1" in text


def test_the_call_that_it_shows_has_the_same_answer(as_role: Any, told: None, call: Caller) -> None:
    client = as_role("viewer")
    for metric in ("class-mix", "latency", "accuracy"):
        text = page(client, f"/telemetry?metric={metric}&range=6h")
        found = re.search(r'data-test="api-call">POST /api/v1(\S+)\n(.*?)</pre>', text, re.DOTALL)
        assert found is not None
        answer = call("POST", found[1], json.loads(html.unescape(found[2])))
        assert answer.status_code == 200, answer.json()
        newest = [point for one in answer.json()["series"] for point in one["points"] if point[5]]
        assert newest
        assert text.count('data-label="Samples"') == len(newest)
