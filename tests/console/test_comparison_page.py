"""Versions side by side: the page, and the same answer over REST."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from fleet.telemetry import ingest
from fleet.telemetry.ingest import Delivery
from ota.errors import RegistryError
from ota.models import ModelVersion
from ota.version_comparison import compare_versions
from tests.api.conftest import Caller
from tests.console import rows
from tests.telemetry.batches import make_batch

AsRole = Callable[[str], Client]
PAIR = "/models/activity/compare?versions=1.0.0,2.0.0"


def test_columns_are_told_against_the_first_version(filled: rows.Filled, present: datetime) -> None:
    runs = filled.manifests["2.0.0"]
    for number in range(3):
        batch = make_batch(present - timedelta(minutes=5), 2, mid=runs.mid, version="2.0.0", boot=9)
        ingest.store([Delivery(f"dev-{number:03d}", batch)], slot=0, now=present)
    found = compare_versions("activity", ["1.0.0", "2.0.0", "3.1.0"], now=present)
    assert [one.version for one in found.versions] == ["1.0.0", "2.0.0", "3.1.0"]
    sizes = [(rows.MODELS / f"activity-{name}.tflite").stat().st_size for name in ("v1", "v2", "large")]
    assert [one.size for one in found.versions] == sizes
    two = found.versions[1]
    assert (two.devices, [one.device_class for one in two.on_devices]) == (50, ["host-a", "host-b"])
    assert {one.most_bytes for one in two.on_devices} == {20_480}
    assert two.field is not None
    assert (two.field.accuracy["proxy"].value, two.field.accuracy["proxy"].n_devices) == (
        pytest.approx(0.8),
        3,
    )
    assert two.evaluated is not None
    assert two.evaluated.lower < two.evaluated.ratio < two.evaluated.upper
    assert found.versions[0].field is not None
    assert found.versions[0].field.accuracy == {}
    assert [row.name for row in found.classes] == sorted(row.name for row in found.classes)
    assert all(len(row.cells) == 3 for row in found.classes)


def test_operators_and_contract_name_what_changed(filled: rows.Filled, present: datetime) -> None:
    row = ModelVersion.objects.get(version="2.0.0")
    inspection: Any = row.inspection
    inspection["operators"] = [
        {"name": "SVDF", "builtin": 27, "custom": None, "count": 2, "macs": 5},
        *inspection["operators"][1:],
    ]
    inspection["inputs"][0]["shape"] = [1, 50, 6]
    inspection["outputs"].append(inspection["outputs"][0])
    row.save(update_fields=["inspection"])
    found = compare_versions("activity", ["1.0.0", "2.0.0"], now=present)
    changes = {one.name: one.change for one in found.operators}
    assert changes["SVDF"] == "added"
    assert list(changes.values()).count("removed") == 1
    first = found.contract[0]
    assert (first.side, first.position, first.what) == ("input", 0, "shape")
    assert found.contract[-1].was == "none"


def test_a_version_that_was_never_inspected_has_no_operators_to_compare(
    filled: rows.Filled, present: datetime
) -> None:
    found = compare_versions("activity", ["1.0.0", "0.9.0"], now=present)
    assert found.left_out == ("0.9.0",)
    assert found.contract == ()
    assert {one.change for one in found.operators} == {""}


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["1.0.0"], "validation"),
        (["1.0.0"] * 2, "validation"),
        (["0.9.0", "1.0.0", "2.0.0", "3.0.0", "3.1.0"], "validation"),
        (["1.0.0", "9.9.9"], "not_found"),
    ],
)
def test_what_cannot_be_compared_has_its_code(
    filled: rows.Filled, present: datetime, names: list[str], code: str
) -> None:
    with pytest.raises(RegistryError) as refused:
        compare_versions("activity", names, now=present)
    assert refused.value.code == code


def test_the_page_shows_every_part_and_says_it_in_a_sentence(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    answer = client.get(PAIR)
    html = answer.content.decode()
    assert answer.status_code == 200
    for part in ("costs", "accuracy", "field", "operators", "classes", "choose"):
        assert f'data-test="{part}"' in html
    assert "2.0.0 against 1.0.0:" in html
    assert "Golden vectors" in html
    assert "Delayed labels" in html
    repeated = client.get("/models/activity/compare?versions=1.0.0&versions=2.0.0")
    assert repeated.content.decode().count("2.0.0 against 1.0.0:") == 1


def test_the_page_asks_which_ones_and_says_what_is_wrong(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    asking = client.get("/models/activity/compare")
    assert asking.status_code == 200
    assert 'type="checkbox" name="versions" value="1.0.0"' in asking.content.decode()
    assert client.get("/models/activity/compare?versions=1.0.0,9.9.9").status_code == 404
    five = client.get("/models/activity/compare?versions=0.9.0,1.0.0,2.0.0,3.0.0,3.1.0")
    assert five.status_code == 422
    assert 'data-test="error"' in five.content.decode()
    assert client.get("/models/none/compare").status_code == 404
    evil = client.get("/models/activity/compare?versions=1.0.0,<script>").content.decode()
    assert "<script>" not in evil.split("<main")[1]


def test_rest_answers_with_the_same_figures(
    client: Client, make_user: Callable[..., Any], filled: rows.Filled, present: datetime
) -> None:
    call = Caller(client, make_user, "admin")
    answer = call("GET", PAIR)
    assert answer.status_code == 200, answer.json()
    told = answer.json()
    found = compare_versions("activity", ["1.0.0", "2.0.0"], now=present)
    assert [one["size"] for one in told["versions"]] == [one.size for one in found.versions]
    assert [one["devices"] for one in told["versions"]] == [one.devices for one in found.versions]
    assert [one["name"] for one in told["operators"]] == [one.name for one in found.operators]
    assert (told["from"], told["to"]) == (f"{found.start:%FT%T}.000Z", f"{found.end:%FT%T}.000Z")
    missing = call("GET", "/models/activity/compare?versions=1.0.0,9.9.9")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    one = call("GET", "/models/activity/compare?versions=1.0.0")
    assert (one.status_code, one.json()["code"]) == (422, "validation")
    assert call("GET", "/models/activity/compare?version=1.0.0").json()["code"] == "validation"
