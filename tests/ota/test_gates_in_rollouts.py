"""Gates of whole rollouts: each metric halts what it is there for, and silence never passes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from fleet.devices.models import DeviceEvent
from ota import evidence, rollouts
from ota.hints import Hints
from ota.models import Evidence, Job, Manifest, Membership, Rollout
from ota.plan import Plan
from ota.signed_hints import latency_budget_us, signed_hints
from tests.ota.world import ACTOR, GATED_PLAN, World

pytestmark = pytest.mark.django_db
LATENCY = [
    {"metric": "accuracy", "kind": "proxy", "promote_margin": 0.1, "weight": 0.5},
    {"metric": "latency", "promote_margin": 0.1, "weight": 0.5},
]


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    made = World(now, make_manifest)
    made.add(40)
    return made


def started(world: World, candidate: Manifest, **change: Any) -> Rollout:
    """A rollout over devices with ten minutes of history."""
    world.running(world.manifest())
    world.pass_time(600)
    return world.started(candidate, GATED_PLAN | change)


def last(rollout: Rollout) -> Evidence:
    found = Evidence.objects.filter(rollout=rollout, wave__n=1).order_by("-at", "-id").first()
    assert found is not None
    return found


def test_a_slower_model_fails_its_signed_latency_budget(world: World) -> None:
    slow = world.manifest(us_mean=3_000, hints=Hints(latency_budget_us=2_000))
    assert latency_budget_us(None, slow.message) == 2_000
    rollout = started(world, slow, metrics=LATENCY)
    world.run(rollout, until={"rolled_back"})
    row = rollout.halted_on
    assert row is not None
    assert evidence.recheck(row).is_same
    assert rollout.waves.get(n=1).reasons == ["quality:latency"]
    text = next(one["text"] for one in row.rows if one["rule"] == "quality:latency")
    assert "100.0 points worse than control" in text


def test_a_latency_gate_without_a_budget_fails_preflight(world: World) -> None:
    world.running(world.manifest())
    draft = world.create(world.manifest(), GATED_PLAN | {"metrics": LATENCY})
    (reason,) = rollouts.preview(draft, now=world.now)["reasons"]
    assert (reason["code"], reason["field"]) == ("validation", "metrics[1].metric")
    budget = GATED_PLAN | {"metrics": LATENCY, "latency_budget_us": 2_000}
    assert rollouts.preview(world.create(world.manifest(), budget), now=world.now)["reasons"] == []


def test_a_model_that_crashes_now_and_then_fails_by_resets(world: World) -> None:
    metrics = [
        {"metric": "accuracy", "kind": "proxy", "promote_margin": 0.1, "weight": 0.5},
        {"metric": "resets", "promote_margin": 0.1, "weight": 0.5},
    ]
    rollout = started(world, world.manifest(), metrics=metrics)
    for _ in range(200):
        if world.tick(rollout).state != "running":
            break
        for _ in range(3):
            world.step()
        world.pass_time(5)
        for job in Job.objects.filter(rollout=rollout, state="confirmed"):
            DeviceEvent.objects.create(
                device_id=job.device_id, at=world.now, kind="boot", code="watchdog", text="boot"
            )
    assert rollout.waves.get(n=1).reasons == ["quality:resets"]


def test_devices_that_go_silent_on_the_candidate_fail_it(world: World) -> None:
    rollout = started(world, world.manifest())
    members = Membership.objects.filter(rollout=rollout, wave=1, arm="wave")
    world.silent |= set(members.values_list("device_id", flat=True))
    world.run(rollout, until={"halted", "rolling_back", "rolled_back"})
    assert rollout.waves.get(n=1).reasons == ["missing_telemetry"]
    accuracy = next(row for row in last(rollout).inputs["metrics"] if row["metric"] == "accuracy")
    assert accuracy["pairs"] == []
    assert accuracy["silent"] == len(accuracy["dropped"]) > 0


def test_a_metric_that_means_something_else_is_not_compared(world: World) -> None:
    metrics = [{"metric": "anomaly", "promote_margin": 0.1}]
    candidate = world.manifest(hints=Hints(head=1, anomaly=(3, 150)))
    assert signed_hints(candidate.message)["anomaly"] == (3, 150)
    rollout = started(world, candidate, metrics=metrics, on_inconclusive="manual")
    for _ in range(40):
        world.tick(rollout)
        for _ in range(3):
            world.step()
        world.pass_time(5)
    row = last(rollout)
    anomaly = row.inputs["metrics"][0]
    assert (anomaly["pairs"], anomaly["unlike"]) == ([], 12)
    assert row.verdict == "inconclusive"
    assert "not_comparable" in rollout.waves.get(n=1).reasons
    told = rollouts.state(rollout, now=world.now)["sentence"]
    assert "candidate and baseline define the metric differently" in told


def test_by_class_each_class_has_its_own_process_and_budget(world: World) -> None:
    world.add(40, "host-b", "bev")
    world.running(world.manifest(("host-a", "host-b")))
    world.pass_time(600)
    waves = [{"count": 24}, {"percent": 100}]
    plan = GATED_PLAN | {"waves": waves, "control": {"count": 24}, "by_class": True}
    rollout = world.started(world.manifest(("host-a", "host-b")), plan)
    world.run(rollout, until={"completed"})
    rows = last(rollout).inputs["metrics"]
    assert [(row["metric"], row["class"]) for row in rows] == [
        ("accuracy", "host-a"), ("accuracy", "host-b"), ("reporting", "host-a"), ("reporting", "host-b"),
    ]  # fmt: skip
    assert sum(row["alpha"] for row in rows) == pytest.approx(0.025)
    for row in rows:
        assert {pair["wave"][:3] for pair in row["pairs"]} == {"dev" if row["class"] == "host-a" else "bev"}
    few = GATED_PLAN | {"by_class": True}
    (reason,) = rollouts.preview(world.create(world.manifest(("host-a", "host-b")), few), now=world.now)[
        "reasons"
    ]
    assert reason["code"] == "gate_unreachable"
    assert "6 pairs of class host-a" in reason["text"]


def test_a_wave_too_small_for_its_proof_is_refused_with_the_least_size(world: World) -> None:
    world.running(world.manifest())
    draft = world.create(world.manifest(), GATED_PLAN | {"r_prove": 0.1})
    (reason,) = rollouts.preview(draft, now=world.now)["reasons"]
    assert (reason["code"], reason["field"]) == ("gate_unreachable", "r_prove")
    assert "29" in reason["text"]
    failed = rollouts.run_preflight(draft, actor=ACTOR, now=world.now)
    assert failed.state == "preflight_failed"


def test_a_first_wave_proves_what_it_must_before_it_passes(world: World) -> None:
    plan = {"waves": [{"count": 30}, {"percent": 100}], "soak_s": 0, "max_in_flight": 500, "r_prove": 0.1}
    rollout = world.started(world.manifest(), plan)
    world.run(rollout, until={"completed"})
    row = last(rollout)
    assert row.inputs["prove"] == {"ratio": 0.1, "extensions": 0}
    proof = next(one for one in row.rows if one["rule"] == "proof:model")
    assert (proof["n"], proof["verdict"]) == (30, "pass")
    assert Plan.parse(rollout.plan).proves(1)
    assert not Plan.parse(rollout.plan).proves(2)
