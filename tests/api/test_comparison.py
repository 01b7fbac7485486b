"""Two cohorts compared, and a mix of classes, over REST."""

from datetime import timedelta
from typing import Any

import pytest

from fleet.telemetry import ingest
from fleet.telemetry.ingest import Delivery
from tests.api.conftest import Caller, clock
from tests.ota.world import GATED_PLAN, World
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db
RUNS = {"1": "11" * 8, "2": "22" * 8}


@pytest.fixture
def told(db: None) -> dict[str, str]:
    """Three devices a version, accuracies .8, .7, .6 and .5, .4, .3; the range that holds them."""
    start = clock().replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    for version, mid in RUNS.items():
        for n in range(3):
            ok = 8 - n - 3 * (version == "2")
            batch = make_batch(start, 3, lab_ok=ok, mid=mid, version=version)
            ingest.store([Delivery(f"dev-{version}{n}", batch)], slot=0, now=clock())
    return {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{start + timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"}


def read(call: Caller, **asked: Any) -> Any:
    return call("GET", "/telemetry/compare?" + "&".join(f"{name}={value}" for name, value in asked.items()))


def test_two_versions_side_by_side(call: Caller, told: dict[str, str]) -> None:
    asked = {"metric": "accuracy", "kind": "proxy", "a": "version==2", "b": "version==1"}
    answer = read(call, **asked, **told)
    assert answer.status_code == 200, answer.json()
    found = answer.json()
    assert (found["source"], found["agg"], found["gaps"], found["paired"]) == ("raw", "device_mean", 0, None)
    assert [found[arm]["value"] for arm in "ab"] == pytest.approx([0.4, 0.7])
    assert [(found[arm]["n_devices"], found[arm]["n"]) for arm in "ab"] == [(3, 90)] * 2
    # spread .1 each: half = t(4) * sqrt(2 * .01 / 3)
    assert [found["difference"][name] for name in ("value", "lower", "upper")] == pytest.approx(
        [-0.3, -0.3 - 0.22670, -0.3 + 0.22670], abs=1e-4
    )


def test_a_rollout_names_its_arms(call: Caller, world: World) -> None:
    world.running(world.manifest(), world.add(30))
    rollout = world.started(world.manifest(), GATED_PLAN)
    at = clock() - timedelta(minutes=10)
    sent = [Delivery(name, make_batch(at, 2, first=900, boot=7)) for name in world.devices]
    ingest.store(sent, slot=0, now=clock())
    asked = {"metric": "latency_us", "rollout": rollout.pk, "from": stamp(at), "to": stamp(clock())}
    found = read(call, **asked).json()
    assert (found["a"]["n_devices"], found["b"]["n_devices"]) == (18, 12)
    assert read(call, **asked | {"rollout": "moon"}).json()["code"] == "validation"
    body = {
        "metric": "inferences", "group_by": ["arm"], "filters": {"rollouts": [str(rollout.pk)]},
        "from": asked["from"], "to": asked["to"], "step": 60,
    }  # fmt: skip
    series = call("POST", "/telemetry:query", body).json()["series"]
    assert [one["labels"] for one in series] == [{"arm": "control"}, {"arm": "wave-1"}, {"arm": "wave-2"}]


def test_a_mix_has_a_series_for_each_class(call: Caller, told: dict[str, str]) -> None:
    start = clock().replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    keys = {2: 40, 3: [30, 0, 10], 4: [0] * 9 + [40], 6: [900, 0, 100, 40]}
    ingest.store([Delivery("dev-x", sketch_batch(start, keys))], slot=0, now=clock())
    body = {"metric": "class_mix", "group_by": ["version"], **told}
    found = call("POST", "/telemetry:query", body).json()
    shares = {one["labels"]["class"]: one["points"][0][1] for one in found["series"]}
    assert (shares, found["source"], found["agg"]) == ({"0": 0.75, "2": 0.25}, "hour", "mean")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"b": ""}, 400, "arms_required"),
        ({"metric": "speed"}, 400, "unknown_metric"),
        ({"metric": "inferences"}, 400, "agg_not_supported"),
        ({"a": "version=="}, 400, "query_syntax"),
        ({"from": "2020-01-01T00:00:00Z"}, 400, "range_too_wide"),
        ({"from": "soon"}, 422, "validation"),
    ],
)
def test_what_cannot_be_compared_has_its_code(
    call: Caller, told: dict[str, str], asked: Any, status: int, code: str
) -> None:
    given = {"metric": "latency_us", "a": "version==2", "b": "version==1", **told, **asked}
    answer = read(call, **given)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def stamp(at: Any) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
