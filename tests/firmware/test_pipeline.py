"""Samples through the whole C pipeline of a core: windows, resets, front-ends, anomalies, what ends it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_firmware.host.core import CODES, CoreError, State, Tensor
from device_firmware.host.engine import quantise
from fleet.mqtt.codec.names import Action, ConfigKey
from ota.desired import DesiredEntry
from ota.hints import Hints
from ota.tensors import DType, GoldenVector, TensorSpec
from tests.firmware.artifacts import CAPACITY, OUT, Artifact, artifact, ident
from tests.firmware.played import ScriptedEngine
from tests.firmware.rig import Rig

WINDOW, CHANNELS = 4, 2
SPEC = TensorSpec.of(DType.INT8, (1, WINDOW, CHANNELS), 0.5, 3)
IN = Tensor(9, (1, WINDOW, CHANNELS), 0.5, 3, 8)
SCORES = {"head": 1, "classes": 3}


@dataclass
class Recorder(ScriptedEngine):
    """A scripted engine that remembers what each slot was fed. Output: the first bytes of its input."""

    fed: list[tuple[int, bytes]] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        self.fed.append((slot, inputs[0]))
        if self.invoke_error:
            return super().invoke(slot, inputs)
        return [inputs[0][: self.sizes.get(slot, 3)]], self.us

    def reset(self, slot: int) -> None:
        self.resets.append(slot)


def model(seq: int = 1, *, slot: int = 0, outputs: TensorSpec = OUT, **hints: Any) -> Artifact:
    """A model of four samples of two channels, hop 2."""
    values = {"window": WINDOW, "hop": 2, "channels": CHANNELS} | hints
    size = outputs.size_bytes
    return artifact(
        seq,
        name=f"har{slot}",
        golden=[GoldenVector((bytes(range(8)),), (bytes(range(size)),))],
        manifest_changes={"slot": slot, "hints": Hints(**values)},
        inputs=(SPEC,),
        outputs=(outputs,),
    )


def running(folder: Path, *items: Artifact, engine: Recorder | None = None, **config: Any) -> Rig:
    """A device that runs these models in slots 0, 1, ..; pipelines are not open yet."""
    folder.mkdir(exist_ok=True)
    rig = Rig(folder, engine=engine or Recorder(), identity=ident(slot_capacity=(CAPACITY, CAPACITY)))
    rig.start()
    rig.give_trust()
    keys = {ConfigKey[name.upper()]: value for name, value in config.items()}
    for item in items:
        rig.stage(item)
    entries = [DesiredEntry(Action.RUN, item.id, attempt=1) for item in items]
    rig.want(*entries, config={ConfigKey.WINDOW_S: 10, **keys})
    for slot in range(len(items)):
        for _ in range(3):
            rig.core.sample(slot, us=1)
        rig.advance(3)
        assert rig.core.slot(slot).state == State.CONFIRMED, rig.core.slot(slot)
    rig.engine.calls.clear()
    recorder(rig).fed.clear()
    recorder(rig).resets.clear()
    return rig


def recorder(rig: Rig) -> Recorder:
    """The rig's engine."""
    assert isinstance(rig.engine, Recorder)
    return rig.engine


def frames(count: int, start: int = 0) -> np.ndarray[Any, Any]:
    """Rising samples, the channels apart."""
    return np.arange(start, start + count, dtype=np.float32).reshape(-1, 1) * 0.3 + np.array([0.0, -5.0])


def test_windows_reach_the_model_as_the_reference_quantises_them(tmp_path: Path) -> None:
    rig = running(tmp_path, model(**SCORES))
    assert rig.core.open_pipeline() == (WINDOW, CHANNELS)
    data = frames(9)
    rig.core.feed(data[:5])
    rig.core.feed(data[5:])
    outcomes = [rig.core.infer() for _ in range(4)]
    assert [one is None for one in outcomes] == [False, False, False, True]
    assert [raw for _, raw in recorder(rig).fed] == [quantise(data[i : i + WINDOW], IN) for i in (0, 2, 4)]
    first = outcomes[0]
    assert first is not None
    steps = np.frombuffer(quantise(data[:WINDOW], IN), np.int8)[:3].astype(int)
    assert first.scores == tuple(int(min(10_000, max(0, (s + 128) * 39.0625 + 0.5))) for s in steps)
    assert (first.us, first.gaps, first.decision, first.anomaly) == (700, 0, -1, None)
    rig.advance(11)
    assert rig.batches()[-1].windows[0].n == 3 + 3, "with those of the probation"


@pytest.mark.parametrize(
    ("policy", "expected"), [(0, [0, 0, 0, 0, 0]), (1, [1, 2, 3, 4, 5]), (2, [1, 1, 2, 2, 3])]
)
def test_streaming_state_is_reset_as_the_manifest_says(
    policy: int, expected: list[int], tmp_path: Path
) -> None:
    """Two windows, a gap, two windows, an overrun, one window."""
    rig = running(tmp_path, model(**SCORES, reset_policy=policy, resource_variables=2))
    rig.core.open_pipeline()
    seen = []

    def step() -> None:
        assert rig.core.infer() is not None
        seen.append(len(recorder(rig).resets))

    rig.core.feed(frames(6))
    step()
    step()
    rig.core.gap()
    rig.core.feed(frames(6))
    step()
    step()
    rig.core.feed(frames(40))
    step()
    assert seen == expected


def test_an_overrun_drops_whole_hops_and_the_sketch_says_so(tmp_path: Path) -> None:
    rig = running(tmp_path, model(**SCORES, reset_policy=2), sketch_s=60)
    rig.core.open_pipeline()
    rig.core.feed(frames(13))  # the ring holds 12
    outcome = rig.core.infer()
    assert outcome is not None
    assert (outcome.dropped, outcome.gaps) == (1, 1)
    assert recorder(rig).fed[0][1] == quantise(frames(13)[2:6], IN)
    while rig.core.infer() is not None:
        pass
    rig.core.feed(np.full((4, CHANNELS), np.nan))
    rig.core.gap()
    rig.core.feed(np.full((4, CHANNELS), [np.nan, 1e9]))
    while (found := rig.core.infer()) is not None:
        outcome = found
    assert (outcome.faults, outcome.clamped) == (4, 8)
    assert np.frombuffer(recorder(rig).fed[-1][1], np.int8).tolist() == [3, 127] * 4
    rig.advance(70, step_ms=1000)
    sketch = next(one for batch in rig.batches() for one in batch.sketches)
    assert sketch.faults is not None
    gaps, dropped, faults, resets = sketch.faults
    assert (gaps, dropped, resets) == (2, 1, 2)
    assert faults >= 4
    assert sketch.inputs is not None
    assert sketch.inputs.channels[1].saturated >= 4


def test_front_end_1_scales_each_channel(tmp_path: Path) -> None:
    params = struct.pack("<4f", 2.0, 1.0, -0.5, 0.25)
    rig = running(tmp_path, model(**SCORES, front_end=(1, bytes(8)), front_params=params))
    rig.core.open_pipeline()
    data = frames(WINDOW).astype(np.float32)
    rig.core.feed(data)
    assert rig.core.infer() is not None
    wanted = data * np.array([2.0, -0.5], np.float32) + np.array([1.0, 0.25], np.float32)
    assert recorder(rig).fed[0][1] == quantise(wanted, IN)


def test_front_end_2_runs_another_slots_model_first(tmp_path: Path) -> None:
    """Two models in one device: slot 1 turns the window into what slot 0 takes."""
    middle = TensorSpec.of(DType.INT8, (1, WINDOW, CHANNELS), 0.25, -1)
    first = model(slot=1, outputs=middle)
    main = model(**SCORES, front_end=(2, first.id[:8]), front_params=b"\x01", reset_policy=1)
    engine = Recorder(sizes={1: 8})
    rig = running(tmp_path, main, first, engine=engine)
    assert rig.core.open_pipeline() == (WINDOW, CHANNELS)
    data = frames(WINDOW)
    rig.core.feed(data)
    outcome = rig.core.infer()
    assert outcome is not None
    assert outcome.us == 1400, "both invokes"
    window = quantise(data, IN)
    assert engine.fed[0] == (1, window)
    real = (np.frombuffer(window, np.int8).astype(np.float32) + 1) * 0.25
    assert engine.fed[1] == (0, quantise(real, IN))
    assert engine.resets == [1, 0]
    rig.offer(model(2, slot=0, **SCORES), attempt=2)
    rig.confirm()
    assert not rig.core.has_pipeline()


def test_another_model_in_another_slot_rebuilds_the_arena_so_streams_start_anew(tmp_path: Path) -> None:
    other = TensorSpec.of(DType.INT8, (1, 8), 0.25, 0)
    engine = Recorder(sizes={1: 8})
    main = model(**SCORES, reset_policy=2)
    rig = running(tmp_path, main, model(slot=1, outputs=other), engine=engine)
    rig.core.open_pipeline()
    rig.core.feed(frames(6))
    assert rig.core.infer() is not None
    assert rig.core.infer() is not None
    assert engine.resets == [0], "at the start"
    newer = model(2, slot=1, outputs=other)
    rig.stage(newer)
    rig.want(
        DesiredEntry(Action.RUN, main.id, attempt=1),
        DesiredEntry(Action.RUN, newer.id, attempt=2),
        config={ConfigKey.WINDOW_S: 10},
    )
    assert rig.core.has_pipeline(), "its own model did not change"
    engine.resets.clear()
    rig.core.feed(frames(2, 6))
    outcome = rig.core.infer()
    assert outcome is not None
    assert (outcome.resets, engine.resets) == (1, [0])


def test_a_front_end_that_does_not_run_or_is_another_one_keeps_the_pipeline_shut(tmp_path: Path) -> None:
    first = model(slot=1, outputs=TensorSpec.of(DType.INT8, (1, WINDOW, CHANNELS), 0.25, -1))
    main = model(**SCORES, front_end=(2, first.id[:8]), front_params=b"\x01")
    rig = running(tmp_path / "alone", main)
    with pytest.raises(CoreError) as refused:
        rig.core.open_pipeline()
    assert refused.value.code == "busy"
    other = model(**SCORES, front_end=(2, bytes(8)), front_params=b"\x01")
    rig = running(tmp_path / "other", other, first, engine=Recorder(sizes={1: 8}))
    with pytest.raises(CoreError) as refused:
        rig.core.open_pipeline()
    assert refused.value.code == "busy"


@pytest.mark.parametrize("hints", [{"window": 3}, {"channels": 3}, {"window": 5, "hop": 1}])
def test_a_model_that_takes_something_else_than_the_window_has_no_pipeline(
    hints: dict[str, Any], tmp_path: Path
) -> None:
    rig = running(tmp_path, model(**SCORES, **hints))
    with pytest.raises(CoreError) as refused:
        rig.core.open_pipeline()
    assert refused.value.code == "io_contract"


def test_without_hints_the_input_tensor_says_what_a_window_is(tmp_path: Path) -> None:
    rig = running(tmp_path, model(**SCORES, window=None, hop=None, channels=None))
    assert rig.core.open_pipeline() == (WINDOW, CHANNELS)
    rig.core.feed(frames(7))
    assert rig.core.infer() is not None
    assert rig.core.infer() is None, "windows do not overlap unless the manifest says so"


def test_the_distance_of_the_input_moments_alarms_at_an_offset_and_tells_its_end(tmp_path: Path) -> None:
    data = np.random.default_rng(3).normal(0, 0.5, (4000, CHANNELS)).astype(np.float32)
    cut = data.reshape(-1, WINDOW, CHANNELS)
    mean, spread = cut.mean(axis=1), np.abs(cut - cut.mean(axis=1, keepdims=True)).mean(axis=1)
    features = np.stack([mean, spread], axis=2).reshape(len(cut), -1)
    table = np.stack([features.mean(axis=0), 1 / features.std(axis=0)], axis=1)
    params = table.astype("<f4").tobytes()
    deciles = tuple(range(100, 1000, 100))
    hints: dict[str, Any] = {"anomaly": (2, 5000, 1), "distance": params, "deciles": deciles, "hop": 4}
    rig = running(tmp_path, model(**SCORES, **hints), alarm=(2, 3), sketch_s=60)
    rig.core.open_pipeline()
    scores = []

    def replay(part: np.ndarray[Any, Any]) -> None:
        for window in part:
            rig.core.feed(window)
            outcome = rig.core.infer()
            assert outcome is not None
            assert outcome.anomaly is not None
            scores.append(outcome.anomaly)

    replay(cut[:20])
    z = (features[:20] - table[:, 0]) * table[:, 1]
    np.testing.assert_allclose(scores, (z**2).mean(axis=1) * 1000, rtol=1e-3, atol=1)
    assert np.median(scores) < 1500
    rig.run()
    assert rig.events()[-1].kind.name != "ANOMALY"
    replay(cut[20:30] + np.array([3.0, 0.0], np.float32))
    assert min(scores[20:]) > 5000
    replay(cut[30:40])
    rig.run()
    told = [event.detail for event in rig.events() if event.kind.name == "ANOMALY"]
    assert len(told) == 2, "both edges"
    assert told[0][0] > told[0][1] == 5000
    assert told[1][0] <= told[1][1]
    rig.advance(70, step_ms=1000)
    sketch = next(one for batch in rig.batches() for one in batch.sketches)
    assert sketch.anomalies == (10, 40)
    assert sum(sketch.embed_hist) == 40
    assert sketch.inputs is not None
    assert sketch.inputs.elements == 40 * WINDOW


def test_the_distance_of_an_embedding_and_a_reconstruction_are_scored(tmp_path: Path) -> None:
    embedding = TensorSpec.of(DType.INT8, (1, 3), 0.5, 3)
    params = struct.pack("<6f", 0.0, 1.0, 1.0, 2.0, -1.0, 0.5)
    hints: dict[str, Any] = {"anomaly": (2, 100), "embedding_output": 0, "distance": params}
    rig = running(tmp_path / "embedding", model(outputs=embedding, **hints))
    rig.core.open_pipeline()
    data = frames(WINDOW)
    rig.core.feed(data)
    outcome = rig.core.infer()
    assert outcome is not None
    real = (np.frombuffer(quantise(data, IN), np.int8)[:3].astype(float) - 3) * 0.5
    z = (real - [0, 1, -1]) * [1, 2, 0.5]
    assert outcome.anomaly == pytest.approx((z**2).mean() * 1000, abs=1)
    assert outcome.scores == ()
    same = TensorSpec.of(DType.INT8, (1, 8), 0.25, 3)
    engine = Recorder(sizes={0: 8})
    rig = running(tmp_path / "rebuilt", model(outputs=same, anomaly=(1, 100)), engine=engine)
    rig.core.open_pipeline()
    rig.core.feed(data)
    outcome = rig.core.infer()
    assert outcome is not None
    real = (np.frombuffer(quantise(data, IN), np.int8).astype(float) - 3) * 0.5
    assert outcome.anomaly == pytest.approx(((real / 2) ** 2).mean() * 1000, abs=1), "half of each value back"


def test_a_failed_invoke_ends_a_probation_and_is_survived_later(tmp_path: Path) -> None:
    rig = running(tmp_path, model(**SCORES))
    rig.core.open_pipeline()
    recorder(rig).invoke_error = "load_failed"
    rig.core.feed(frames(WINDOW))
    outcome = rig.core.infer()
    assert outcome is not None
    assert outcome.failed
    recorder(rig).invoke_error = None
    rig.offer(model(2, **SCORES), attempt=2)
    assert not rig.core.has_pipeline(), "another model: open it again"
    rig.core.open_pipeline()
    recorder(rig).invoke_error = "load_failed"
    rig.core.feed(frames(WINDOW))
    outcome = rig.core.infer()
    assert outcome is not None
    assert outcome.failed
    recorder(rig).invoke_error = None
    rig.run()
    slot = rig.core.slot(0)
    assert (slot.state, slot.code) == (State.REVERTED, CODES["load_failed"])


def test_decisions_follow_the_hint_and_forget_at_a_gap(tmp_path: Path) -> None:
    rig = running(tmp_path, model(**SCORES, alarm=(1, 2, 0, 3, 100)))
    rig.core.open_pipeline()
    data = np.tile([[60.0, 0.0]], (12, 1)).astype(np.float32)
    rig.core.feed(data)
    said = []
    while (outcome := rig.core.infer()) is not None:
        said.append(outcome.decision)
    assert said == [-1, 0, 0, 0, 0]
    rig.core.gap()
    rig.core.feed(data[:6])
    said = []
    while (outcome := rig.core.infer()) is not None:
        said.append(outcome.decision)
    assert said == [-1, 0]


def test_without_a_pipeline_there_is_nothing_to_feed(rig: Rig) -> None:
    for call in (lambda: rig.core.feed(frames(1)), rig.core.gap, rig.core.infer, rig.core.open_pipeline):
        with pytest.raises(CoreError) as refused:
            call()
        assert refused.value.code == "busy"
