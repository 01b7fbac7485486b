"""The server's side of the device's index walk: the same broken models, each with the field that is wrong.

`tests/firmware/engine/test_model_check.py` holds both walks against thousands of mutants of the same set.
"""

from __future__ import annotations

import struct

import pytest

from ota.inspector import InspectionError, inspect
from tests.firmware.engine.streaming import streaming
from tests.models.broken import ACTIVITY, BAD, change, mutants, plan
from tests.models.graph import Graph
from tests.models.make_models import loop

FIELDS = {
    "schema version": "model.version",
    "a tensor's buffer": "model.subgraphs[0].tensors[3].buffer",
    "the options of another operator": "builtin_options",
    "dimensions whose product wraps": "shape",
    "fewer scales than channels": "quantization.scale",
    "an axis out of range": "quantization.scale",
    "zero points for some channels": "quantization.zero_point",
    "a custom operator without a name": "custom_code",
    "a plan for more tensors than it has": "model.metadata[0]",
    "a plan with an offset below zero": "model.metadata[0]",
    "a plan of two words": "model.metadata[0]",
    "a loop that calls itself": "model.subgraphs[0]",
    "a loop without its body": "body_subgraph_index",
    "a variable without a name": "shared_name",
    "containers on some variables only": "container",
}


@pytest.mark.parametrize("what", [name for name in BAD if name != "no input at all"])
def test_what_a_device_refuses_is_a_schema_error_that_names_the_field(what: str) -> None:
    with pytest.raises(InspectionError) as caught:
        inspect(BAD[what])
    assert caught.value.code == "schema"
    path = caught.value.text.partition(": ")[0]
    assert path.startswith("model")
    assert FIELDS.get(what, "") in path


def test_a_model_without_inputs_is_refused_for_its_contract() -> None:
    assert [reason.code for reason in inspect(BAD["no input at all"]).refusals] == ["io_contract"]


@pytest.mark.parametrize(
    "model", [change(plan), streaming(names=("a", "b", "c")), loop(turns=2, step=1), ACTIVITY.read_bytes()]
)
def test_sound_models_pass(model: bytes) -> None:
    assert inspect(model).refusals == ()


def test_more_variables_than_a_device_counts_are_refused() -> None:
    assert len(inspect(streaming(names=tuple(f"v{i}" for i in range(64)))).resource_variables) == 64
    with pytest.raises(InspectionError, match="more than 64 variables"):
        inspect(streaming(names=tuple(f"v{i}" for i in range(65))))


def test_a_zero_axis_does_not_hide_a_product_that_wraps() -> None:
    def edit(graph: Graph) -> None:
        graph.at(graph.model.subgraphs[0].operators[1].outputs[0]).shape = [65_536, 65_536, 0]

    with pytest.raises(InspectionError, match="above 2,147,483,647 elements"):
        inspect(change(edit))


def test_a_field_that_nobody_reads_lies_inside_its_table_too() -> None:
    data = bytearray(ACTIVITY.read_bytes())
    root = struct.unpack_from("<I", data)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    struct.pack_into("<H", data, vtable + size - 2, 60_000)
    with pytest.raises(InspectionError, match="outside its table"):
        inspect(bytes(data))


def test_the_shared_mutants_are_the_same_for_the_same_seed() -> None:
    model = streaming()
    assert mutants(model, 20, seed=3) == mutants(model, 20, seed=3)
    assert mutants(model, 20, seed=3) != mutants(model, 20, seed=4)
