"""How much of what devices sent has arrived, as an API answer."""

from datetime import timedelta
from typing import Any

import pytest

from fleet.telemetry import gaps, ingest
from fleet.telemetry.gap_models import Gap
from fleet.telemetry.ingest import Delivery
from tests.alerts.planting import plant_devices
from tests.api.conftest import Caller, clock
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db
LATER = timedelta(minutes=2)
A, B = "host-a-000", "host-a-001"


@pytest.fixture
def told(db: None) -> None:
    """One lacks 3 of 13 records, the other none of 4 any more; gaps are open, lost and repaired."""
    now = clock() - LATER
    plant_devices(2, now)
    old = {"version": "1.0.0", "mid": "11" * 8}
    new = {"version": "2.0.0", "mid": "22" * 8}
    start = now - timedelta(hours=1)
    batches = [(A, 2, old), (A, 6, old), (B, 2, new)]
    for name, first, run in batches:
        n = 4 if name == A else 2
        ingest.store([Delivery(name, make_batch(start, n, first=first, **run))], slot=0, now=now)
    gaps.run(now + LATER, installation_id=bytes(16))
    assert Gap.objects.count() == 2
    ingest.store([Delivery(B, make_batch(start, 2, first=0, **new))], slot=0, now=now + LATER)
    ingest.store([Delivery(A, make_batch(start, 2, first=11, **old))], slot=0, now=now)
    gaps.run(now + 2 * LATER, installation_id=bytes(16))


def read(call: Caller, **asked: Any) -> Any:
    return call("GET", "/telemetry/coverage?" + "&".join(f"{name}={value}" for name, value in asked.items()))


def test_records_are_expected_received_open_lost_and_repaired(call: Caller, told: None) -> None:
    Gap.objects.filter(device_id=A, first=10).update(state="lost", cause="ring_full")
    answer = read(call)
    assert answer.status_code == 200, answer.json()
    body = answer.json()
    a = {"boots": 1, "expected": 13, "received": 10, "open": 2, "lost": 1, "repaired": 0, "missing": 3}
    b = {"boots": 1, "expected": 4, "received": 4, "open": 0, "lost": 0, "repaired": 2, "missing": 0}
    assert body["items"] == [{"device_id": A} | a, {"device_id": B} | b]
    assert body["total"] == {name: a[name] + b[name] for name in a}
    assert (body["by"], body["gaps"]) == ("device", 2)
    assert read(call, limit=1).json()["items"] == body["items"][:1]
    assert read(call, limit=1).json()["total"] == body["total"]


def test_by_version_it_is_the_run_of_the_newest_window(call: Caller, told: None) -> None:
    items = read(call, by="version").json()["items"]
    assert [(one["version"], one["expected"], one["missing"]) for one in items] == [
        ("1.0.0", 13, 3),
        ("2.0.0", 4, 0),
    ]
    assert "device_id" not in items[0]
    only = read(call, by="version", where="version==2.0.0").json()
    assert (len(only["items"]), only["total"]["expected"], only["gaps"]) == (1, 4, 0)


def test_a_range_in_which_nobody_was_heard_is_empty(call: Caller, told: None) -> None:
    body = read(call, **{"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"}).json()
    assert (body["items"], body["total"]["expected"], body["gaps"]) == ([], 0, 0)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"by": "colour"}, "group_by_not_supported"),
        ({"limit": 501}, "limit"),
        ({"limit": 0}, "limit"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "range_invalid"),
        ({"from": "2026-01-01T00:00:00"}, "range_invalid"),
        ({"from": "2020-01-01T00:00:00Z"}, "range_too_wide"),
        ({"where": "version=="}, "query_syntax"),
    ],
)
def test_bad_input_has_its_code(call: Caller, asked: dict[str, Any], code: str) -> None:
    answer = read(call, **asked)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
