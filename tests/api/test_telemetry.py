"""Telemetry queries over REST equal a plain recomputation, and every refusal has its code."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from fleet.telemetry import rows, statements, unproven
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import Calibration, Version
from tests.api.conftest import Caller, clock
from tests.ota.world import FIRST_PLAN, World
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db


@pytest.fixture
def told(world: World) -> World:
    """Four devices with two minutes of telemetry of two versions, from a full hour on."""
    world.now = world._telemetry_at = world.now.replace(minute=0, second=0, microsecond=0)
    devices = world.add(4)
    good, bad = world.manifest(accuracy=0.9), world.manifest(accuracy=0.4)
    world.running(good, devices[:2])
    world.running(bad, devices[2:])
    world.pass_time(120)
    return world


def question(world: World, **given: Any) -> dict[str, Any]:
    start = world.now - timedelta(seconds=120)
    asked = {"metric": "accuracy", "kind": "proxy", "from": stamp(start), "to": stamp(start, 180), "step": 60}
    return {name: value for name, value in (asked | given).items() if value is not None}


def test_accuracy_by_model_run_is_the_mean_over_devices(call: Caller, told: World) -> None:
    answer = call("POST", "/telemetry:query", question(told, group_by=["digest"]))
    assert answer.status_code == 200, answer.json()
    found = answer.json()
    assert (found["metric"], found["kind"], found["agg"], found["unit"]) == (
        "accuracy", "proxy", "device_mean", "ratio",
    )  # fmt: skip
    wanted = recomputed()
    assert len(found["series"]) == 2
    points = [
        (one["labels"]["digest"], *point) for one in found["series"] for point in one["points"] if point[5]
    ]
    assert {(mid, t) for mid, t, *_ in points} == {(mid, t) for mid, t, _ in wanted}
    for mid, t, value, lower, upper, n_devices, n in points:
        counts = [count for (run, minute, _), count in wanted.items() if (run, minute) == (mid, t)]
        assert (n_devices, n) == (len(counts), sum(labels for _, labels in counts))
        assert value == pytest.approx(sum(ok / labels for ok, labels in counts) / len(counts))
        assert lower <= value <= upper
    means = {mid: value for mid, _, value, *_ in points}
    assert sorted(means.values()) == pytest.approx([0.4, 0.9], abs=0.2)


def recomputed() -> dict[tuple[str, str, str], tuple[int, int]]:
    """(mid, minute, device) -> right labels and labels, from the raw windows, in plain Python."""
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT v.mid, w.ts, w.device_id, w.lab_ok, w.lab_n"
            " FROM tele_window w JOIN tele_version v ON v.id = w.version_id"
        )
        for mid, at, device, ok, n in cursor.fetchall():
            key = (mid, stamp(at.replace(second=0)), device)
            before = sums.get(key, (0, 0))
            sums[key] = (before[0] + ok, before[1] + n)
    return sums


def test_an_estimate_says_what_it_rests_on_or_why_it_is_none(call: Caller, told: World) -> None:
    asked = question(told, kind="estimate", agg="mean", group_by=["digest"])
    found = call("POST", "/telemetry:query", asked).json()
    assert found["calibrations"] == []
    assert {one["reason"] for one in found["series"]} == {"uncalibrated"}
    assert {p[1] for one in found["series"] for p in one["points"]} == {None}
    assert all(any(p[5] for p in one["points"]) for one in found["series"])
    run = Version.objects.earliest("pk")
    some: dict[str, Any] = {"started_at": told.now, "ended_at": told.now, "tried_at": told.now}
    Calibration.objects.create(
        version_id=run.pk, device_class="host-a", kind="delayed", n=200, devices=8, slope=1,
        made_at=told.now, **some,
    )  # fmt: skip
    found = call("POST", "/telemetry:query", asked).json()
    assert {one["labels"]["digest"] == run.mid: one["reason"] for one in found["series"]} == {
        True: "drift_unknown", False: "uncalibrated",
    }  # fmt: skip
    (line,) = found["calibrations"]
    assert (line["digest"], line["kind"], line["labels"], line["made_at"]) == (
        run.mid, "delayed", 200, stamp(told.now),
    )  # fmt: skip
    assert "reason" not in call("POST", "/telemetry:query", question(told)).json()["series"][0]


def test_windows_without_a_mac_are_counted_and_shown_when_asked_for(call: Caller, told: World) -> None:
    device, start = sorted(told.devices)[0], told.now - timedelta(hours=5)
    unproven.store([Delivery(device, make_batch(start, 3))], now=told.now)
    path = f"/devices/{device}/telemetry?from={stamp(start)}&to={stamp(told.now)}"
    plain = call("GET", path).json()
    assert (plain["excluded"], {item.get("is_authentic") for item in plain["items"]}) == (3, {None})
    both = call("GET", f"{path}&include_unauthenticated=true").json()
    assert (both["excluded"], len(both["items"])) == (0, len(plain["items"]) + 3)
    assert [item["is_authentic"] for item in both["items"][:4]] == [False] * 3 + [True]


def test_an_empty_bucket_is_null_never_zero(call: Caller, told: World) -> None:
    start = told.now + timedelta(hours=-2)
    body = question(told, **{"from": stamp(start), "to": stamp(start, 7260)}, group_by=["model"])
    (one,) = call("POST", "/telemetry:query", body).json()["series"]
    empty = [point for point in one["points"] if point[5] == 0]
    assert empty
    assert all(point[1:4] == [None, None, None] for point in empty)
    assert len(one["points"]) == 121


def test_filters_groups_and_other_metrics(call: Caller, told: World) -> None:
    body = question(told, group_by=["device"], filters={"devices": ["dev-001", "dev-003"]})
    series_found = call("POST", "/telemetry:query", body).json()["series"]
    assert [one["labels"]["device"] for one in series_found] == ["dev-001", "dev-003"]
    for metric, agg, value in (("inferences", "sum", 1920), ("latency_us", "max", 2500)):
        body = question(told, metric=metric, kind=None, agg=agg, step=3600, to=stamp(told.now, 3600))
        (one,) = call("POST", "/telemetry:query", body).json()["series"]
        assert max(point[1] or 0 for point in one["points"]) == value, metric
    limited = question(told, group_by=["device"], filters={"devices": ["dev-001", "dev-003"]}, limit=1)
    found = call("POST", "/telemetry:query", limited).json()
    assert (len(found["series"]), found["series_left_off"]) == (1, 1)


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"metric": "happiness", "kind": None}, 400, "unknown_metric"),
        ({"kind": None}, 400, "kind_required"),
        ({"kind": "estimate", "agg": "count"}, 400, "agg_not_supported"),
        ({"kind": "guess"}, 400, "unknown_kind"),
        ({"metric": "latency_us", "kind": None, "agg": "median"}, 400, "agg_not_supported"),
        ({"metric": "latency_us", "kind": None, "agg": "p99"}, 400, "step_not_supported"),
        ({"metric": "latency_us", "kind": None, "agg": "p100", "step": 3600}, 400, "quantile_range"),
        ({"metric": "anomaly_rate", "kind": None, "agg": "p99", "step": 3600}, 400, "agg_not_supported"),
        ({"group_by": ["moon"]}, 400, "group_by_not_supported"),
        ({"group_by": ["device"]}, 400, "group_by_not_supported"),
        ({"group_by": ["model", "version", "digest", "device_class"]}, 400, "group_by_not_supported"),
        ({"step": 61}, 400, "step_not_supported"),
        ({"to": "2020-01-01T00:00:00Z"}, 400, "range_invalid"),
        ({"from": "2026-01-01T00:00:00"}, 400, "range_invalid"),
        ({"from": "2020-01-01T00:00:00Z"}, 400, "range_too_wide"),
        ({"from": -29, "step": 60}, 400, "too_many_points"),
        ({"from": -60, "step": 86_400}, 410, "raw_expired"),
        ({"step": 0}, 422, "validation"),
        ({"from": "yesterday"}, 422, "validation"),
        ({"metric": "x" * 33}, 422, "validation"),
        ({"filters": {"moons": ["x"]}}, 422, "validation"),
        ({"filters": {"devices": ["x"] * 201}}, 422, "validation"),
        ({"limit": 51}, 422, "validation"),
        ({"q": "x" * 2001}, 422, "validation"),
        ({"q": "model=="}, 400, "query_syntax"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(
    call: Caller, world: World, given: Any, status: int, code: str
) -> None:
    if isinstance(given.get("from"), int):
        given = given | {"from": stamp(clock() + timedelta(days=given["from"]))}
    answer = call("POST", "/telemetry:query", question(world, **given))
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.json()
    if code == "too_many_points":
        assert call("POST", "/telemetry:query", question(world, **given) | {
            "step": answer.json()["least_step_s"]
        }).status_code == 200  # fmt: skip


def test_what_is_no_longer_kept_raw_says_how_it_can_be_asked(call: Caller, world: World) -> None:
    start = clock() - timedelta(days=60)
    body = question(world, **{"from": stamp(start), "to": stamp(clock(), 60)}, step=86_400)
    answer = call("POST", "/telemetry:query", body)
    told = answer.json()
    assert (answer.status_code, told["code"], told["least_step_s"]) == (410, "raw_expired", 86_400)
    assert told["rollup"] == "/api/v1/telemetry:query"
    whole = body | {"from": stamp(start.replace(hour=0, minute=0, second=0))}
    found = call("POST", told["rollup"].removeprefix("/api/v1"), whole)
    assert (found.status_code, found.json()["source"], found.json()["series"]) == (200, "day", [])
    kept = call("POST", "/telemetry:query", body | {"from": told["available_from"]})
    assert (kept.status_code, kept.json()["series"]) == (200, [])


def test_a_query_that_takes_too_long_is_ended(
    call: Caller, told: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "statement", lambda *asked: ("SELECT pg_sleep(20)", {}))
    monkeypatch.setattr(rows, "TIMEOUT_S", 1)
    answer = call("POST", "/telemetry:query", question(told))
    assert (answer.status_code, answer.json()["code"]) == (503, "query_timeout")
    assert answer["Retry-After"]


def test_the_catalogue_names_what_can_be_asked(call: Caller) -> None:
    items = {item["name"]: item for item in call("GET", "/telemetry/metrics").json()["items"]}
    assert items["accuracy"]["kinds"] == ["golden", "delayed", "proxy", "estimate"]
    assert items["latency_us"]["unit"] == "µs"
    assert all(item["aggs"] for item in items.values())


def stamp(at: datetime, seconds: float = 0) -> str:
    return f"{at + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.000}Z"


def test_a_query_narrows_to_the_devices_of_a_rollout(call: Caller, told: World) -> None:
    first = sorted(told.devices)[0]
    rollout = told.started(told.manifest(accuracy=0.8), FIRST_PLAN, devices=[first])
    for q, devices in (("", 4), (f"rollout=={rollout.id}", 1), (f"rollout!={rollout.id}", 0)):
        answer = call("POST", "/telemetry:query", question(told, q=q))
        assert answer.status_code == 200, answer.json()
        points = [point for one in answer.json()["series"] for point in one["points"]]
        assert max((point[4] for point in points), default=0) == devices


def test_a_wrong_query_gets_its_position(call: Caller, told: World) -> None:
    answer = call("POST", "/telemetry:query", question(told, q="modle==activity"))
    assert (answer.status_code, answer.json()["code"]) == (400, "query_unknown_field")
    assert "model" in answer.text
