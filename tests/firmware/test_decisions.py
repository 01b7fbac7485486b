"""Debounced decisions and alarms against short references, on random and on shaped scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_firmware.host.core import CODES
from tests.firmware.stages import Stages


class Reference:
    """A sliding mean over n, k of the last m, then quiet for a time."""

    def __init__(self, n: int, k: int, m: int, threshold: int, refractory_ms: int) -> None:
        self.n, self.k, self.m, self.threshold, self.refractory = n, k, m, threshold, refractory_ms
        self.scores: list[list[int]] = []
        self.tops: list[int] = []
        self.fired: int | None = None

    def put(self, scores: list[int], now_ms: int) -> int:
        self.scores = [*self.scores, scores][-self.n :]
        sums = np.array(self.scores).sum(axis=0)
        top = int(sums.argmax()) if sums.max() >= self.threshold * len(self.scores) else -1
        self.tops = [*self.tops, top][-self.m :]
        if top < 0 or self.tops.count(top) < self.k:
            return -1
        if self.fired is not None and now_ms - self.fired < self.refractory:
            return -1
        self.fired = now_ms
        return top


@st.composite
def settings_of(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    classes = draw(st.integers(1, 8))
    n = draw(st.integers(1, min(64, 160 // classes)))
    m = draw(st.integers(1, 64))
    return classes, n, draw(st.integers(1, m)), m, draw(st.integers(0, 10_000)), draw(st.integers(0, 5000))


@settings(max_examples=300, deadline=None)
@given(settings_of(), st.data())
def test_decisions_are_those_of_the_reference(
    numbers: tuple[int, int, int, int, int, int], data: st.DataObject
) -> None:
    classes, n, k, m, threshold, refractory = numbers
    stages, reference = Stages(), Reference(n, k, m, threshold, refractory)
    assert not stages.decide_open(classes, n, k, m, threshold=threshold, refractory_ms=refractory)
    row = st.lists(st.integers(0, 10_000), min_size=classes, max_size=classes)
    rows = data.draw(st.lists(st.tuples(row, st.integers(0, 700)), max_size=150))
    now = 0
    for scores, wait in rows:
        now += wait
        assert stages.decide(scores, now) == reference.put(scores, now)


def test_one_loud_window_is_no_decision_and_three_are_one() -> None:
    stages = Stages()
    assert not stages.decide_open(2, 3, 3, 4, threshold=6000, refractory_ms=2000)
    quiet, loud = [9500, 500], [0, 10_000]
    said = [stages.decide(scores, i * 500) for i, scores in enumerate([quiet, quiet, quiet, loud, quiet])]
    assert said == [-1, -1, 0, -1, -1]
    said = [stages.decide(loud, 3000 + i * 500) for i in range(12)]
    assert [i for i, one in enumerate(said) if one == 1] == [2, 6, 10], "again every two seconds"


def test_a_gap_forgets_the_scores_but_not_the_quiet_time() -> None:
    stages = Stages()
    assert not stages.decide_open(2, 1, 2, 2, refractory_ms=1000)
    assert [stages.decide([0, 10_000], t) for t in (0, 100)] == [-1, 1]
    stages.decide_reset()
    assert [stages.decide([0, 10_000], t) for t in (200, 300, 1100)] == [-1, -1, 1]


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 1, 1, 1),
        (2, 0, 1, 1),
        (2, 65, 1, 1),
        (7, 23, 1, 1),
        (2, 1, 2, 1),
        (2, 1, 0, 1),
        (2, 1, 1, 65),
        (256, 1, 1, 1),
    ],
)
def test_impossible_numbers_are_refused(numbers: tuple[int, int, int, int]) -> None:
    assert Stages().decide_open(*numbers) == CODES["io_contract"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_alarm_is_k_of_the_last_n_and_tells_both_edges(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 64))
    k = data.draw(st.integers(1, n))
    limit = data.draw(st.integers(0, 5))
    stages, scores, on = Stages(), [], False
    stages.alarm_open()
    for score in data.draw(st.lists(st.integers(0, 9), max_size=120)):
        scores.append(score)
        now = bool(limit) and sum(s > limit for s in scores[-n:]) >= k
        expected = 0 if now == on else 1 if now else 2
        assert stages.alarm(score, limit, k, n) == expected
        if expected:
            assert (score > limit) == (expected == 1), "which edge it is can be told from the score"
        on = now


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 3), min_size=1, max_size=32))
def test_the_distance_is_the_mean_squared_deviation(rows: list[tuple[float, float, float]]) -> None:
    table = np.array(rows, np.float32)
    features, params = table[:, 0], table[:, 1:]
    wanted = float((((features.astype(np.float64) - params[:, 0]) * params[:, 1]) ** 2).mean() * 1000)
    assert Stages().distance(features, params) == pytest.approx(min(wanted, 2**31 - 1), rel=1e-4, abs=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_feature_that_is_no_number_is_the_greatest_anomaly(value: float) -> None:
    assert Stages().distance(np.array([0, value], np.float32), np.ones((2, 2))) == 2**31 - 1


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.data())
def test_the_reconstruction_error_is_the_mean_squared_difference(raw: bytes, data: st.DataObject) -> None:
    got = data.draw(st.binary(min_size=len(raw), max_size=len(raw)))
    a, b = (np.frombuffer(x, np.int8).astype(np.float64) * 0.0625 for x in (raw, got))
    assert Stages().rebuild(raw, got, scale=0.0625) == pytest.approx(((a - b) ** 2).mean() * 1000, abs=1)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_margin_score_falls_with_the_margin(a: int, b: int) -> None:
    best, second = max(a, b), min(a, b)
    assert Stages().margin(best, second) == 1000 - (best - second) // 10
