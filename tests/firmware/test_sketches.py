"""Sketches against numpy, and the law that makes them useful: merge(a, b) is the sketch of a and b."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.sketch import TIME_EDGES, Sketch, parse_sketch, sketch_item
from tests.firmware.stages import Stages, Values

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "sketches.json").read_text())
CUTS = (100, 200, 300, 400, 500, 600, 700, 800, 900)


@dataclass(frozen=True)
class Seen:
    """One inference and its window."""

    us: int
    heap: int
    scores: tuple[int, ...]
    label: int
    score: int | None
    window: Values


@st.composite
def runs(draw: st.DrawFn, *, most: int = 60) -> tuple[list[Seen], list[Seen], int]:
    """Two runs of one model, and its number of channels. Numbers come from a drawn seed."""
    classes, channels = draw(st.integers(0, 80)), draw(st.integers(1, 14))
    is_judged = draw(st.booleans())
    spread = draw(st.sampled_from([0.01, 0.5, 3.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def item() -> Seen:
        us = int(min(6e7, np.exp(rng.normal(8, spread))))
        return Seen(
            us=int(rng.choice([us, us, us, 0, 31, 32, 60_000_000])) if spread > 1 else us,
            heap=int(rng.integers(0, 2**32)),
            scores=tuple(int(v) for v in rng.integers(0, 10_001, classes) * rng.integers(0, 2, classes)),
            label=int(rng.integers(-1, classes)) if classes else -1,
            score=int(rng.choice([rng.integers(2**31), rng.integers(1000), 500])) if is_judged else None,
            window=rng.normal(0, rng.choice([0.1, 2, 8]), (2, channels)).astype(np.float32),
        )

    sizes = draw(st.integers(1, most)), draw(st.integers(0, most))
    return [item() for _ in range(sizes[0])], [item() for _ in range(sizes[1])], channels


def put(stages: Stages, place: int, items: list[Seen], *, limit: int = 500) -> None:
    for one in items:
        stages.sketch_inputs(place, one.window, dtype=9, scale=0.0625, zero=3)
        cuts = CUTS if one.score is not None else None
        stages.sketch_put(
            place, us=one.us, scores=one.scores, label=one.label, heap=one.heap, score=one.score,
            limit=limit, cuts=cuts,
        )  # fmt: skip


def read(stages: Stages, place: int) -> Sketch:
    payload = stages.sketch_bytes(place)
    item = decode_strict(payload, max_bytes=4096)
    sketch = parse_sketch(item, seq=0, before_ms=0)
    assert encode(sketch_item(sketch)) == payload, "what is read is written as the same bytes"
    return sketch


@settings(max_examples=250, deadline=None)
@given(runs())
def test_a_merge_is_the_sketch_of_both(run: tuple[list[Seen], list[Seen], int]) -> None:
    first, second, _ = run
    stages = Stages()
    for place in range(3):
        stages.sketch_open(place)
    put(stages, 0, first)
    put(stages, 1, second)
    put(stages, 2, first + second)
    stages.sketch_merge(0, 1)
    assert stages.sketch_bytes(0) == stages.sketch_bytes(2)
    assert read(stages, 0).n == len(first) + len(second)


@settings(max_examples=100, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_the_order_of_inferences_does_not_matter(
    run: tuple[list[Seen], list[Seen], int], rng: object
) -> None:
    first, second, _ = run
    stages = Stages()
    for place in range(2):
        stages.sketch_open(place)
    put(stages, 0, first + second)
    put(stages, 1, second + first[::-1])
    assert stages.sketch_bytes(0) == stages.sketch_bytes(1)


@settings(max_examples=250, deadline=None)
@given(runs())
def test_counts_and_moments_are_those_of_numpy(run: tuple[list[Seen], list[Seen], int]) -> None:
    items, _, channels = run
    stages = Stages()
    stages.sketch_open(0)
    put(stages, 0, items)
    found = read(stages, 0)
    us = np.array([one.us for one in items])
    assert (found.n, found.us_max, found.heap_min_bytes) == (
        len(items),
        us.max(),
        min(one.heap for one in items),
    )
    bins = np.clip(np.searchsorted(np.array(TIME_EDGES, np.int64), us << 16, side="right") - 1, 0, None)
    numbers, counts = np.unique(bins >> found.time_shift, return_counts=True)
    assert found.times == tuple(zip(numbers.tolist(), counts.tolist(), strict=True))
    assert len(np.unique(bins)) <= 32 or found.time_shift, "a shift only where it is needed"
    check_scores(found, items)
    check_inputs(found, items, channels)
    judged = [one.score for one in items if one.score is not None]
    if not judged:
        assert (found.anomalies, found.embed_hist) == (None, ())
        return
    assert found.anomalies == (sum(score > 500 for score in judged), len(judged))
    assert found.embed_hist == tuple(np.bincount(np.searchsorted(CUTS, judged, side="right"), minlength=10))


def check_scores(found: Sketch, items: list[Seen]) -> None:
    scores = np.array([one.scores for one in items])
    if not scores.size:
        assert (found.class_hist, found.conf_hist, found.entropy_e3, found.labels) == ((), (), None, ())
        return
    top = scores.argmax(axis=1)
    best = scores.max(axis=1)
    assert found.class_hist == tuple(np.bincount(np.minimum(top, 63), minlength=min(64, scores.shape[1])))
    assert found.conf_hist == tuple(np.bincount(np.minimum(best // 1000, 9), minlength=10))
    p = scores / 10_000
    entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1) * 1000
    assert found.entropy_e3 == pytest.approx(entropy.mean(), abs=2 + 0.01 * scores.shape[1])
    if scores.shape[1] > 1:
        margin = best - np.sort(scores, axis=1)[:, -2]
        low, high = np.sort(margin)[len(margin) // 10], found.margin_p10_e4
        assert high is not None
        assert abs(int(low) - high) <= 500, "within its bin"
    labelled = [(one.label, t) for one, t in zip(items, top, strict=True) if one.label >= 0]
    assert found.labels == (
        ((1, len(labelled), sum(label == t for label, t in labelled)),) if labelled else ()
    )


def check_inputs(found: Sketch, items: list[Seen], channels: int) -> None:
    values = np.concatenate([one.window for one in items]).astype(np.float64)
    steps = np.trunc(values / 0.0625 + np.copysign(0.5, values)) + 3
    held = np.clip(steps, -128, 127)
    assert found.inputs is not None
    assert (found.inputs.elements, len(found.inputs.channels)) == (len(values), min(channels, 12))
    for index, channel in enumerate(found.inputs.channels):
        column = held[:, index]
        assert channel.mean_q8 == pytest.approx(column.mean() * 256, abs=1)
        assert channel.variance_q8 == pytest.approx(column.var() * 256, abs=2, rel=1e-3)
        assert channel.saturated == ((column == -128) | (column == 127)).sum()
        assert channel.out == (steps[:, index] != column).sum()


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_the_core_writes_the_bytes_of_the_shared_vectors(vector: dict[str, Any]) -> None:
    """Byte for byte what the reference in tests/vectors/sketches.py makes of the same inferences."""
    context, stages = VECTORS["context"], Stages()
    stages.sketch_open(0)
    for one in vector["inferences"]:
        if one["window"]:
            window = np.array(one["window"], np.float32) / 16
            stages.sketch_inputs(0, window, dtype=9, scale=0.0625, zero=context["zero"])
        stages.sketch_put(
            0, us=one["us"], heap=one["heap"], scores=one["scores"], label=one["label"], score=one["score"],
            limit=context["limit"], cuts=context["cuts"] if one["score"] is not None else None,
        )  # fmt: skip
    assert stages.sketch_bytes(0).hex() == vector["hex"]
    read(stages, 0)


def test_edges_grow_by_two_percent_from_32_microseconds_to_16_seconds() -> None:
    edges = np.array(TIME_EDGES) / 65_536
    assert len(edges) == 657
    assert edges[0] == 32
    assert 15.5e6 < edges[-1] < 17e6
    np.testing.assert_allclose(edges[1:] / edges[:-1], 1.0202, rtol=1e-5)


@given(st.integers(0, 60_000_000))
def test_device_and_backend_agree_on_every_bin(us: int) -> None:
    expected = max(0, int(np.searchsorted(np.array(TIME_EDGES, np.int64), us << 16, side="right")) - 1)
    assert Stages().time_bin(us) == expected


def test_a_quantile_read_from_the_bins_is_within_one_percent() -> None:
    rng = np.random.default_rng(1)
    times = np.exp(rng.normal(8, 0.05, 5000)).astype(int)
    stages = Stages()
    stages.sketch_open(0)
    for us in times:
        stages.sketch_put(0, us=int(us))
    found = read(stages, 0)
    assert found.time_shift == 0
    counts = np.cumsum([count for _, count in found.times])
    for q in (0.1, 0.5, 0.9, 0.99):
        number = found.times[int(np.searchsorted(counts, q * found.n))][0]
        middle = (TIME_EDGES[number] + TIME_EDGES[number + 1]) / 2 / 65_536
        assert middle == pytest.approx(np.quantile(times, q), rel=0.0125)
