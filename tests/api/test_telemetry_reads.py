"""Fixed telemetry reads are the same functions under a name of their own."""

from datetime import timedelta
from typing import Any

import pytest

from fleet.telemetry import ingest
from fleet.telemetry.ingest import Delivery
from tests.api.conftest import Caller, clock
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db
MIDS = {"1": "11" * 8, "2": "22" * 8}


@pytest.fixture
def told(db: None) -> dict[str, str]:
    """Windows and sketches of two versions within the last hours; the range that holds them."""
    now = clock()
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    for i, (version, mid) in enumerate(MIDS.items()):
        of = {"mid": mid, "version": version}
        for n in range(3):
            windows = make_batch(start + timedelta(minutes=n), 3, first=10 * n, lab_ok=8 - i, anom_n=i, **of)
            ingest.store([Delivery(f"dev-{i}{n}", windows)], slot=0, now=now)
        slow = {6: [3_100, 0, 190 + 50 * i, 10]}
        ingest.store([Delivery(f"dev-{i}0", sketch_batch(start, slow, first=99, **of))], slot=0, now=now)
    return {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{start + timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"}


def read(call: Caller, path: str, **asked: Any) -> Any:
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    return call("GET", f"/telemetry/{path}?{query}")


def values(answer: Any, label: str = "version") -> dict[str, list[Any]]:
    assert answer.status_code == 200, answer.json()
    return {one["labels"][label]: [p[1] for p in one["points"]] for one in answer.json()["series"]}


def test_accuracy_is_of_one_kind_and_by_version(call: Caller, told: dict[str, str]) -> None:
    proxy = read(call, "accuracy", kind="proxy", **told)
    assert values(proxy) == {"1": [0.8, None], "2": [0.7, None]}
    assert {proxy.json()[name] for name in ("source", "kind", "agg")} == {"hour", "proxy", "mean"}
    assert {"step", "as_of", "gaps"} <= proxy.json().keys()
    assert values(read(call, "accuracy", kind="golden", **told)) == {"1": [1.0, None], "2": [1.0, None]}
    devices = read(call, "accuracy", kind="proxy", agg="device_mean", where="version==2", **told)
    (one,) = devices.json()["series"]
    assert (one["labels"], one["points"][0][4]) == ({"model": "activity", "version": "2"}, 3)


def test_latency_has_a_series_for_each_percentile(call: Caller, told: dict[str, str]) -> None:
    found = read(call, "latency", q="50,99.9", group_by="version", **told)
    assert found.json()["agg"] == "p50,p99.9"
    assert {(one["labels"]["version"], one["labels"]["percentile"]) for one in found.json()["series"]} == {
        (version, name) for version in MIDS for name in ("p50", "p99.9")
    }
    by_version = values(found)
    assert by_version["1"][0] < 1500 < by_version["2"][0]


def test_the_most_anomalous_devices_come_first(call: Caller, told: dict[str, str]) -> None:
    found = read(call, "anomalies/top", limit=2, exact="true", **told).json()
    assert [one["device_id"] for one in found["items"]] == ["dev-10", "dev-11"]
    assert (found["source"], found["step"], found["gaps"]) == ("raw", None, 0)
    assert (found["items"][0]["anomalies"], found["items"][0]["inferences"]) == (3, 30)
    day = call("GET", "/telemetry/anomalies/top").json()
    assert (day["source"], day["step"]) == ("day", 86_400)
    assert {one["device_id"] for one in day["items"]} == {"dev-10", "dev-11", "dev-12"}


def test_drift_tells_its_state_and_each_window(call: Caller, told: dict[str, str]) -> None:
    found = read(call, "drift", where="version==2", **told)
    assert found.status_code == 200, found.json()
    assert {(one["labels"]["version"], one["statistic"], one["state"]) for one in found.json()["series"]} == {
        ("2", name, "no_reference") for name in ("class", "distance", "confidence")
    }
    assert {point[3] for one in found.json()["series"] for point in one["points"]} == {10}


@pytest.mark.parametrize(
    ("path", "asked", "status", "code"),
    [
        ("accuracy", {}, 400, "kind_required"),
        ("accuracy", {"kind": "guess"}, 400, "unknown_kind"),
        ("accuracy", {"kind": "proxy", "group_by": "moon"}, 400, "group_by_not_supported"),
        ("accuracy", {"kind": "proxy", "where": "model=="}, 400, "query_syntax"),
        ("accuracy", {"kind": "proxy", "from": "soon"}, 422, "validation"),
        ("accuracy", {"kind": "proxy", "from": "0.5"}, 422, "validation"),
        ("accuracy", {"kind": "proxy", "wher": "version==1"}, 422, "validation"),
        ("coverage", {"to": "1700000000"}, 422, "validation"),
        ("anomalies/top", {"until": "2026-01-01T00:00:00Z"}, 422, "validation"),
        ("latency", {"q": "0"}, 400, "quantile_range"),
        ("latency", {"q": "100"}, 400, "quantile_range"),
        ("latency", {"q": "fast"}, 400, "quantile_range"),
        ("latency", {"q": ""}, 400, "quantile_range"),
        ("latency", {"q": "1,2,3,4,5,6"}, 400, "quantile_range"),
        ("latency", {"step": 1800}, 400, "step_not_supported"),
        ("drift", {"step": 1800}, 400, "step_not_supported"),
        ("drift", {"where": "tag==line-2"}, 400, "group_by_not_supported"),
        ("drift", {"from": "2026-01-01T05:30:00Z"}, 400, "range_invalid"),
        ("anomalies/top", {"limit": 501}, 400, "limit"),
        ("anomalies/top", {"limit": "many"}, 400, "limit"),
        ("anomalies/top", {"from": "2026-01-01T05:00:00Z"}, 400, "range_invalid"),
        ("anomalies/top", {"exact": "true", "from": "2020-01-01T05:00:00Z"}, 400, "range_too_wide"),
    ],
)
def test_a_read_that_cannot_be_answered_is_refused(
    call: Caller, told: dict[str, str], path: str, asked: dict[str, Any], status: int, code: str
) -> None:
    given = {} if path.startswith("anomalies") else told
    answer = read(call, path, **{**given, **asked})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.json()
