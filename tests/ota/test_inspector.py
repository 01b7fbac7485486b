"""The inspector: what it says of good files, what it refuses, and that no bytes get past its own error."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.flatbuffer import STEPS_MAX, Buffer, FlatBufferError
from ota.inspector import UPLOAD_MAX_BYTES, Inspection, InspectionError, inspect
from tests.ota import tflite_files as files
from tests.ota.mutants import mutate

ROOT = Path(__file__).parents[2]
ACTIVITY = ROOT / "deploy/models/activity-v1.tflite"


def outcome(data: bytes) -> Inspection | InspectionError:
    """A description or the inspector's own error; any other exception fails the test."""
    try:
        found = inspect(data)
    except InspectionError as error:
        refused = error
    else:
        json.dumps(found.to_json(), allow_nan=False)
        found.manifest_operators()
        return found
    assert refused.code in {"not_tflite", "schema", "too_large"}
    assert refused.text
    return refused


def test_a_classifier_is_described() -> None:
    found = inspect(files.classifier(scale=0.05))
    assert [(use.name, use.builtin, use.count, use.macs) for use in found.operators] == [
        ("FULLY_CONNECTED", 9, 1, 16)
    ]
    assert found.quantisation == "int8"
    assert found.constant_bytes == 16 + 16
    (spec,) = found.inputs
    assert (spec.dtype_name, spec.shape, spec.zero_point, spec.byte_size) == ("int8", (1, 4), 0, 4)
    assert spec.manifest() == [9, [1, 4], struct.unpack("<I", struct.pack("<f", 0.05))[0], 0]
    assert found.refusals == ()


def test_the_activity_model_is_described() -> None:
    found = inspect(ACTIVITY.read_bytes())
    expected = json.loads((ACTIVITY.parent / "activity.json").read_text())["models"]["activity-v1"]
    assert found.sha256 == expected["sha256"]
    assert found.macs == expected["macs"]
    assert {use.name: use.count for use in found.operators} == expected["operators"]
    assert found.manifest_operators() == sorted(found.builtin_operators)
    assert list(found.outputs[0].shape) == expected["output"]["shape"]
    assert found.outputs[0].scale == expected["output"]["scale"]
    assert not found.is_stateful


def test_macs_of_a_convolution() -> None:
    assert (
        inspect(files.convolution(ic=8, oc=16, size=10, kernel=3, padding=0)).macs == 10 * 10 * 16 * 3 * 3 * 8
    )
    assert (
        inspect(files.convolution(ic=8, oc=16, size=10, kernel=3, padding=1)).macs == 8 * 8 * 16 * 3 * 3 * 8
    )


def test_custom_operators_are_known_by_name() -> None:
    found = inspect(files.custom("CIRCULAR_BUFFER"))
    assert found.manifest_operators() == [[32, "CIRCULAR_BUFFER"]]
    assert found.builtin_operators == frozenset()
    assert found.is_stateful
    assert found.refusals == ()


def test_the_larger_operator_code_counts() -> None:
    # GELU is 150: the old 8-bit field can only say 127, PLACEHOLDER_FOR_GREATER_OP_CODES.
    assert [use.name for use in inspect(files.single("GELU")).operators] == ["GELU"]
    old = files.Builder()
    graph = old.graph()
    graph.inputs, graph.outputs = [old.tensor(graph, 0, [1])], [old.tensor(graph, 0, [1])]
    old.add(graph, "RELU", graph.inputs, graph.outputs)
    plain = old.plain()
    del plain[1][0][3]  # a file older than the 32-bit field
    assert [use.name for use in inspect(files.pack(plain)).operators] == ["RELU"]


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (files.hybrid(), "hybrid", "int8 weights"),
        (files.weight_only(), "per_channel_dequantize", "4 scales"),
        (files.variable(assigned=False), "variable_without_value", "'weights'"),
        (files.single("GELU"), "op_missing", "GELU"),
        (files.custom("FlexErf"), "op_missing", "FlexErf"),
    ],
)
def test_what_no_device_can_run_is_refused(data: bytes, code: str, word: str) -> None:
    (reason,) = inspect(data).refusals
    assert reason.code == code
    assert word in reason.text
    assert reason.fix


def test_an_assigned_variable_is_accepted() -> None:
    found = inspect(files.variable(assigned=True))
    assert found.refusals == ()
    assert found.resource_variables == ("weights",)
    assert found.is_stateful


def test_edges_a_manifest_cannot_carry_are_refused() -> None:
    for dtype, shape in ((files.FLOAT32, []), (files.FLOAT32, [1] * 6), (files.RESOURCE, [1])):
        builder = files.Builder()
        graph = builder.graph()
        graph.inputs = [builder.tensor(graph, files.FLOAT32, [1])]
        graph.outputs = [builder.tensor(graph, dtype, shape)]
        builder.add(graph, "RELU", graph.inputs, graph.outputs)
        assert [reason.code for reason in inspect(builder.bytes()).refusals] == ["io_contract"]
    builder = files.Builder()
    builder.graph()
    assert {reason.code for reason in inspect(builder.bytes()).refusals} == {"io_contract"}


def test_edges_larger_than_a_golden_vector_are_refused() -> None:
    for size, is_refused in ((8192, False), (8193, True), (2**29, True)):
        builder = files.Builder()
        graph = builder.graph()
        graph.inputs = [builder.tensor(graph, files.FLOAT32, [size])]
        graph.outputs = [builder.tensor(graph, files.FLOAT32, [size])]
        builder.add(graph, "RELU", graph.inputs, graph.outputs)
        codes = [reason.code for reason in inspect(builder.bytes()).refusals]
        assert codes == (["io_contract"] if is_refused else [])


def test_files_that_are_no_models() -> None:
    for data in (b"", b"TFL3", b"PK\x03\x04" + bytes(100), b"\x1c\0\0\0TFL2" + bytes(100)):
        with pytest.raises(InspectionError) as caught:
            inspect(data)
        assert caught.value.code == "not_tflite"


def test_a_file_above_the_upload_limit_is_too_large() -> None:
    with pytest.raises(InspectionError) as caught:
        inspect(files.classifier() + bytes(UPLOAD_MAX_BYTES))
    assert caught.value.code == "too_large"


def broken(change: str) -> bytes:
    """A classifier with one thing wrong."""
    builder = files.Builder()
    graph = builder.graph()
    shape = {"negative": [1, -4], "huge": [2**16, 2**16]}.get(change, [1, 4])
    graph.inputs = [builder.tensor(graph, files.FLOAT32, shape)]
    size = 8 if change == "short constant" else 16
    weights = builder.tensor(graph, files.FLOAT32, [4], data=bytes(size))
    graph.outputs = [builder.tensor(graph, 99 if change == "dtype" else files.FLOAT32, [1, 4])]
    inputs = [graph.inputs[0], 77 if change == "tensor index" else weights]
    builder.add(graph, "ADD", inputs, [-1] if change == "absent output" else graph.outputs, options_type=11)
    plain = builder.plain()
    subgraph = plain[2][0]
    if change == "buffer index":
        subgraph[0][0][2] = files.Scalar("I", 9)
    elif change == "operator code":
        subgraph[3][0][0] = files.Scalar("I", 3)
    elif change == "graph output":
        subgraph[2] = files.Numbers("i", [12])
    elif change == "version":
        plain[0] = files.Scalar("I", 4)
    elif change == "external buffer":
        plain[4][0] = {1: files.Scalar("Q", 4096), 2: files.Scalar("Q", 16)}
    elif change == "no subgraph":
        plain[2] = []
    return files.pack(plain)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("negative", "model.subgraphs[0].tensors[0].shape"),
        ("huge", "model.subgraphs[0].tensors[0].shape"),
        ("dtype", "model.subgraphs[0].tensors[2].type"),
        ("short constant", "model.subgraphs[0].tensors[1].buffer"),
        ("tensor index", "model.subgraphs[0].operators[0].inputs[1]"),
        ("absent output", "model.subgraphs[0].operators[0].outputs[0]"),
        ("buffer index", "model.subgraphs[0].tensors[0].buffer"),
        ("operator code", "model.subgraphs[0].operators[0].opcode_index"),
        ("graph output", "model.subgraphs[0].outputs[0]"),
        ("version", "model.version"),
        ("external buffer", "model.buffers[0].offset"),
        ("no subgraph", "model.subgraphs"),
    ],
)
def test_a_schema_error_names_the_field(change: str, path: str) -> None:
    with pytest.raises(InspectionError) as caught:
        inspect(broken(change))
    assert caught.value.code == "schema"
    assert caught.value.text.startswith(path + ":")


def test_the_unbroken_file_of_the_schema_tests_is_fine() -> None:
    assert inspect(broken("nothing")).refusals == ()


def test_every_truncation_is_refused() -> None:
    data = ACTIVITY.read_bytes()
    for length in random.Random(1).sample(range(len(data)), 150):
        assert isinstance(outcome(data[:length]), InspectionError), length


def test_garbage_behind_a_good_header_is_refused() -> None:
    generator = random.Random(2)
    for _ in range(150):
        data = struct.pack("<I", generator.randrange(8, 400)) + b"TFL3" + generator.randbytes(400)
        assert isinstance(outcome(data), InspectionError)


@pytest.mark.parametrize(
    "source", [ACTIVITY.read_bytes(), files.variable(assigned=True), files.convolution()]
)
def test_mutants_give_a_description_or_an_error(source: bytes) -> None:
    codes = {getattr(outcome(mutant), "code", "described") for mutant in mutate(source, 50, seed=3)}
    assert codes == {"schema", "described"} or codes == {"schema", "described", "not_tflite"}


@given(st.binary(max_size=600))
def test_any_bytes_give_a_description_or_an_error(tail: bytes) -> None:
    outcome(tail)
    outcome(b"\x08\0\0\0TFL3" + tail)


@given(st.data())
def test_any_change_gives_a_description_or_an_error(data: st.DataObject) -> None:
    source = bytearray(files.variable(assigned=True))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(source) - 4))
        struct.pack_into("<I", source, at, data.draw(st.integers(0, 2**32 - 1)))
    outcome(bytes(source))


def test_one_table_named_a_million_times_costs_little() -> None:
    # A root whose `buffers` vector holds a million offsets to the same table, in a file of 4 MB.
    count = 1_000_000
    head = bytearray(files.pack({0: files.Scalar("I", 3), 4: [{}]}))
    head += bytes(-len(head) % 4)
    vector = len(head)
    target = vector + 4 + 4 * count
    entries = struct.pack("<I", count) + b"".join(
        struct.pack("<I", target - (vector + 4 + 4 * i)) for i in range(count)
    )
    table = struct.pack("<i", target - 8 - target + 16) + bytes(4)
    data = bytes(head) + entries + table + bytes(16)
    root = struct.unpack_from("<I", data)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    field = root + struct.unpack_from("<H", data, vtable + 4 + 2 * 4)[0]
    patched = bytearray(data)
    struct.pack_into("<I", patched, field, vector - field)
    started = time.process_time()
    found = outcome(bytes(patched))
    assert isinstance(found, InspectionError)
    assert "1,000,000 entries" in found.text
    assert time.process_time() - started < 2


def test_the_step_budget_ends_nested_repetition() -> None:
    # 16 subgraphs of 8,000 tensors with shapes: legal counts, a quarter of a million parts to visit.
    builder = files.Builder()
    graph = builder.graph()
    for _ in range(8000):
        builder.tensor(graph, files.FLOAT32, [1])
    plain = builder.plain()
    plain[2] = plain[2] * 16
    small = files.pack(plain | {2: plain[2][:1]})
    assert isinstance(outcome(small), Inspection)
    found = outcome(files.pack(plain))
    assert isinstance(found, InspectionError)
    assert f"{STEPS_MAX:,} parts" in found.text


def test_data_past_the_end_of_the_file_is_refused() -> None:
    data = bytearray(files.classifier())
    weights = data.index((np.eye(4) * 127).astype(np.int8).tobytes())
    for count in (len(data) - weights + 1, 2**31, 2**32 - 1):
        struct.pack_into("<I", data, weights - 4, count)
        found = outcome(bytes(data))
        assert isinstance(found, InspectionError)
        assert found.text.startswith("model.buffers[1].data:")
        assert "past the end" in found.text


def vector_at(offset: int) -> bytes:
    """A table at 12 whose field 0 is a vector of one i64 that starts at `offset`."""
    head = struct.pack("<I4s4H", 16, b"TFL3", 6, 8, 4, 0)
    table = struct.pack("<iI", 16 - 8, offset - 20)
    return head + table + bytes(offset - 24) + struct.pack("<Iq", 1, 7) + bytes(8)


def test_misaligned_elements_are_refused() -> None:
    # x86 forgives an unaligned load, an ESP32 panics.
    good = Buffer(vector_at(28)).root().vector(0, 8, "field")
    assert good is not None
    assert good.scalars("i64", at_most=1) == (7,)
    for offset in (32, 30, 29):
        with pytest.raises(FlatBufferError, match="misaligned"):
            Buffer(vector_at(offset)).root().vector(0, 8, "field")


def test_the_shared_modules_import_no_django() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import ota.preflight, ota.examination; "
    code += "print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(ROOT)], capture_output=True, check=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "ota.preflight" in loaded
    assert not {"django", "celery", "tflite_micro"} & loaded


def test_a_float_model_with_int8_core_is_noted() -> None:
    builder = files.Builder()
    graph = builder.graph()
    graph.inputs = [builder.tensor(graph, files.FLOAT32, [1, 4])]
    small = builder.tensor(graph, files.INT8, [1, 4], scales=[0.1])
    weights = builder.tensor(graph, files.INT8, [4, 4], data=np.eye(4, dtype=np.int8), scales=[0.01])
    product = builder.tensor(graph, files.INT8, [1, 4], scales=[0.1])
    graph.outputs = [builder.tensor(graph, files.FLOAT32, [1, 4])]
    builder.add(graph, "QUANTIZE", graph.inputs, [small])
    builder.add(graph, "FULLY_CONNECTED", [small, weights, -1], [product], options_type=8)
    builder.add(graph, "DEQUANTIZE", [product], graph.outputs)
    found = inspect(builder.bytes())
    assert found.quantisation == "int8"
    assert any("int8 core" in note for note in found.notes)
    assert found.refusals == ()
