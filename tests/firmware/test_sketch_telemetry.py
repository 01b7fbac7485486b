"""Sketches and sampled inferences of a whole core: when they go, what is in them, what fits a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, ConfigKey
from fleet.mqtt.codec.sketch import Sketch
from fleet.mqtt.codec.telemetry import Inference
from ota.desired import DesiredEntry
from ota.hints import Hints
from tests.firmware.artifacts import DEVICE, NOW, artifact, trust
from tests.firmware.rig import Rig

TOPIC = topics.device(DEVICE, "telemetry")


def running(rig: Rig, **config: int) -> Rig:
    """A device with a confirmed model and this configuration, the trial's records behind it."""
    item = artifact(1)
    rig.stage(item)
    keys = {ConfigKey[name.upper()]: value for name, value in config.items()}
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config={ConfigKey.WINDOW_S: 10, **keys})
    rig.confirm()
    return rig


def sketches(rig: Rig) -> list[Sketch]:
    """Every sketch once."""
    return list({one.seq: one for batch in rig.batches() for one in batch.sketches}.values())


def inferences(rig: Rig) -> list[Inference]:
    """Every sampled inference once."""
    return list({one.seq: one for batch in rig.batches() for one in batch.inferences}.values())


def test_a_sketch_goes_every_quarter_of_an_hour_and_tells_what_was_inferred(rig: Rig) -> None:
    running(rig)
    rig.core.health(heap_free=123_456, rssi=-50)
    rig.infer(7, scores=(0.1, 0.85, 0.05), label=1)
    rig.infer(2, scores=(0.5, 0.45, 0.05), label=1)
    rig.advance(880, step_ms=5000)
    assert sketches(rig) == []
    rig.advance(30, step_ms=1000)
    (found,) = sketches(rig)
    assert (found.n, found.duration_s) == (3 + 9, 900)
    assert found.class_hist == (3 + 2, 7, 0)
    assert found.conf_hist == (0, 0, 0, 0, 0, 2, 0, 3, 7, 0)
    assert found.labels == ((1, 9, 7),)
    assert found.anomalies == (2, 12), "two margins below the hint's threshold"
    assert found.golden == (2, 2, 0)
    assert (found.arena_used_bytes, found.heap_min_bytes) == (12_000, 123_456)
    assert found.resets == ((0, 1),), "why this boot began"
    assert found.inputs is None, "nobody fed samples"
    assert abs(found.ts_ms - (NOW * 1000 + rig.ms - 5000)) < 30_000
    rig.infer(1)
    rig.advance(910, step_ms=5000)
    assert (sketches(rig)[1].n, sketches(rig)[1].resets) == (1, ()), "and it began anew"


def test_the_period_is_configured(rig: Rig) -> None:
    running(rig, sketch_s=60)
    rig.infer(1)
    rig.advance(61, step_ms=1000)
    assert [one.n for one in sketches(rig)] == [3 + 1]


def test_counters_stay_dense_over_all_three_kinds(rig: Rig) -> None:
    running(rig, sketch_s=30, sample_every=1)
    for _ in range(12):
        rig.infer(4)
        rig.advance(10)
    rig.advance(40)
    seen = sorted(
        one.seq for batch in rig.batches() for one in (*batch.windows, *batch.inferences, *batch.sketches)
    )
    assert seen == [(1 << 32) + index for index in range(len(seen))]
    assert {len(kind) > 0 for kind in (sketches(rig), inferences(rig))} == {True}
    assert sum(one.n for one in sketches(rig)) == 3 + 48


def test_one_in_n_is_sampled_without_regard_to_what_it_is(rig: Rig) -> None:
    running(rig, sample_every=5)
    rig.infer(40, scores=(0.7, 0.2, 0.1))
    rig.advance(901, step_ms=5000)
    found = inferences(rig)
    assert [one.k for one in found] == [k for k in range(43) if k % 5 == 0][: len(found)]
    assert {one.why for one in found} == {0}
    assert (found[1].top, found[1].score_e4, found[1].margin_e4, found[1].us) == (0, 7000, 5000, 800)
    assert found[1].anom_e3 == 500


def test_low_margins_and_anomalies_are_picked_beside_the_sample_four_a_window(rig: Rig) -> None:
    running(rig, sample_every=1000)
    rig.infer(1, scores=(0.5, 0.42, 0.08))
    rig.infer(9, scores=(0.5, 0.49, 0.01))
    rig.advance(901, step_ms=5000)
    found = inferences(rig)
    assert [(one.k, one.why) for one in found] == [(0, 0), (3, 2), (4, 2), (5, 2), (6, 2)]
    rig.infer(1, scores=(0.55, 0.45, 0.0))
    rig.advance(901, step_ms=5000)
    assert [(one.k, one.why) for one in inferences(rig)[5:]] == []


def test_nothing_is_sampled_by_default(rig: Rig) -> None:
    running(rig)
    rig.infer(50, scores=(0.5, 0.5))
    rig.advance(901, step_ms=5000)
    assert inferences(rig) == []


def test_a_swap_sends_what_there_is(rig: Rig) -> None:
    running(rig, sample_every=2)
    rig.infer(4)
    rig.offer(artifact(2), attempt=2)
    own = [batch for batch in rig.batches() if batch.mid == artifact(1).mid]
    assert [len(batch.inferences) for batch in own if batch.inferences] == [4]
    assert [one.n for batch in own for one in batch.sketches] == [7]


def test_without_a_clock_a_sketch_waits_and_a_swap_says_what_was_lost(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.has_clock, rig.unix = False, 0
    rig.core.clock_set(rig.ms, 0)
    rig.start()
    rig.give_trust(trust(issued=0))
    item = artifact(1)
    rig.stage(item)
    config = {ConfigKey.WINDOW_S: 10, ConfigKey.SKETCH_S: 20}
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), issued=0, config=config)
    rig.confirm()
    rig.advance(100, step_ms=1000)
    assert rig.batches() == []
    rig.infer(1)
    rig.has_clock = True
    rig.advance(30, step_ms=1000)
    assert [one.n for one in sketches(rig)] == [3 + 1], "nothing was forgotten"


@pytest.mark.parametrize("classes", [64, 200])
def test_a_sketch_of_many_classes_fits_a_message(classes: int, rig: Rig) -> None:
    """Widest of all: 64 class counts, 32 latency bins, large numbers everywhere."""
    item = artifact(1, manifest_changes={"hints": Hints(head=1, anomaly=(3, 900))})
    rig.stage(item)
    config = {ConfigKey.WINDOW_S: 3600, ConfigKey.SKETCH_S: 7000}
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config=config)
    rig.confirm()
    for index in range(3000):
        scores = [0.0] * classes
        scores[index % classes] = 0.9
        rig.core.sample(0, us=1000 + (index % 900) * 40, scores=scores, label=index % 2)
    rig.advance(7001, step_ms=10_000)
    (found,) = sketches(rig)
    assert found.n == 3003
    assert len(found.class_hist) == 64
    assert len(found.times) <= 32
    assert all(len(payload) <= 1024 for topic, payload, *_ in rig.port.sent if topic == TOPIC)
