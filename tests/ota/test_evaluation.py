"""Evaluation sets: what is read, what is refused, and how accuracy is measured."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.evaluation import (
    EVALUATION_MAX_BYTES,
    EvaluationError,
    measure,
    parse_evaluation,
    quantise_rows,
    read_outputs,
)
from ota.inspector import TensorSpec, inspect
from tests.ota import tflite_files as files

MODEL = inspect(files.classifier(scale=0.05))


def npz(**arrays: Any) -> bytes:
    """An .npz file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_floats_are_quantised_half_away_from_zero_and_clipped() -> None:
    spec = TensorSpec("x", 9, "int8", (1, 6), 0.5, 3)
    (row,) = quantise_rows(np.array([[0.25, -0.25, 0.24, 1.0, 1000.0, -1000.0]]), spec, "x")
    assert np.frombuffer(row, np.int8).tolist() == [4, 2, 3, 5, 127, -128]


@given(st.floats(-50, 50, width=32), st.integers(-128, 127))
def test_quantised_values_are_the_nearest_step(value: float, zero_point: int) -> None:
    spec = TensorSpec("x", 9, "int8", (1, 1), 0.25, zero_point)
    (row,) = quantise_rows(np.array([[value]], np.float32), spec, "x")
    step = int(np.frombuffer(row, np.int8)[0]) - zero_point
    if -128 < step + zero_point < 127:
        assert abs(step * 0.25 - value) <= 0.125


def test_raw_integers_pass_unchanged() -> None:
    found = parse_evaluation(npz(x=np.array([[1, -2, 3, -128]], np.int8), y=[0]), MODEL)
    assert found.rows == (np.array([1, -2, 3, -128], np.int8).tobytes(),)


def test_rows_may_keep_or_drop_axes_of_one() -> None:
    for shape in ((3, 4), (3, 1, 4), (3, 4, 1)):
        assert len(parse_evaluation(npz(x=np.ones(shape, np.float32), y=[0, 1, 2]), MODEL).rows) == 3


def test_accuracy_counts_right_classes() -> None:
    found = parse_evaluation(npz(x=np.eye(4, dtype=np.float32), y=np.array([0, 1, 2, 0])), MODEL)
    accuracy = measure(found, found.rows, MODEL)  # the identity: outputs are the inputs
    assert (accuracy.kind, accuracy.right, accuracy.n, accuracy.ratio) == ("labels", 3, 4, 0.75)
    assert accuracy.majority_ratio == 0.5


def test_expected_outputs_are_compared_by_class() -> None:
    expected = np.array([[9, 1, 1, 1], [1, 9, 1, 1], [9, 1, 1, 1]], np.float32)
    found = parse_evaluation(npz(x=np.eye(4, dtype=np.float32)[:3], expected=expected), MODEL)
    accuracy = measure(found, found.rows, MODEL)
    assert (accuracy.kind, accuracy.right, accuracy.n) == ("expected_class", 2, 3)


def test_a_single_value_is_compared_within_its_range() -> None:
    builder = files.Builder()
    graph = builder.graph()
    graph.inputs = [builder.tensor(graph, files.FLOAT32, [1, 1])]
    graph.outputs = [builder.tensor(graph, files.FLOAT32, [1, 1])]
    builder.add(graph, "SIN", graph.inputs, graph.outputs)
    model = inspect(builder.bytes())
    expected = np.array([[0.0], [10.0], [5.0]])
    found = parse_evaluation(npz(x=np.zeros((3, 1), np.float32), expected=expected), model)
    outputs = [np.float32(value).tobytes() for value in (0.49, 9.4, 5.2)]
    accuracy = measure(found, outputs, model)
    assert (accuracy.kind, accuracy.right, accuracy.n) == ("expected_value", 2, 3)


def test_outputs_are_dequantised_by_their_own_tensor() -> None:
    specs = (
        TensorSpec("a", 9, "int8", (1, 2), 0.5, 1),
        TensorSpec("b", 0, "float32", (1, 1), 0.0, 0),
    )
    row = np.array([3, -1], np.int8).tobytes() + np.float32(0.25).tobytes()
    assert read_outputs([row], specs, 0).tolist() == [[1.0, -1.0]]
    assert read_outputs([row], specs, 1).tolist() == [[0.25]]


def test_too_many_rows_are_thinned_evenly() -> None:
    x = np.arange(16_000, dtype=np.float32).reshape(4000, 4) % 5
    costly = inspect(files.convolution(ic=8, oc=64, size=32, kernel=3))
    assert costly.macs > 4_000_000
    images = np.zeros((200, 32, 32, 8), np.int8)
    images[:, 0, 0, 0] = np.arange(200) % 100
    found = parse_evaluation(npz(x=images, expected=np.zeros((200, 32, 32, 64), np.int8)), costly)
    assert found.total == 200
    assert 16 <= len(found.rows) < 200
    firsts = [row[0] for row in found.rows]
    assert firsts[0] == 0
    assert len(set(firsts)) > 10
    assert len(parse_evaluation(npz(x=x, y=np.zeros(4000, int)), MODEL).rows) == 4000


class Evil:
    """Something only a pickle can hold."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        raise AssertionError("unpickled")


GOOD_X = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no readable"),
        (b"not a zip", "no readable"),
        (npz(y=[0, 1]), "no array 'x'"),
        (npz(x=GOOD_X), "neither 'y' nor 'expected'"),
        (npz(x=GOOD_X, y=[0]), "equal numbers"),
        (npz(x=GOOD_X[:0], y=np.zeros(0, int)), "equal numbers"),
        (npz(x=np.float32(1), y=[0]), "equal numbers"),
        (npz(x=np.ones((2, 5), np.float32), y=[0, 1]), "shape [5]"),
        (npz(x=np.ones((2, 4), np.int16), y=[0, 1]), "int16"),
        (npz(x=GOOD_X * np.nan, y=[0, 1]), "NaN"),
        (npz(x=GOOD_X, y=[0, 4]), "4 scores"),
        (npz(x=GOOD_X, y=[-1, 0]), "4 scores"),
        (npz(x=GOOD_X, y=[0.0, 1.0]), "one integer class"),
        (npz(x=GOOD_X, expected=np.ones((2, 3))), "rows of 4"),
        (npz(x=GOOD_X, expected=np.full((2, 4), np.inf)), "NaN or infinity"),
        (npz(x=GOOD_X, y=np.array([{"a": 1}, None], dtype=object)), "object"),
        (npz(x=np.array([["a"] * 4] * 2), y=[0, 1]), "plain numbers"),
        (bytes(EVALUATION_MAX_BYTES + 1), "at most"),
    ],
)
def test_what_cannot_be_used_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        parse_evaluation(data, MODEL)
    assert caught.value.code == "io_contract"
    assert word in caught.value.text


def zipped(name: str, content: bytes, *, compress: bool = False) -> bytes:
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_a_header_that_promises_more_than_the_file_holds_is_refused() -> None:
    with pytest.raises(EvaluationError, match="more than the file holds"):
        parse_evaluation(zipped("x.npy", header((2**40, 4)) + bytes(64)), MODEL)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    data = zipped("x.npy", bytes(130 * 1024**2), compress=True)
    assert len(data) < 1_000_000
    with pytest.raises(EvaluationError, match="128 MiB"):
        parse_evaluation(data, MODEL)


@given(st.data())
def test_damaged_archives_end_in_the_own_error(data: st.DataObject) -> None:
    source = bytearray(npz(x=GOOD_X, y=[0, 1]))
    for _ in range(data.draw(st.integers(1, 3))):
        source[data.draw(st.integers(0, len(source) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_evaluation(bytes(source), MODEL)
    except EvaluationError as error:
        assert error.code == "io_contract"  # noqa: PT017
    else:
        assert found.rows
