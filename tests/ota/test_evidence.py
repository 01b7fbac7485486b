"""Evidence: pairs enter once and stay as they were, verdicts recompute, restarts begin anew."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from fleet.telemetry.models import Window
from ota import evidence, rollouts
from ota.baselines import history
from ota.models import Evidence, Manifest, Membership, Rollout
from ota.plan import Plan
from tests.ota.world import GATED_PLAN, SECOND, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


def prepared(world: World, accuracy: float, **change: Any) -> Rollout:
    """Forty devices with ten minutes of history, and a started rollout of a candidate of this accuracy."""
    world.add(40)
    world.running(world.manifest())
    world.pass_time(600)
    return world.started(world.manifest(accuracy=accuracy), GATED_PLAN | change)


def rows_of(rollout: Rollout, wave: int = 1) -> list[Evidence]:
    return list(Evidence.objects.filter(rollout=rollout, wave__n=wave).order_by("at", "id"))


def test_a_devices_own_history_is_frozen_at_the_start(world: World) -> None:
    rollout = prepared(world, 0.9)
    compared = Membership.objects.filter(rollout=rollout).exclude(wave=2, arm="wave")
    for member in compared:
        mean, n = member.baseline["accuracy:proxy"]
        assert n == 59 * 40  # the window that ends with the start belongs to neither
        assert 0.85 < mean < 0.95
    assert all(not m.baseline for m in Membership.objects.filter(rollout=rollout, wave=2, arm="wave"))
    assert set(rollout.summary["strata_means"]) == {"host-a/history"}


def test_each_row_repeats_the_pairs_before_it_unchanged(world: World) -> None:
    rollout = prepared(world, 0.9, min_reach=0.5, max_in_flight=4, min_pairs=12)
    seen: list[dict[str, Any]] = []
    world.run(rollout, until={"completed"})
    rows = rows_of(rollout)
    assert len(rows) > 2
    for row in rows:
        pairs = row.inputs["metrics"][0]["pairs"]
        assert pairs[: len(seen)] == seen
        assert [pair["t"] for pair in pairs] == list(range(1, len(pairs) + 1))
        assert [pair["at"] for pair in pairs] == sorted(pair["at"] for pair in pairs)
        assert evidence.recompute(row) == row.rows
        seen = pairs
    assert len({pair["wave"] for pair in seen}) == len({pair["control"] for pair in seen}) == len(seen)
    control = set(
        Membership.objects.filter(rollout=rollout, arm="control").values_list("device_id", flat=True)
    )
    assert {pair["control"] for pair in seen} <= control


def test_late_telemetry_does_not_change_a_pair(world: World) -> None:
    rollout = prepared(world, 0.9)
    while not rows_of(rollout):
        world.tick(rollout)
        world.step()
        world.pass_time(5)
    first = rows_of(rollout)[0].inputs["metrics"][0]["pairs"]
    assert first
    Window.objects.all().update(lab_ok=0)  # as if the windows had been others
    wave = rollout.waves.get(n=1)
    again = evidence.gather(wave, rollout, Plan.parse(rollout.plan), now=world.now)
    assert again["metrics"][0]["pairs"][: len(first)] == first


def test_changed_inputs_do_not_recompute_in_silence(world: World) -> None:
    rollout = prepared(world, 0.5)
    world.run(rollout, until={"rolled_back"})
    row = rollout.halted_on
    assert row is not None
    row.inputs["metrics"][0]["pairs"][0]["d"] = 0.0
    with pytest.raises(ValueError, match="digest"):
        evidence.recompute(row)


def test_going_on_after_a_halt_begins_new_processes_with_less_alpha(world: World) -> None:
    rollout = prepared(world, 0.5, on_fail="halt")
    world.run(rollout, until={"halted"})
    halted_on = rollout.halted_on
    assert halted_on is not None
    with pytest.raises(rollouts.RolloutError, match="validation"):
        rollouts.resume(rollout, actor=SECOND, now=world.now, ack_evidence=halted_on.pk)
    rollouts.resume(
        rollout, actor=SECOND, now=world.now, ack_evidence=str(halted_on.pk), reason="labels were off"
    )
    wave = rollout.waves.get(n=1)
    assert (wave.state, wave.restarts) == ("open", 1)
    inputs = evidence.gather(wave, rollout, Plan.parse(rollout.plan), now=world.now)
    metric = inputs["metrics"][0]
    assert metric["alpha"] == halted_on.inputs["metrics"][0]["alpha"] / 2
    assert metric["pairs"] == []
    spent = {pair["wave"] for pair in halted_on.inputs["metrics"][0]["pairs"]}
    assert spent == set(inputs["spent"])
    assert inputs["hard"]["exposed"] == 0


def test_an_override_is_in_red_for_good(world: World) -> None:
    rollout = prepared(world, 0.5, on_fail="halt")
    world.run(rollout, until={"halted"})
    row = rollout.halted_on
    assert row is not None
    assert "override" in rollouts.allowed(rollout)
    assert rollouts.allowed(rollout, "operator") == ["abort", "rollback"]
    assert rollouts.allowed(rollout, "viewer") == []
    rollouts.override(rollout, actor=SECOND, now=world.now, ack_evidence=row.pk, reason="we want this")
    assert rollout.state == "running"
    first = rollout.waves.get(n=1)
    assert (first.state, first.verdict) == ("overridden", "fail")
    world.run(rollout, until={"completed"})
    assert rollouts.state(rollout, now=world.now)["waves"][0]["tone"] == "bad"


def test_a_devices_too_short_history_takes_its_stratums_mean(world: World) -> None:
    rollout = prepared(world, 0.9)
    member = Membership.objects.filter(rollout=rollout, arm="wave", wave=1).first()
    assert member is not None
    plan = Plan.parse(rollout.plan)
    member.baseline = {"accuracy:proxy": [0.1, evidence.HISTORY_LEAST - 1]}
    mean = rollout.summary["strata_means"]["host-a/history"]["accuracy:proxy"]
    assert history(member, plan.metrics[0], rollout.summary) == (mean, 0)
    member.baseline = {"accuracy:proxy": [0.1, evidence.HISTORY_LEAST]}
    assert history(member, plan.metrics[0], rollout.summary) == (0.1, evidence.HISTORY_LEAST)


def test_reporting_is_a_metric_of_its_own(world: World) -> None:
    metrics = [
        {"metric": "accuracy", "kind": "proxy", "promote_margin": 0.1, "weight": 0.5},
        {"metric": "reporting", "promote_margin": 0.1, "weight": 0.5},
    ]
    rollout = prepared(world, 0.9, metrics=metrics)
    world.run(rollout, until={"completed"})
    inputs = rows_of(rollout)[-1].inputs
    reporting = inputs["metrics"][1]
    assert {pair["y1"] for pair in reporting["pairs"]} == {1.0}
    assert {pair["x1"] for pair in reporting["pairs"]} == {0.0}
    assert inputs["telemetry"] == {"exposed": 12, "silent": 0}
