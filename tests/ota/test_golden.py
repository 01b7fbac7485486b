"""Golden vectors: which are chosen, when there are none, and the two forms they are signed in."""

from __future__ import annotations

import cbor2
import numpy as np
import pytest

from ota.golden import (
    BLOB_MAX_BYTES,
    BLOB_USUAL_BYTES,
    INLINE_MAX_BYTES,
    GoldenError,
    GoldenSet,
    Vector,
    choose_golden,
    make_golden,
    seeded_rows,
)
from ota.inspector import Inspection, inspect
from tests.ota import tflite_files as files

MODEL = inspect(files.classifier())


def as_rows(values: list[list[int]]) -> list[bytes]:
    return [np.array(row, np.int8).tobytes() for row in values]


def floats(elements: int) -> Inspection:
    """A float model of that many values in and out."""
    builder = files.Builder()
    graph = builder.graph()
    graph.inputs = [builder.tensor(graph, files.FLOAT32, [1, elements])]
    graph.outputs = [builder.tensor(graph, files.FLOAT32, [1, elements])]
    builder.add(graph, "RELU", graph.inputs, graph.outputs)
    return inspect(builder.bytes())


def test_every_class_comes_first_with_its_widest_margin() -> None:
    outputs = as_rows(
        [[9, 0, 0, 0], [50, 0, 0, 0], [0, 7, 0, 0], [0, 0, 30, 0], [0, 0, 31, 29], [0, 0, 0, 4]]
    )
    chosen = choose_golden(MODEL, outputs, outputs)
    assert set(chosen[:4]) == {1, 2, 3, 5}
    assert chosen[0] == 1


def test_rows_the_model_gets_right_are_preferred() -> None:
    outputs = as_rows([[90, 0, 0, 0], [20, 0, 0, 0], [0, 60, 0, 0], [0, 10, 0, 0]])
    labels = np.array([1, 0, 0, 1])
    chosen = choose_golden(MODEL, outputs, outputs, labels=labels)
    assert set(chosen[:2]) == {1, 3}


def test_alike_outputs_are_refused() -> None:
    outputs = as_rows([[5, 5, 5, 5], [6, 5, 5, 5], [5, 7, 5, 5]])
    with pytest.raises(GoldenError) as caught:
        choose_golden(MODEL, outputs, outputs)
    assert caught.value.code == "selftest_mismatch"
    outputs[2] = as_rows([[5, 9, 5, 5]])[0]  # four steps: more than the tolerance of two
    assert choose_golden(MODEL, outputs, outputs)


def test_outputs_that_are_not_finite_are_never_golden() -> None:
    model = floats(2)
    rows = [np.array(row, np.float32).tobytes() for row in ([np.nan, 1], [1, 0], [0, 1])]
    assert set(choose_golden(model, rows, rows)) == {1, 2}
    with pytest.raises(GoldenError) as caught:
        choose_golden(model, rows[:1], rows[:1])
    assert caught.value.code == "selftest_mismatch"


def test_small_vectors_are_inline() -> None:
    rows = seeded_rows(MODEL)
    chosen = choose_golden(MODEL, rows, rows)
    golden = make_golden(MODEL, [rows[i] for i in chosen], [rows[i] for i in chosen])
    assert len(chosen) == 8
    assert golden.inline is not None
    assert len(cbor2.dumps(golden.inline)) <= INLINE_MAX_BYTES


@pytest.mark.parametrize("elements", [50, 100, 400, 3000, 8000])
def test_large_vectors_become_a_blob_within_its_bound(elements: int) -> None:
    model = floats(elements)
    rows = seeded_rows(model)
    chosen = choose_golden(model, rows, rows)
    golden = make_golden(model, [rows[i] for i in chosen], [rows[i] for i in chosen])
    assert golden.inline is None
    assert len(golden.blob) <= BLOB_MAX_BYTES
    assert len(golden.blob) <= BLOB_USUAL_BYTES or len(chosen) <= 4
    assert len(chosen) >= min(4, BLOB_MAX_BYTES // (8 * elements + 16))
    assert cbor2.loads(golden.blob) == [vector.plain() for vector in golden.vectors]


def test_an_input_no_blob_can_hold_is_refused() -> None:
    model = floats(20_000)
    rows = seeded_rows(model, count=2)
    with pytest.raises(GoldenError) as caught:
        choose_golden(model, rows, rows)
    assert caught.value.code == "io_contract"


def test_the_encoding_is_deterministic_and_as_the_contract_says() -> None:
    golden = GoldenSet((Vector((b"\x01\x02",), (b"\x03",)), Vector((b"\x04\x05",), (b"\x06",))), 2)
    assert golden.blob.hex() == "8282814201028141038281420405814106"
    assert golden.inline == [[[[b"\x01\x02"], [b"\x03"]], [[b"\x04\x05"], [b"\x06"]]], 2]


def test_several_tensors_are_split_in_order() -> None:
    builder = files.Builder()
    graph = builder.graph()
    graph.inputs = [builder.tensor(graph, files.INT8, [1, 2], scales=[1.0]) for _ in range(2)]
    graph.outputs = [builder.tensor(graph, files.INT8, [1, 2], scales=[1.0])]
    builder.add(graph, "ADD", graph.inputs, graph.outputs, options_type=11)
    golden = make_golden(inspect(builder.bytes()), [b"\x01\x02\x03\x04"], [b"\x04\x06"])
    assert golden.vectors == (Vector((b"\x01\x02", b"\x03\x04"), (b"\x04\x06",)),)


def test_seeded_rows_depend_on_the_file_alone() -> None:
    assert seeded_rows(MODEL) == seeded_rows(inspect(files.classifier()))
    assert seeded_rows(MODEL) != seeded_rows(inspect(files.constant()))
    assert len(set(seeded_rows(MODEL))) > 32
    assert all(len(row) == 4 for row in seeded_rows(MODEL))
