"""Assignment: a function of salt and frozen set; control is disjoint and everybody is placed once."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.assignment import Candidate, assign, device_hash, is_gated, largest_remainder, pair_up, sizes
from ota.choices import Arm
from ota.plan import Plan, PlanError

METRIC = {"metric": "accuracy", "kind": "proxy"}
PLAN = Plan.parse(
    {
        "waves": [{"count": 20}, {"percent": 50}, {"percent": 100}],
        "control": {"count": 20},
        "metrics": [METRIC],
        "accept_proxy": True,
    }
)


def fleet(**strata: int) -> list[Candidate]:
    return [Candidate(f"{name}-{i:04d}", name) for name, count in strata.items() for i in range(count)]


def test_the_demo_plan_falls_as_printed() -> None:
    rows = assign(fleet(a=40, b=20), PLAN, b"salt")
    counts = Counter((str(row.arm), row.wave) for row in rows)
    assert counts == {("control", 3): 20, ("wave", 1): 20, ("wave", 2): 10, ("wave", 3): 10}
    per_stratum = Counter((row.stratum, str(row.arm), row.wave) for row in rows)
    assert (per_stratum["a", "control", 3], per_stratum["b", "control", 3]) == (13, 7)
    assert (per_stratum["a", "wave", 1], per_stratum["b", "wave", 1]) == (14, 6)
    placed = sizes({"a": 40, "b": 20}, PLAN)
    assert (placed.control, placed.waves, placed.pairs) == (20, (20, 10, 30), (19, 10, 0))


def test_anyone_can_recompute_the_draw() -> None:
    assert device_hash(b"\x01" * 16, "dev-1") == hashlib.sha256(b"\x01" * 16 + b"\x00dev-1").hexdigest()[:16]
    rows = assign(fleet(a=30), PLAN, b"salt")
    ordered = sorted(rows, key=lambda row: (row.h, row.device_id))
    assert [row.rank for row in ordered] == list(range(30))
    assert [row.arm for row in ordered[:20]] == [Arm.CONTROL] * 20


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    counts = draw(st.lists(st.integers(1, 60), max_size=3, unique=True).map(sorted))
    waves: list[dict[str, float]] = [{"count": count} for count in counts]
    control = draw(st.integers(0, 10))
    return Plan.parse({"waves": [*waves, {"percent": 100}], "control": {"count": control}})


@given(
    plans(),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 25), min_size=1),
    st.sets(st.integers(0, 99), min_size=1, max_size=8),
    st.booleans(),
)
def test_named_devices_are_in_the_wave_that_names_them_and_never_control(
    plan: Plan, strata: dict[str, int], picked: set[int], is_first: bool
) -> None:
    candidates = fleet(**strata)
    names = sorted({candidates[n % len(candidates)].device_id for n in picked})
    waves = [wave.to_json() for wave in plan.waves[:-1] if (wave.count or 0) > len(names) + 1]
    waves.insert(0 if is_first else len(waves), {"named": [*names, "elsewhere"]})
    place = waves.index({"named": [*names, "elsewhere"]}) + 1
    control = plan.control.to_json()
    plan = Plan.parse({"waves": [*waves, {"percent": 100}], "control": control})
    drawn = len(candidates) - len(names)
    if plan.control.of(len(candidates)) and plan.control.of(len(candidates)) >= drawn:
        with pytest.raises(PlanError, match="none is left"):
            assign(candidates, plan, b"salt")
        return
    rows = assign(candidates, plan, b"salt")
    assert sorted(row.device_id for row in rows) == sorted(c.device_id for c in candidates)
    assert [row.device_id for row in rows if row.wave == place and row.device_id in names] == sorted(
        names, key=lambda name: (name[0], names.index(name))
    )
    assert not [row for row in rows if row.arm == Arm.CONTROL and row.device_id in names]
    assert {row.device_id for row in rows if row.wave == place} == set(names), "nobody else joins them"
    assert not is_gated(plan, place)
    rest = Counter(c.stratum for c in candidates if c.device_id not in names)
    placed = sizes(rest, plan, {place: len(names)})
    got = Counter(row.wave for row in rows)
    assert tuple(got[n] for n in range(1, len(plan.waves) + 1)) == placed.waves
    assert placed.control == sum(row.arm == Arm.CONTROL for row in rows)


@given(
    plans(), st.dictionaries(st.sampled_from("abcd"), st.integers(1, 25), min_size=1), st.binary(max_size=16)
)
def test_everybody_is_placed_once_and_control_waits(plan: Plan, strata: dict[str, int], salt: bytes) -> None:
    candidates = fleet(**strata)
    if len(plan.waves) > 1 and plan.control.of(len(candidates)) >= len(candidates):
        with pytest.raises(PlanError, match="none is left"):
            assign(candidates, plan, salt)
        return
    rows = assign(candidates, plan, salt)
    assert sorted(row.device_id for row in rows) == sorted(c.device_id for c in candidates)
    control = [row for row in rows if row.arm == Arm.CONTROL]
    assert len(control) == (plan.control.of(len(candidates)) if len(plan.waves) > 1 else 0)
    assert all(row.wave == len(plan.waves) for row in control)
    assert rows == assign(list(reversed(candidates)), plan, salt)
    placed = sizes(strata, plan)
    got = Counter(row.wave for row in rows)
    assert tuple(got[n] for n in range(1, len(plan.waves) + 1)) == placed.waves
    for name, count in strata.items():  # control takes its share of every stratum, to within one device
        share = sum(row.stratum == name for row in control)
        assert abs(share - len(control) * count / len(candidates)) < 1


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 50), min_size=1), st.floats(0, 1))
def test_largest_remainder_adds_up_and_never_exceeds(weights: dict[str, int], share: float) -> None:
    total = int(sum(weights.values()) * share)
    parts = largest_remainder(total, weights)
    assert sum(parts.values()) == total
    assert all(0 <= parts[name] <= weights[name] for name in weights)


def test_pairs_join_equal_ranks_of_a_stratum() -> None:
    pairs = pair_up({"a": ["w1", "w2", "w3"], "b": ["v1"]}, {"a": ["c1", "c2"], "b": ["d1", "d2"]})
    assert pairs == [("w1", "c1"), ("w2", "c2"), ("v1", "d1")]


def test_the_last_wave_has_hard_gates_only() -> None:
    assert [is_gated(PLAN, n) for n in (1, 2, 3)] == [True, True, False]
    ungated = Plan.parse({"waves": [{"count": 2}, {"percent": 100}]})
    assert not is_gated(ungated, 1)


def test_an_empty_target_and_a_control_of_everybody_are_refused() -> None:
    with pytest.raises(PlanError, match="empty_target"):
        assign([], PLAN, b"")
    with pytest.raises(PlanError, match="none is left"):
        assign(fleet(a=15), PLAN, b"")
