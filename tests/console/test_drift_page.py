"""The drift page: which version on which class, by which statistic, which devices, against what."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.test import Client

from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation, rules
from fleet.alerts.models import Alert
from fleet.telemetry.drift_models import DriftReference, WindowDrift
from fleet.telemetry.models import Version
from tests.alerts.planting import plant_devices, plant_drift
from tests.telemetry.batches import MID

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db
HERE = f"/telemetry/drift?mid={MID}&class=host-a"


def plant(present: datetime, *, faulty: int, devices: int = 30, has_reference: bool = True) -> list[str]:
    """Devices of which `faulty` drift, as ingest and judging leave them."""
    ids = plant_devices(devices, present)
    plant_drift(ids, present, worst=0.4)
    moved = WindowDrift.objects.filter(device_id__in=ids[:faulty], seq__lt=4)
    moved.update(worst=7.7, input=7.7, class_psi=3.2, class_limit=0.4, confidence=0.92)
    if has_reference:
        DriftReference.objects.create(
            version_id=Version.objects.get().pk, device_class="host-a", kind="peers", windows=150, devices=30,
            started_at=present - timedelta(days=1), ended_at=present, n=135_000, made_at=present,
            body={"confidence": 0.88, "moments": None, "classes": None, "distances": None},
        )  # fmt: skip
    return ids


def state(html: str) -> str:
    found = re.search(rf'data-part="{MID} host-a".*?data-state="([a-z_]+)"', html, re.S)
    assert found is not None
    return found[1]


def named(html: str) -> list[str]:
    return re.findall(r'data-device="([^"]+)"', html)


def test_a_tenth_that_drifts_is_named_with_its_statistics(as_role: AsRole, present: datetime) -> None:
    ids = plant(present, faulty=3)
    html = as_role("viewer").get(HERE).content.decode()
    assert state(html) == "drift"
    assert named(html)[:3] == ids[:3]
    assert len(named(html)) == 3 + 10, "and those nearest to a limit"
    assert "17 more not shown" in html
    for part in (
        "3 of 30 devices drift. Mean confidence rose meanwhile, from 88.0 % to 92.0 %",
        "150 sketches of 30 devices",
        "Devices are compared with each other",
        "channel 4, its mean",
        "<strong>7.7</strong>",
        "<strong>3.20</strong> of 0.40",
        "4 of 5",
    ):
        assert part in html, part
    assert html.count("drifts, first seen") == 3


@pytest.mark.parametrize(("faulty", "expected"), [(0, "quiet"), (1, "single"), (3, "drift")])
def test_one_broken_sensor_is_no_drift_of_the_version(
    faulty: int, expected: str, as_role: AsRole, present: datetime
) -> None:
    plant(present, faulty=faulty)
    assert state(as_role("viewer").get("/telemetry/drift").content.decode()) == expected


def test_without_a_reference_the_page_says_what_it_needs(as_role: AsRole, present: datetime) -> None:
    plant(present, faulty=0, has_reference=False)
    html = as_role("viewer").get(HERE).content.decode()
    assert state(html) == "no_reference"
    assert "40 sketches of at least 200 inferences, from 20 devices" in html


def test_old_sketches_are_too_little(as_role: AsRole, present: datetime) -> None:
    plant(present - timedelta(days=2), faulty=3)
    html = as_role("viewer").get(HERE).content.decode()
    assert state(html) == "insufficient"
    assert named(html) == []


def test_the_alert_leads_here_and_here_agrees_with_it(as_role: AsRole, present: datetime) -> None:
    plant(present, faulty=3)
    rules.create("drift", kind="drift", actor=SYSTEM, now=present)
    evaluation.run(present)
    alert = Alert.objects.get(device_id="")
    client = as_role("viewer")
    page = client.get(f"/alerts/{alert.pk}").content.decode()
    assert f'href="/telemetry/drift?mid={MID}&amp;class=host-a"' in page
    assert "Mean confidence rose meanwhile" in page
    assert "3 of 30 devices" in page
    assert 'data-test="drift-link"' in client.get("/telemetry").content.decode()


@pytest.mark.parametrize("where", ["?mid=ffff&class=host-a", "?class=%00<b>", f"?mid={MID}"])
def test_what_runs_nowhere_is_told(where: str, as_role: AsRole, present: datetime) -> None:
    plant(present, faulty=0)
    answer = as_role("viewer").get(f"/telemetry/drift{where}")
    assert answer.status_code == 200
    assert "Nothing runs there now" in answer.content.decode()


def test_an_empty_fleet_is_told_what_to_do(as_role: AsRole) -> None:
    html = as_role("viewer").get("/telemetry/drift").content.decode()
    assert "Nothing to compare yet" in html
    assert "sketch_s" in html
