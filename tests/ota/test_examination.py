"""The whole examination: stages in order, and a code for everything that can be wrong with a model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ota.examination import examine
from ota.inspector import InspectionError
from ota.preflight import BUILTIN_CLASSES, preflight
from ota.probe import ProbeLimits
from tests.firmware.engine.streaming import streaming
from tests.ota import tflite_files as files

MODELS = Path(__file__).parents[2] / "deploy/models"


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def samples(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose largest of four values is the class, and the classes."""
    generator = np.random.Generator(np.random.PCG64(5))
    x = generator.uniform(-1, 1, (count, 4)).astype(np.float32)
    y = np.arange(count) % 4
    x[np.arange(count), y] = 3 + np.arange(count) / 50
    return x, y


def test_a_good_model_with_evaluation_set_passes_everywhere_it_fits() -> None:
    x, y = samples()
    found = examine(files.classifier(), evaluation=npz(x=x, y=y), declared_accuracy=1.0)
    assert (found.reasons, found.missing) == ((), ())
    assert found.accuracy is not None
    assert (found.accuracy.ratio, found.accuracy.n) == (1.0, 40)
    assert found.golden is not None
    answers = [int(np.frombuffer(vector.outputs[0], np.int8).argmax()) for vector in found.golden.vectors]
    assert set(answers) == {0, 1, 2, 3}
    assert (
        preflight(found.inspection, found.probe, BUILTIN_CLASSES["host-b"], missing=found.missing).kind
        == "pass"
    )
    json.dumps(found.to_json(), allow_nan=False)


def test_without_an_evaluation_set_a_model_is_unproven() -> None:
    found = examine((MODELS / "activity-v1.tflite").read_bytes())
    assert (found.reasons, found.missing) == ((), ("evaluation_set",))
    assert found.golden is not None
    assert len(found.golden.vectors) == 8
    assert found.golden.inline is None
    assert found.golden_blob_bytes == len(found.golden.blob)


def test_the_same_file_gives_the_same_golden_bytes() -> None:
    first, second = (examine((MODELS / "activity-v2.tflite").read_bytes()) for _ in range(2))
    assert first.golden is not None
    assert second.golden is not None
    assert first.golden.blob == second.golden.blob


@pytest.mark.parametrize(
    ("declared", "is_refused"), [(0.76, False), (0.77, False), (0.78, True), (1.0, True)]
)
def test_accuracy_is_held_against_the_declared_figure(declared: float, is_refused: bool) -> None:
    x, y = samples()
    y = y.copy()
    y[:10] = (y[:10] + 1) % 4  # the model is right on 30 of 40
    found = examine(files.classifier(), evaluation=npz(x=x, y=y), declared_accuracy=declared)
    assert [reason.code for reason in found.reasons] == (["selftest_mismatch"] if is_refused else [])


def test_accuracy_no_better_than_a_constant_is_unproven_without_a_declared_figure() -> None:
    x, y = samples()
    wrong = npz(x=x, y=(y + 1) % 4)
    assert examine(files.classifier(), evaluation=wrong).missing == ("declared_accuracy",)
    assert examine(files.classifier(), evaluation=npz(x=x, y=y)).missing == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (files.weight_only(), "per_channel_dequantize"),
        (files.variable(assigned=False), "variable_without_value"),
    ],
)
def test_silent_nonsense_is_refused_statically(data: bytes, code: str) -> None:
    found = examine(data)
    assert [reason.code for reason in found.reasons] == [code]
    assert found.probe is None


def test_silent_nonsense_is_refused_by_its_accuracy_as_well() -> None:
    """Static rules off: TFLM runs the weight-only model, and the evaluation set shows what that is worth."""
    x, y = samples()
    archive = npz(x=x, y=(y + 1) % 4)
    found = examine(files.weight_only(), evaluation=archive, declared_accuracy=0.95, static_rules=False)
    assert found.accuracy is not None
    assert found.accuracy.right == 30  # class 0, whose scale the others got, never wins
    assert [reason.code for reason in found.reasons] == ["selftest_mismatch"]


def test_variables_without_values_are_refused_by_their_accuracy_as_well() -> None:
    x = np.random.Generator(np.random.PCG64(6)).uniform(-1, 1, (40, 4)).astype(np.float32)
    archive = npz(x=x, expected=x + np.array([0, 5, 0, 0], np.float32))
    good = examine(files.variable(assigned=True), evaluation=archive, declared_accuracy=0.95)
    assert good.reasons == ()
    bad = examine(
        files.variable(assigned=False), evaluation=archive, declared_accuracy=0.95, static_rules=False
    )
    assert [reason.code for reason in bad.reasons] == ["selftest_mismatch"]


def test_a_constant_model_is_refused() -> None:
    found = examine(files.constant())
    assert [reason.code for reason in found.reasons] == ["selftest_mismatch"]
    assert found.golden is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (files.custom("SignalFramer"), "probe_crash"),
        (files.endless(), "probe_timeout"),
        (files.hybrid(), "hybrid"),
        (files.single("GELU"), "op_missing"),
    ],
)
def test_bad_models_are_refused_with_a_code(data: bytes, code: str) -> None:
    found = examine(data, limits=ProbeLimits(cpu_s=1, wall_s=4))
    assert [reason.code for reason in found.reasons] == [code]
    verdict = preflight(found.inspection, found.probe, BUILTIN_CLASSES["host-a"], reasons=found.reasons)
    assert (verdict.kind, verdict.code) == ("refuse", code)


def test_an_evaluation_set_of_another_shape_is_io_contract() -> None:
    found = examine(files.classifier(), evaluation=npz(x=np.ones((3, 5), np.float32), y=[0, 1, 2]))
    assert [reason.code for reason in found.reasons] == ["io_contract"]


def test_a_model_with_gigabytes_of_input_costs_no_memory() -> None:
    builder = files.Builder()
    graph = builder.graph()
    graph.inputs = [builder.tensor(graph, files.FLOAT32, [2**30])]
    graph.outputs = [builder.tensor(graph, files.FLOAT32, [2**30])]
    builder.add(graph, "RELU", graph.inputs, graph.outputs)
    for static_rules in (True, False):
        found = examine(builder.bytes(), static_rules=static_rules)
        assert [reason.code for reason in found.reasons] == ["io_contract"]


def test_bytes_that_are_no_model_raise() -> None:
    with pytest.raises(InspectionError) as caught:
        examine(b"hello")
    assert caught.value.code == "not_tflite"


def test_golden_vectors_of_a_stateful_model_are_one_sequence() -> None:
    found = examine(files.accumulator())
    assert found.golden is not None
    total = np.zeros(4, np.float32)
    for vector in found.golden.vectors:
        total += np.frombuffer(vector.inputs[0], np.float32)
        np.testing.assert_allclose(np.frombuffer(vector.outputs[0], np.float32), total, rtol=1e-5, atol=1e-6)


def test_a_model_that_answers_with_what_came_before_is_no_constant() -> None:
    """From a fresh start this one always gives the same first answer."""
    found = examine(streaming(names=("near", "far")))
    assert found.reasons == ()
    assert found.golden is not None
    assert len({vector.outputs for vector in found.golden.vectors}) > 2
