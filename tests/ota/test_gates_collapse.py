"""Devices that fell far below their own history count as failures of the model."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ota.gates.collapse import collapsed, is_collapsed
from ota.gates.evaluate import hard_rows
from tests.ota.test_gates_evaluate import inputs, metric, with_pairs


@pytest.mark.parametrize(
    ("mean", "n", "history", "n_history", "expected"),
    [
        (0.50, 40, 0.90, 480, True),
        (0.50, 4, 0.90, 480, False),  # chance does that in more than 1 of 1,000
        (0.76, 4_000, 0.90, 480, False),  # 14 points, however certain
        (0.74, 4_000, 0.90, 480, True),
        (0.0, 6, 1.0, 30, True),
        (0.10, 40, 0.90, 19, False),  # no history of its own
        (0.50, 20_000, 0.90, 480, True),
        (0.0, 0, 0.90, 480, False),
        (0.95, 40, 0.90, 480, False),
    ],
)
def test_a_collapse_is_large_and_no_chance(
    mean: float, n: int, history: float, n_history: int, expected: bool
) -> None:
    assert is_collapsed(mean, n, history, n_history) is expected


def test_the_chance_is_the_exact_binomial_tail() -> None:
    p = (0.9 * 99 + 0.5) / 100
    for right in range(12):
        tail = math.fsum(math.comb(12, i) * p**i * (1 - p) ** (12 - i) for i in range(right + 1))
        assert is_collapsed(right / 12, 12, 0.9, 99) == (right / 12 < 0.75 and tail < 0.001)


def fallen(count: int, **change: Any) -> dict[str, Any]:
    rows = [(0.3, 0.9, 0.9, 0.9)] * count + [(0.9, 0.9, 0.9, 0.9)] * (20 - count)
    return inputs(metrics=[with_pairs(metric([], **change), rows)])


def test_collapsed_devices_go_through_wilson_and_count_once() -> None:
    given = fallen(7)
    fell = collapsed(given["metrics"])
    assert fell == {f"w{t}" for t in range(1, 8)}
    model = hard_rows(given["hard"], is_first=True, fell=fell)[0]
    assert (model["now"], model["verdict"], model["automatic"]) == (7 / 20, "fail", True)
    assert "7 of them collapsed" in model["text"]
    counted = given["hard"] | {"also_failed": ["w1", "w2"], "failed": {"model": 2}}
    assert hard_rows(counted, is_first=True, fell=fell)[0]["now"] == 7 / 20


def test_an_estimate_proves_no_collapse() -> None:
    assert collapsed(fallen(7, kind="estimate")["metrics"]) == set()
