"""Proof of few failures: the exact binomial tail, and the least sizes of rollouts.md section 12."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.choices import Verdict
from ota.gates.proof import least_devices, proof_row, tail


@pytest.mark.parametrize(("ratio", "devices"), [(0.10, 29), (0.05, 59), (0.02, 149), (0.01, 299)])
def test_devices_without_a_failure_that_prove_a_ratio(ratio: float, devices: int) -> None:
    assert least_devices(ratio) == devices
    assert tail(0, devices, ratio) <= 0.05 < tail(0, devices - 1, ratio)


def test_one_failure_at_five_percent_needs_93() -> None:
    assert least_devices(0.05, failed=1) == 93


@pytest.mark.parametrize(("devices", "shown"), [(5, 0.45), (10, 0.26), (20, 0.14), (50, 0.058)])
def test_what_zero_failures_prove_at_most(devices: int, shown: float) -> None:
    bound = 1 - 0.05 ** (1 / devices)
    assert bound == pytest.approx(shown, abs=0.0051)
    assert tail(0, devices, bound) == pytest.approx(0.05)


def test_all_failed_and_no_device_prove_nothing() -> None:
    assert tail(7, 7, 0.1) == 1.0
    assert tail(0, 0, 0.1) == 1.0


@given(st.integers(1, 400), st.floats(0.001, 0.999), st.data())
def test_the_tail_is_the_binomial_one(executed: int, ratio: float, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, executed - 1))
    exact = math.fsum(
        math.comb(executed, i) * ratio**i * (1 - ratio) ** (executed - i) for i in range(failed + 1)
    )
    assert tail(failed, executed, ratio) == pytest.approx(exact, rel=1e-8, abs=1e-250)


@pytest.mark.parametrize(
    ("failed", "executed", "ratio"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0.0), (1, 5, 1.0)]
)
def test_counts_that_cannot_be_are_an_error(failed: int, executed: int, ratio: float) -> None:
    with pytest.raises(ValueError):
        tail(failed, executed, ratio)


def test_each_extension_asks_for_more() -> None:
    assert proof_row(0, 29, 0.10)["verdict"] == Verdict.PASS
    later = proof_row(0, 29, 0.10, extensions=1)
    assert later["verdict"] == Verdict.INCONCLUSIVE
    assert f"{least_devices(0.10, alpha=0.025)} devices with 0 failures would prove it" in later["text"]
