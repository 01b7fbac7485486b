"""A plan made small and fast: what shrinks, what stays, and that every change is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.rehearsal.errors import RehearsalError
from fleet.rehearsal.scaling import CLOCKS, scale, shares
from ota.plan import Plan

CLASSES = {"esp32-4m": 8_000, "esp32c3-4m": 2_000}
METRIC = {"metric": "accuracy", "kind": "proxy", "promote_margin": 0.1, "halt_margin": 0.02}
GATED = {
    "waves": [{"count": 100}, {"percent": 20}, {"percent": 100}],
    "metrics": [METRIC],
    "accept_proxy": True,
    "r_max_model": 0.07,
    "on_fail": "halt",
}


def small(plan: dict[str, Any] | None = None, **options: Any) -> Any:
    given = {"devices": 60, "speed": 720.0, **options}
    return scale(Plan.parse(plan or GATED), CLASSES, **given)


def test_what_is_rehearsed_stays_as_it_is() -> None:
    made, real = Plan.parse(small().plan), Plan.parse(GATED)
    kept = (
        "metrics",
        "r_max_model",
        "r_max_delivery",
        "r_max_compat",
        "on_fail",
        "by_class",
        "max_in_flight",
    )
    for name in kept:
        assert getattr(made, name) == getattr(real, name), name


def test_clocks_run_faster_down_to_what_virtual_devices_need() -> None:
    made, real = small().plan, Plan.parse(GATED).to_json()
    assert made["window_s"] == real["window_s"] / 720
    assert made["settle_s"] == CLOCKS["settle_s"]
    for name, least in CLOCKS.items():
        assert made[name] == real[name] or made[name] >= least
    slow = small(speed=1.0).plan
    assert {name: slow[name] for name in CLOCKS} == {name: real[name] for name in CLOCKS}


def test_every_change_is_said() -> None:
    made, real = small(), Plan.parse(GATED).to_json()
    changed = {name for name in real if made.plan[name] != real[name]} - {"waves"}
    said = "\n".join(made.notes)
    for name in changed:
        assert f"{name}:" in said, name
    assert "wave 1:" in said
    assert "10,000 -> 60 virtual ones (48 esp32-4m, 12 esp32c3-4m)" in said


def test_cohorts_shrink_and_leave_the_gates_their_pairs() -> None:
    made = small().plan
    assert made["control"] == {"count": 20}
    assert made["waves"] == [{"count": 20}, {"count": 40}, {"percent": 100}]
    assert made["min_pairs"] == 20
    fewer = small(devices=20).plan
    assert (fewer["min_pairs"], fewer["control"], fewer["waves"][0]) == (8, {"count": 8}, {"count": 8})


def test_a_plan_without_gates_keeps_its_shares() -> None:
    plan = {"waves": [{"percent": 10}, {"percent": 50}, {"percent": 100}]}
    assert small(plan).plan["waves"] == [{"count": 6}, {"count": 30}, {"percent": 100}]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"devices": 1}, "validation"),
        ({"devices": 501}, "validation"),
        ({"speed": 0.5}, "validation"),
        ({"speed": 1e6}, "validation"),
        ({"devices": 9}, "too_small"),
    ],
)
def test_what_cannot_be_held_is_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(RehearsalError) as caught:
        small(**options)
    assert (caught.value.code, caught.value.is_usage) == (code, True)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 10**6), min_size=1, max_size=6),
    st.integers(6, 500),
)
def test_devices_are_divided_without_losing_one(classes: dict[str, int], devices: int) -> None:
    found = shares(classes, devices)
    assert sum(found.values()) == devices
    assert set(found) == set(classes)
    assert min(found.values()) >= 1


@settings(max_examples=30)
@given(st.integers(12, 500), st.floats(1, 100_000), st.integers(1, 60), st.integers(1, 99))
def test_a_small_plan_is_always_a_plan(devices: int, speed: float, percent: int, control: int) -> None:
    plan = {**GATED, "waves": [{"percent": percent}, {"percent": 100}], "control": {"percent": control}}
    made = scale(Plan.parse(plan), {"one": 5_000}, devices=devices, speed=speed)
    Plan.parse(made.plan)
    first = made.plan["waves"][0]["count"]
    assert first + made.plan["control"]["count"] <= devices
