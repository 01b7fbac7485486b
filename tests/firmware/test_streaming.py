"""Models with a memory, and two models at once, through the C pipeline and the real TFLM runtime.

A frame goes ring -> window -> quantise -> TFLM -> decision -> telemetry as on a board; what TFLM answers is
compared with a plain run of the same wheel over the same frames, its state reset where the manifest's policy
says so and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_micro.python.tflite_micro import runtime

from device_firmware.host.core import CODES, Model, State
from device_firmware.host.engine import WheelEngine
from fleet.mqtt.codec.names import Action, ConfigKey
from ota.desired import DesiredEntry
from ota.examination import examine
from ota.hints import Hints
from ota.inspector import inspect
from ota.tensors import GoldenVector
from tests.firmware import virtual
from tests.firmware.artifacts import CAPACITY, Artifact, ident
from tests.firmware.engine.streaming import FRAME, SCALE, filtered, streaming
from tests.firmware.rig import Rig

STREAMS = {"variables": streaming(names=("near", "far")), "SVDF": filtered()}
OPERATORS = tuple(
    sorted({*virtual.OPERATORS, *(op for data in STREAMS.values() for op in inspect(data).builtin_operators)})
)
Frames = np.ndarray[Any, Any]
NEVER, PER_WINDOW, PER_STREAM = 0, 1, 2
GAP = None


class Heard(WheelEngine):
    """The wheel; remembers the raw output of every invoke, and the arena of every load."""

    def __init__(self, arena_bytes: int) -> None:
        super().__init__(operators=OPERATORS, arena_bytes=arena_bytes)
        self.outputs: dict[int, list[bytes]] = {0: [], 1: []}
        self.arenas: dict[int, int] = {}

    def load(self, slot: int, model: bytes, spec: Model) -> int:
        self.arenas[slot] = super().load(slot, model, spec)
        return self.arenas[slot]

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        outputs, us = super().invoke(slot, inputs)
        self.outputs[slot].append(outputs[0])
        return outputs, us


def plain(data: bytes, steps: Sequence[bytes | None]) -> list[bytes]:
    """Outputs of a fresh interpreter for quantised frames; GAP resets its state."""
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=100_000)
    found = []
    for raw in steps:
        if raw is GAP:
            interpreter.reset()
            continue
        interpreter.set_input(np.frombuffer(raw, np.int8).reshape(1, FRAME), 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0).tobytes())
    return found


def frames(count: int, seed: int) -> Frames:
    """int8 frames, (count, FRAME)."""
    return np.random.default_rng(seed).integers(-120, 121, (count, FRAME)).astype(np.int8)


def model(
    seq: int,
    data: bytes,
    *,
    slot: int = 0,
    policy: int = PER_STREAM,
    golden: Sequence[GoldenVector] | None = None,
) -> Artifact:
    """A signed streaming model; its golden vectors, unless given, are a run from an empty state."""
    if golden is None:
        raw = [one.tobytes() for one in frames(4, seed=99)]
        golden = [GoldenVector((given,), (got,)) for given, got in zip(raw, plain(data, raw), strict=True)]
    variables = len(inspect(data).resource_variables)
    hints = Hints(window=FRAME, hop=FRAME, channels=1, reset_policy=policy, resource_variables=variables)
    values = {"hints": hints, "slot": slot, "name": f"stream-{slot}", "arena_bytes": 1_000}
    return virtual.artifact(data, seq, vectors=list(golden), **values)


def recorded(data: bytes) -> list[GoldenVector]:
    """The golden vectors that the backend records when it examines a model."""
    found = examine(data)
    assert found.golden is not None, found.reasons
    return [GoldenVector(vector.inputs, vector.outputs) for vector in found.golden.vectors]


def device(folder: Path, *, arena_bytes: int = 200_000) -> tuple[Rig, Heard]:
    """A device of two slots on the real runtime."""
    engine = Heard(arena_bytes)
    identity = ident(slot_capacity=(CAPACITY, CAPACITY), operators=OPERATORS, arena_bytes=arena_bytes)
    rig = Rig(folder, engine=engine, identity=identity)  # type: ignore[arg-type]
    rig.start()
    rig.give_trust()
    return rig, engine


def run_models(rig: Rig, *items: Artifact, attempt: int = 1) -> None:
    """Desire these models in slots 0, 1, ..; serve out each probation."""
    for item in items:
        rig.stage(item)
    entries = [DesiredEntry(Action.RUN, item.id, attempt=attempt) for item in items]
    rig.want(*entries, config={ConfigKey.WINDOW_S: 60, ConfigKey.SKETCH_S: 60})
    for slot, item in enumerate(items):
        for _ in range(3):
            rig.core.sample(slot, us=1)
        rig.advance(3)
        assert rig.core.slot(slot).state == State.CONFIRMED, rig.core.slot(slot)
        running = rig.core.running(slot)
        assert running is not None
        assert running.id == item.id


def stream(rig: Rig, engine: Heard, data: Frames, *, slot: int = 0) -> list[bytes]:
    """Feed frames one after another; what TFLM answered."""
    before = len(engine.outputs[slot])
    for frame in data:
        rig.core.feed(frame.astype(np.float32).reshape(-1, 1) * np.float32(SCALE), slot)
        outcome = rig.core.infer(slot)
        assert outcome is not None
        assert not outcome.failed
    return engine.outputs[slot][before:]


@pytest.mark.parametrize("policy", [NEVER, PER_WINDOW, PER_STREAM])
@pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS)
def test_a_stream_is_answered_as_by_a_plain_run_with_the_policys_resets(
    data: bytes, policy: int, tmp_path: Path
) -> None:
    rig, engine = device(tmp_path)
    run_models(rig, model(1, data, policy=policy))
    engine.reset(0)  # what the golden vectors left
    rig.core.open_pipeline()
    first, second = frames(6, seed=1), frames(6, seed=2)
    got = stream(rig, engine, first)
    rig.core.gap()
    got += stream(rig, engine, second)
    a, b = [one.tobytes() for one in first], [one.tobytes() for one in second]
    each = [step for one in (*a, *b) for step in (GAP, one)]
    wanted = {
        NEVER: plain(data, [*a, *b]),
        PER_WINDOW: plain(data, each),
        PER_STREAM: plain(data, [*a, GAP, *b]),
    }
    assert got == wanted[policy]
    others = [answers for other, answers in wanted.items() if other != policy]
    assert all(got != answers for answers in others), "the policies differ on these frames"
    rig.advance(70, step_ms=1000)
    sketch = [one for batch in rig.batches() for one in batch.sketches][-1]
    assert sketch.faults is not None
    assert sketch.faults[0] == 1, "one gap"


@pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS)
def test_a_device_passes_the_golden_sequence_that_the_backend_recorded(data: bytes, tmp_path: Path) -> None:
    rig, _ = device(tmp_path)
    run_models(rig, model(1, data, golden=recorded(data)))


@pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS)
def test_golden_vectors_recorded_one_by_one_are_a_mismatch_for_a_model_with_a_memory(
    data: bytes, tmp_path: Path
) -> None:
    """Recorded with a reset before each; a device resets once."""
    inputs = [vector.inputs[0] for vector in recorded(data)]
    apart = plain(data, [step for one in inputs for step in (GAP, one)])
    rig, _ = device(tmp_path)
    wrong = model(1, data, golden=[GoldenVector((i,), (o,)) for i, o in zip(inputs, apart, strict=True)])
    rig.stage(wrong)
    rig.want(DesiredEntry(Action.RUN, wrong.id, attempt=1))
    rig.advance(5)
    assert (rig.core.slot(0).state, rig.core.slot(0).code) == (State.REVERTED, CODES["selftest_mismatch"])


def test_a_new_version_starts_with_an_empty_state(tmp_path: Path) -> None:
    old, new = streaming(seed=7), streaming(seed=8)
    rig, engine = device(tmp_path)
    run_models(rig, model(1, old))
    rig.core.open_pipeline()
    stream(rig, engine, frames(5, seed=3))
    run_models(rig, model(2, new), attempt=2)
    assert not rig.core.has_pipeline(), "the pipeline was the old model's"
    rig.core.open_pipeline()
    data = frames(5, seed=4)
    assert stream(rig, engine, data) == plain(new, [one.tobytes() for one in data])


def test_two_models_run_side_by_side_and_a_swap_of_one_resets_the_stream_of_the_other(tmp_path: Path) -> None:
    kept, old, new = streaming(names=("near", "far")), streaming(seed=7), streaming(seed=8)
    rig, engine = device(tmp_path)
    beside = model(1, kept, slot=1)
    run_models(rig, model(1, old), beside)
    rig.core.open_pipeline(0)
    rig.core.open_pipeline(1)
    data = [frames(4, seed=seed) for seed in range(5, 8)]
    raw = [[one.tobytes() for one in part] for part in data]
    got = stream(rig, engine, data[0], slot=1)
    assert stream(rig, engine, data[1], slot=0) == plain(old, raw[1])
    got += stream(rig, engine, data[1], slot=1)
    assert got == plain(kept, [*raw[0], *raw[1]]), "another slot's inferences leave a stream alone"
    run_models(rig, model(2, new), beside, attempt=2)
    rig.core.open_pipeline(0)
    assert stream(rig, engine, data[2], slot=0) == plain(new, raw[2])
    if not rig.core.has_pipeline(1):
        rig.core.open_pipeline(1)
    assert stream(rig, engine, data[2], slot=1) == plain(kept, raw[2]), "a shared arena was rebuilt"


def test_two_models_that_share_too_small_an_arena_leave_the_first_running(tmp_path: Path) -> None:
    small, large = streaming(), streaming(names=("near", "far"))
    rig, engine = device(tmp_path)
    run_models(rig, model(1, small), model(1, large, slot=1))
    both = sum(engine.arenas.values())
    (tmp_path / "tight").mkdir()
    rig, engine = device(tmp_path / "tight", arena_bytes=both - 1)
    first, second = model(1, small), model(1, large, slot=1)
    run_models(rig, first)
    rig.stage(second)
    rig.want(*(DesiredEntry(Action.RUN, one.id, attempt=2) for one in (first, second)))
    rig.advance(5)
    slot = rig.core.slot(1)
    assert (slot.state, slot.code) == (State.REVERTED, CODES["arena_too_small"])
    assert slot.detail == 0b11, "the slots that share, as a bit mask"
    rig.core.open_pipeline(0)
    data = frames(4, seed=9)
    assert stream(rig, engine, data, slot=0) == plain(small, [one.tobytes() for one in data])
