"""Late labels over REST: bad ones are refused by index, the others stored, once per Idempotency-Key."""

from datetime import timedelta
from typing import Any

import pytest

from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry.models import Label
from tests.api.conftest import Caller, clock

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def device(db: None) -> None:
    classes.ensure_default_classes(clock())
    Device.objects.create(id="dev-1", device_class_id="host-a", enrolled_at=clock())


def item(**given: Any) -> dict[str, Any]:
    return {"sample_id": "dev-1:1:7", "label": 2, "source": "person", "at": clock().isoformat()} | given


def test_good_labels_are_stored_and_bad_ones_refused_by_index(call: Caller) -> None:
    old = (clock() - timedelta(days=40)).isoformat()
    sent = [
        item(), item(label="two"), item(sample_id="dev-1:7"), item(label=256), item(moon=1),
        item(source="rumour"), item(sample_id="dev-1:1:8"), item(at=old), item(sample_id="gone:1:1"), 7,
    ]  # fmt: skip
    found = call("POST", "/telemetry/labels", {"labels": sent})
    assert found.status_code == 200, found.json()
    assert {name: found.json()[name] for name in ("new", "known", "counted", "pending")} == {
        "new": 2, "known": 0, "counted": 0, "pending": 2,
    }  # fmt: skip
    assert [(one["index"], one["code"]) for one in found.json()["refused"]] == [
        (1, "validation"), (2, "sample_invalid"), (3, "label_unknown"), (4, "validation"),
        (5, "source_unknown"),
        (7, "sample_expired"), (8, "unknown_device"), (9, "validation"),
    ]  # fmt: skip
    assert call("GET", "/telemetry/labels").json() == {"states": {"pending": 2}, "unmatched": []}


def test_a_repeated_request_gets_the_first_answer(call: Caller) -> None:
    body = {"labels": [item()]}
    first = call("POST", "/telemetry/labels", body, idempotency_key="k1")
    again = call("POST", "/telemetry/labels", body, idempotency_key="k1")
    assert (first.json(), again["Idempotent-Replayed"]) == (again.json(), "true")
    assert call("POST", "/telemetry/labels", body).json()["known"] == 1
    assert Label.objects.count() == 1


def test_ten_thousand_labels_are_the_most_and_none_are_too_few(call: Caller) -> None:
    many = [item(sample_id=f"dev-1:1:{k}", at=clock().isoformat()) for k in range(10_000)]
    assert call("POST", "/telemetry/labels", {"labels": many}).json()["new"] == 10_000
    answer = call("POST", "/telemetry/labels", {"labels": [*many, item()]})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    answer = call("POST", "/telemetry/labels", {"labels": []})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    answer = call("GET", "/telemetry/labels?limit=501")
    assert (answer.status_code, answer.json()["code"]) == (400, "limit")
