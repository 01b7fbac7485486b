"""The engine of a virtual device: the class's operators, the manifest's contract, and numbers as TFLM
wants them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from device_firmware.host.core import EngineError, Model, Tensor
from device_firmware.host.engine import WheelEngine, dequantise, quantise
from device_firmware.host.sensor import Sample, Sensor
from ota.inspector import inspect
from tests.firmware.virtual import OPERATORS, golden, model_bytes
from tests.models.make_models import MODELS

V1 = model_bytes("activity-v1")


def spec(data: bytes = V1, **changes: object) -> Model:
    """The contract a manifest of this file would carry."""
    found = inspect(data)

    def tensors(items: object) -> tuple[Tensor, ...]:
        return tuple(Tensor(t.dtype, t.shape, t.scale, t.zero_point, t.byte_size) for t in items)  # type: ignore[attr-defined]

    values: dict[str, object] = {
        "id": bytes(32), "name": "activity", "version": "1", "seq": 1, "floor": 0, "size": len(data),
        "arena": 1,
        "inputs": tensors(found.inputs), "outputs": tensors(found.outputs), "window": 100, "hop": 50,
        "channels": 6,
        "reset_policy": 0, "variables": 0, "latency_us": 0, "head": 1, "classes": 7, "anomaly_kind": 0,
        "anomaly_threshold": 0, "labels": b"",
    }  # fmt: skip
    return Model(**values | changes)  # type: ignore[arg-type]


@pytest.fixture
def engine() -> WheelEngine:
    return WheelEngine(operators=OPERATORS, arena_bytes=100_000)


def code_of(call: object, *arguments: object) -> str:
    """Code of the EngineError that a call raises."""
    with pytest.raises(EngineError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_a_model_of_linked_operators_is_checked_loaded_and_run(engine: WheelEngine) -> None:
    engine.check(V1)
    used = engine.load(0, V1, spec())
    assert 1_000 < used < 100_000
    for vector in golden(V1, count=2):
        outputs, us = engine.invoke(0, vector.inputs)
        assert outputs == list(vector.outputs)
        assert us > 0
    engine.unload(0)
    with pytest.raises(KeyError):
        engine.invoke(0, vector.inputs)


def test_operators_outside_the_class_are_missing(engine: WheelEngine) -> None:
    assert code_of(engine.check, MODELS["op-missing"].make()) == "op_missing"
    assert code_of(WheelEngine(operators=(3, 9), arena_bytes=100_000).check, V1) == "op_missing"


@pytest.mark.parametrize("name", ["truncated", "not-a-model", "crash-tensor-index", "crash-short-buffer"])
def test_a_file_that_is_unsound_never_reaches_the_runtime(engine: WheelEngine, name: str) -> None:
    assert code_of(engine.check, MODELS[name].make()) == "schema"


def test_a_model_that_does_not_fit_the_arena_fails_to_load(engine: WheelEngine) -> None:
    hungry = MODELS["arena-hungry"].make()
    assert code_of(engine.load, 0, hungry, spec(hungry)) == "load_failed"


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": (Tensor(9, (1, 100, 5), 0.0625, 0, 500),)},
        {"inputs": (Tensor(0, (1, 100, 6), 0.0, 0, 2400),)},
        {"outputs": (Tensor(9, (1, 8), 0.00390625, -128, 8),)},
    ],
)
def test_tensors_unlike_the_manifests_break_the_contract(engine: WheelEngine, change: dict[str, Any]) -> None:
    assert code_of(engine.load, 0, V1, spec(**change)) == "io_contract"


def test_loading_leaks_no_descriptor_and_leaves_stderr_in_place(engine: WheelEngine) -> None:
    before, stderr = len(os.listdir("/proc/self/fd")), os.fstat(2)
    for _ in range(5):
        engine.load(0, V1, spec())
    assert len(os.listdir("/proc/self/fd")) <= before
    assert os.path.samestat(os.fstat(2), stderr)


def test_quantising_rounds_half_away_from_zero_and_clamps() -> None:
    tensor = Tensor(9, (1, 6), 0.5, 3, 6)
    raw = quantise(np.array([0.25, -0.25, 0.2, 1e9, -1e9, 1.0]), tensor)
    assert np.frombuffer(raw, np.int8).tolist() == [4, 2, 3, 127, -128, 5]
    assert dequantise(raw, tensor).tolist() == [0.5, -0.5, 0.0, 62.0, -65.5, 1.0]
    floats = Tensor(0, (2,), 0.0, 0, 8)
    assert dequantise(quantise(np.array([1.5, -2.0]), floats), floats).tolist() == [1.5, -2.0]


def windows(shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray[Any, Any], int]]:
    """The same window for ever."""
    while True:
        yield np.ones(shape, np.float32), 4


def sensed(shape: tuple[int, ...], engine: WheelEngine, model: Model) -> Sample:
    """What a sensor with windows of this shape senses outside the pipeline."""
    window, label = next(windows(shape))
    return Sensor(windows(shape), engine).sense(model, window, label)


def test_a_model_of_this_sensor_gets_labels_another_only_numbers(engine: WheelEngine) -> None:
    engine.load(0, V1, spec())
    own = sensed((100, 6), engine, spec())
    assert own.label == 4
    assert len(own.scores) == 7
    assert sum(own.scores) == pytest.approx(1.0, abs=0.05)
    foreign = sensed((49, 40), engine, spec())
    assert foreign.label == -1
    assert len(foreign.scores) == 7
    no_scores = sensed((100, 6), engine, spec(head=0))
    assert (no_scores.label, no_scores.scores) == (-1, [])


def test_a_custom_operator_is_linked_by_its_name() -> None:
    named = WheelEngine(operators=(*OPERATORS, (32, "SignalWindow")), arena_bytes=100_000)
    named.check(V1)  # (32, name) beside builtin codes is a set of operators like any other
