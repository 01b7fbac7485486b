"""Plans: defaults, refusals with code and field, and what a cohort can show."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.plan import Plan, PlanError, Size
from ota.planning import least_detectable

GATED: dict[str, Any] = {
    "waves": [{"count": 20}, {"percent": 50}, {"percent": 100}],
    "control": {"count": 20},
    "metrics": [{"metric": "accuracy", "kind": "proxy", "promote_margin": 0.1}],
    "accept_proxy": True,
    "min_pairs": 12,
    "settle_s": 5,
    "window_s": 60,
    "max_soak_s": 600,
    "soak_s": 60,
}


def test_what_is_left_out_gets_the_printed_default() -> None:
    plan = Plan.parse({"waves": [{"percent": 100}]})
    assert plan.to_json() == {
        "waves": [{"percent": 100.0}],
        "control": {"count": 0},
        "metrics": [],
        "max_in_flight": 20,
        "max_in_flight_later": 500,
        "min_reach": 0.95,
        "reach_deadline_s": 86_400,
        "soak_s": 1_800,
        "max_soak_s": 604_800,
        "offer_ttl_s": 86_400,
        "trial_deadline_s": 1_800,
        "rollback_deadline_s": 86_400,
        "min_pairs": 20,
        "settle_s": 600,
        "window_s": 21_600,
        "history_s": 604_800,
        "accept_proxy": False,
        "r_max_model": 0.1,
        "r_max_delivery": 0.2,
        "r_max_compat": 0.02,
        "r_prove": None,
        "latency_budget_us": None,
        "by_class": False,
        "max_attempts": 3,
        "retry_base_s": 300,
        "on_fail": "rollback",
        "on_inconclusive": "halt",
        "pair_sd": 0.045,
        "timers": {},
        "requires_approval": False,
        "start_at": None,
        "zone": "UTC",
        "windows": [],
        "late": "skip",
        "tail_days": 30,
        "offers_per_minute": 1_000,
        "rollback_to": "previous",
        "rollback_reason": "",
        "supersede": False,
    }
    assert Plan.parse(GATED | {"control": {"percent": 5}}).control == Size(percent=5.0)


def test_a_stored_plan_reads_back_unchanged() -> None:
    plan = Plan.parse(GATED | {"timers": {"downloading": 30}})
    assert Plan.parse(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"waves": []}, "validation", "waves"),
        ({"waves": [{"count": 5, "percent": 3}]}, "validation", "waves[0]"),
        ({"waves": [{"count": True}, {"percent": 100}]}, "validation", "waves[0].count"),
        ({"waves": [{"count": 0}, {"percent": 100}]}, "validation", "waves[0].count"),
        ({"waves": [{"percent": 10}, {"percent": 5}, {"percent": 100}]}, "validation", "waves[1].percent"),
        ({"waves": [{"count": 10}, {"percent": 80}]}, "validation", "waves"),
        ({"waves": [{"percent": 100}]}, "validation", "metrics"),
        ({"control": {"count": 0}}, "validation", "control"),
        ({"control": "five"}, "validation", "control"),
        ({"waves": [{"percent": 10}, {"named": ["a"]}]}, "validation", "waves"),
        ({"waves": [{"named": ["a"]}, {"percent": 100}]}, "validation", "metrics"),
        ({"waves": [{"named": []}, {"percent": 100}]}, "validation", "waves[0].named"),
        ({"waves": [{"named": ["a", "a"]}, {"percent": 100}]}, "validation", "waves[0].named"),
        ({"waves": [{"named": ["A b"]}, {"percent": 100}]}, "validation", "waves[0].named"),
        ({"waves": [{"named": ["a"], "count": 1}, {"percent": 100}]}, "validation", "waves[0].named"),
        (
            {"waves": [{"named": ["a"]}, {"count": 9}, {"named": ["a"]}, {"percent": 100}]},
            "validation",
            "waves[2].named",
        ),
        ({"waves": [{"named": ["a", "b"]}, {"count": 2}, {"percent": 100}]}, "validation", "waves[1].count"),
        (
            {"waves": [{"count": 9}, {"named": ["a"]}, {"count": 8}, {"percent": 100}]},
            "validation",
            "waves[2].count",
        ),
        ({"control": {"named": ["a"]}}, "validation", "control"),
        ({"metrics": [{"metric": "accuracy", "kind": "delayed"}]}, "validation", "metrics[0].kind"),
        ({"metrics": [{"metric": "happiness"}]}, "validation", "metrics[0].metric"),
        ({"metrics": [{"metric": "accuracy", "kind": "proxy", "weight": 0.4}]}, "alpha_split", "metrics"),
        ({"metrics": [{"metric": "accuracy", "weight": 0}]}, "alpha_split", "metrics[0].weight"),
        (
            {"metrics": [{"metric": "accuracy", "promote_margin": 0}]},
            "gate_unreachable",
            "metrics[0].promote_margin",
        ),
        (
            {"metrics": [{"metric": "accuracy", "promote_margin": 0.01, "halt_margin": 0.02}]},
            "validation",
            "metrics[0].halt_margin",
        ),
        ({"accept_proxy": False}, "validation", "accept_proxy"),
        ({"accept_proxy": "yes"}, "validation", "accept_proxy"),
        ({"min_pairs": 4}, "validation", "min_pairs"),
        ({"min_pairs": 12.5}, "validation", "min_pairs"),
        ({"min_reach": float("nan")}, "validation", "min_reach"),
        ({"max_soak_s": 10}, "validation", "max_soak_s"),
        ({"on_fail": "shrug"}, "validation", "on_fail"),
        ({"timers": {"lunch": 3}}, "validation", "timers"),
        ({"surprise": 1}, "validation", "surprise"),
    ],
)
def test_a_plan_that_contradicts_itself_names_the_field(
    change: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(PlanError) as refused:
        Plan.parse(GATED | change)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert refused.value.text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from([*GATED, "count", "percent", "named", "timers", "metric"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_plan_or_a_plan_error(data: Any) -> None:
    try:
        plan = Plan.parse(data)
    except PlanError:
        return
    assert Plan.parse(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("size", "total", "expected"),
    [
        (Size(count=20), 60, 20),
        (Size(count=90), 60, 60),
        (Size(percent=50.0), 61, 31),
        (Size(percent=100.0), 7, 7),
        (Size(percent=0.1), 100, 0),
    ],
)
def test_sizes_round_half_up_and_never_exceed(size: Size, total: int, expected: int) -> None:
    assert size.of(total) == expected


def test_the_false_halt_budget_is_never_overspent() -> None:
    plan = Plan.parse(
        GATED
        | {
            "metrics": [
                {"metric": "accuracy", "kind": "proxy", "weight": 0.5},
                {"metric": "anomaly", "weight": 0.5},
            ]
        }
    )
    for waves in (1, 2, 5):
        spent = sum(sum(plan.alphas(index, waves)) for index in range(waves))
        assert spent <= 0.05 + 1e-12
    assert plan.alphas(0, 2) == pytest.approx([0.01, 0.01, 0.005])  # the last one is missing telemetry
    assert plan.alphas(0, 2, restarts=1) == pytest.approx([0.005, 0.005, 0.0025])


def test_a_larger_cohort_shows_smaller_drops() -> None:
    plan = Plan.parse(GATED)
    found = [least_detectable(plan, pairs) for pairs in (12, 20, 50)]
    drops = [item.drop for item in found if item is not None and item.drop is not None]
    assert len(drops) == 3
    assert drops == sorted(drops, reverse=True)
    assert 0.03 <= drops[1] <= 0.06  # rollouts.md 12: 20 pairs catch 5 points in .92, 3 points in .50
    assert found[0] is not None
    assert found[0].least_pairs == 6  # of the margin of 5 points that telemetry has


def test_without_a_quality_gate_nothing_is_detectable() -> None:
    assert least_detectable(Plan.parse({"waves": [{"percent": 100}]}), 50) is None
    assert least_detectable(Plan.parse(GATED), 0) is None
    few = least_detectable(Plan.parse(GATED), 3)
    assert few is not None
    assert few.drop is None
