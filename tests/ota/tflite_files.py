"""Small `.tflite` files made by code: the models the tests need and nobody else would export.

`pack` is a FlatBuffer writer of a few lines: tables are dicts {field number: value}, children follow their
parents.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ota.operators import BUILTIN_CODES, CUSTOM

FLOAT32, INT32, INT8, BOOL, RESOURCE = 0, 2, 9, 6, 13
SCALARS = {"B": 1, "b": 1, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}


@dataclass(frozen=True)
class Scalar:
    """An inline number: struct format letter and value."""

    kind: str
    value: float


@dataclass(frozen=True)
class Numbers:
    """A vector of numbers."""

    kind: str
    values: tuple[float, ...] | list[int] | bytes
    align: int = 4


def pack(root: dict[int, Any], identifier: bytes = b"TFL3") -> bytes:
    """A FlatBuffer file. Values: Scalar, Numbers, str, bytes (a vector of u8), dict (table), list (vector of
    tables)."""
    out = bytearray(4) + identifier
    struct.pack_into("<I", out, 0, _table(out, root))
    return bytes(out) + bytes(-len(out) % 16)


def _pad(out: bytearray, align: int, extra: int = 0) -> None:
    out.extend(bytes(-(len(out) + extra) % align))


def _table(out: bytearray, fields: dict[int, Any]) -> int:
    sizes = {slot: SCALARS[value.kind] if isinstance(value, Scalar) else 4 for slot, value in fields.items()}
    offsets, at = {}, 4
    for slot, size in sorted(sizes.items(), key=lambda item: -item[1]):
        at += -at % size
        offsets[slot], at = at, at + size
    # Field offsets are relative to the table, so the table itself is aligned to 8.
    count = max(fields, default=-1) + 1
    _pad(out, 2)
    vtable = len(out)
    out += struct.pack(f"<HH{count}H", 4 + 2 * count, at, *(offsets.get(slot, 0) for slot in range(count)))
    _pad(out, 8)
    table = len(out)
    out += struct.pack("<i", table - vtable) + bytes(at - 4)
    for slot, value in fields.items():
        place = table + offsets[slot]
        if isinstance(value, Scalar):
            struct.pack_into(f"<{value.kind}", out, place, value.value)
        else:
            struct.pack_into("<I", out, place, _child(out, value) - place)
    return table


def _child(out: bytearray, value: Any) -> int:
    if isinstance(value, dict):
        return _table(out, value)
    if isinstance(value, list):
        _pad(out, 4)
        start = len(out)
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for index, entry in enumerate(value):
            place = start + 4 + 4 * index
            struct.pack_into("<I", out, place, _table(out, entry) - place)
        return start
    if isinstance(value, str):
        _pad(out, 4)
        start = len(out)
        out += struct.pack("<I", len(value)) + value.encode() + b"\0"
        return start
    numbers = value if isinstance(value, Numbers) else Numbers("B", value, 16)
    align = max(numbers.align, SCALARS[numbers.kind])
    _pad(out, align, 4)
    start = len(out)
    out += struct.pack(f"<I{len(numbers.values)}{numbers.kind}", len(numbers.values), *numbers.values)
    return start


@dataclass
class Graph:
    """One subgraph under construction; tensors and operators are added in order."""

    tensors: list[dict[int, Any]] = field(default_factory=list)
    operators: list[tuple[str, list[int], list[int], int, dict[int, Any]]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


class Builder:
    """A model under construction."""

    def __init__(self) -> None:
        self.graphs: list[Graph] = []
        self.buffers: list[dict[int, Any]] = [{}]
        self.codes: list[str] = []
        self.metadata: list[str] = []

    def graph(self) -> Graph:
        self.graphs.append(Graph())
        return self.graphs[-1]

    def tensor(
        self,
        graph: Graph,
        dtype: int,
        shape: list[int],
        *,
        data: np.ndarray | bytes | None = None,
        scales: list[float] | None = None,
        zero_point: int = 0,
        name: str = "t",
    ) -> int:
        buffer = 0
        if data is not None:
            self.buffers.append({0: data if isinstance(data, bytes) else data.tobytes()})
            buffer = len(self.buffers) - 1
        found: dict[int, Any] = {
            0: Numbers("i", shape),
            1: Scalar("b", dtype),
            2: Scalar("I", buffer),
            3: name,
        }
        if scales:
            zeros = [zero_point] * len(scales)
            found[4] = {2: Numbers("f", scales), 3: Numbers("q", zeros)}
        graph.tensors.append(found)
        return len(graph.tensors) - 1

    def add(
        self,
        graph: Graph,
        name: str,
        inputs: list[int],
        outputs: list[int],
        *,
        options_type: int = 0,
        options: dict[int, Any] | None = None,
    ) -> None:
        if name not in self.codes:
            self.codes.append(name)
        graph.operators.append((name, inputs, outputs, options_type, options or {}))

    def plain(self) -> dict[int, Any]:
        """The root table, for tests that break it before packing."""
        return {
            0: Scalar("I", 3),
            1: [self._code(name) for name in self.codes],
            2: [self._subgraph(graph) for graph in self.graphs],
            3: "made by a test",
            4: self.buffers,
            6: [{0: name, 1: Scalar("I", 0)} for name in self.metadata],
        }

    def bytes(self) -> bytes:
        return pack(self.plain())

    @staticmethod
    def _code(name: str) -> dict[int, Any]:
        builtin = BUILTIN_CODES.get(name, CUSTOM)
        found = {0: Scalar("b", min(builtin, 127)), 2: Scalar("i", 1), 3: Scalar("i", builtin)}
        return found | ({1: name} if builtin == CUSTOM else {})

    def _subgraph(self, graph: Graph) -> dict[int, Any]:
        operators = []
        for name, inputs, outputs, options_type, options in graph.operators:
            entry: dict[int, Any] = {
                0: Scalar("I", self.codes.index(name)),
                1: Numbers("i", inputs),
                2: Numbers("i", outputs),
            }
            if options_type:
                entry |= {3: Scalar("B", options_type), 4: options}
            operators.append(entry)
        return {
            0: graph.tensors,
            1: Numbers("i", graph.inputs),
            2: Numbers("i", graph.outputs),
            3: operators,
        }


def classifier(weights: np.ndarray | None = None, *, scale: float = 0.05) -> bytes:
    """int8 [1, 4] -> FULLY_CONNECTED -> int8 [1, 4]. By default the identity: it answers with its largest
    input."""
    builder = Builder()
    graph = builder.graph()
    matrix = (np.eye(4) * 127).astype(np.int8) if weights is None else weights.astype(np.int8)
    graph.inputs = [builder.tensor(graph, INT8, [1, 4], scales=[scale], name="in")]
    kernel = builder.tensor(graph, INT8, [4, 4], data=matrix, scales=[1 / 127], name="w")
    bias = builder.tensor(graph, INT32, [4], data=np.zeros(4, np.int32), scales=[scale / 127], name="b")
    graph.outputs = [builder.tensor(graph, INT8, [1, 4], scales=[scale], name="out")]
    builder.add(graph, "FULLY_CONNECTED", [graph.inputs[0], kernel, bias], graph.outputs, options_type=8)
    return builder.bytes()


def constant() -> bytes:
    """A classifier whose weights are all zero: every input gives the same output."""
    return classifier(np.zeros((4, 4)))


def convolution(ic: int = 8, oc: int = 16, size: int = 10, kernel: int = 3, padding: int = 0) -> bytes:
    """int8 CONV_2D over a square image, stride 1. padding: 0 SAME, 1 VALID."""
    builder = Builder()
    graph = builder.graph()
    out = size if padding == 0 else size - kernel + 1
    weights = (
        np.arange(oc * kernel * kernel * ic, dtype=np.int64).astype(np.int8).reshape(oc, kernel, kernel, ic)
    )
    graph.inputs = [builder.tensor(graph, INT8, [1, size, size, ic], scales=[0.1])]
    w = builder.tensor(graph, INT8, [oc, kernel, kernel, ic], data=weights, scales=[0.01])
    b = builder.tensor(graph, INT32, [oc], data=np.zeros(oc, np.int32), scales=[0.001])
    graph.outputs = [builder.tensor(graph, INT8, [1, out, out, oc], scales=[0.5])]
    options = {
        0: Scalar("b", padding),
        1: Scalar("i", 1),
        2: Scalar("i", 1),
        4: Scalar("i", 1),
        5: Scalar("i", 1),
    }
    builder.add(graph, "CONV_2D", [graph.inputs[0], w, b], graph.outputs, options_type=1, options=options)
    return builder.bytes()


def hybrid() -> bytes:
    """float activations with int8 weights: TFLM refuses it at AllocateTensors."""
    builder = Builder()
    graph = builder.graph()
    graph.inputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    w = builder.tensor(graph, INT8, [4, 4], data=np.eye(4, dtype=np.int8), scales=[0.01])
    graph.outputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    builder.add(graph, "FULLY_CONNECTED", [graph.inputs[0], w, -1], graph.outputs, options_type=8)
    return builder.bytes()


def weight_only() -> bytes:
    """Per-channel int8 weights expanded by DEQUANTIZE: TFLM runs it with one scale, and wrongly.

    The true weights are a permutation that answers class (largest input + 1) % 4; with the first scale only,
    row 0 drowns the others.
    """
    builder = Builder()
    graph = builder.graph()
    stored = np.array([[0, 0, 0, 1], [127, 0, 0, 0], [0, 127, 0, 0], [0, 0, 127, 0]], np.int8)
    graph.inputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    w = builder.tensor(graph, INT8, [4, 4], data=stored, scales=[1.0, 1 / 127, 1 / 127, 1 / 127])
    expanded = builder.tensor(graph, FLOAT32, [4, 4])
    graph.outputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    builder.add(graph, "DEQUANTIZE", [w], [expanded])
    builder.add(graph, "FULLY_CONNECTED", [graph.inputs[0], expanded, -1], graph.outputs, options_type=8)
    return builder.bytes()


def variable(*, assigned: bool) -> bytes:
    """Adds [0, 5, 0, 0] from a resource variable, which an init subgraph assigns or nobody does."""
    builder = Builder()
    graph, init = builder.graph(), builder.graph()
    options = {0: "", 1: "weights"}
    graph.inputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    handle = builder.tensor(graph, RESOURCE, [1])
    value = builder.tensor(graph, FLOAT32, [1, 4])
    graph.outputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    builder.add(graph, "CALL_ONCE", [], [], options_type=103, options={0: Scalar("i", 1)})
    builder.add(graph, "VAR_HANDLE", [], [handle], options_type=111, options=options)
    builder.add(graph, "READ_VARIABLE", [handle], [value], options_type=112)
    builder.add(graph, "ADD", [graph.inputs[0], value], graph.outputs, options_type=11)
    if assigned:
        inside = builder.tensor(init, RESOURCE, [1])
        filled = builder.tensor(init, FLOAT32, [1, 4], data=np.array([0, 5, 0, 0], np.float32))
        builder.add(init, "VAR_HANDLE", [], [inside], options_type=111, options=options)
        builder.add(init, "ASSIGN_VARIABLE", [inside, filled], [], options_type=113)
    return builder.bytes()


def accumulator(start: float | None = None) -> bytes:
    """A resource variable that sums its inputs: out = sum so far, from `start` if it is set."""
    builder = Builder()
    graph = builder.graph()
    options = {0: "", 1: "sum"}
    graph.inputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    handle = builder.tensor(graph, RESOURCE, [1])
    value = builder.tensor(graph, FLOAT32, [1, 4])
    graph.outputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    if start is not None:
        init = builder.graph()
        builder.add(graph, "CALL_ONCE", [], [], options_type=103, options={0: Scalar("i", 1)})
        inside = builder.tensor(init, RESOURCE, [1])
        filled = builder.tensor(init, FLOAT32, [1, 4], data=np.full(4, start, np.float32))
        builder.add(init, "VAR_HANDLE", [], [inside], options_type=111, options=options)
        builder.add(init, "ASSIGN_VARIABLE", [inside, filled], [], options_type=113)
    builder.add(graph, "VAR_HANDLE", [], [handle], options_type=111, options=options)
    builder.add(graph, "READ_VARIABLE", [handle], [value], options_type=112)
    builder.add(graph, "ADD", [graph.inputs[0], value], graph.outputs, options_type=11)
    builder.add(graph, "ASSIGN_VARIABLE", [handle, graph.outputs[0]], [], options_type=113)
    return builder.bytes()


def custom(name: str) -> bytes:
    """One custom operator without its options. `SignalFramer` then crashes TFLM."""
    return single(name)


def single(name: str, dtype: int = FLOAT32) -> bytes:
    """One operator with one input and one output."""
    builder = Builder()
    graph = builder.graph()
    graph.inputs = [builder.tensor(graph, dtype, [1, 4], scales=[0.1] if dtype == INT8 else None)]
    graph.outputs = [builder.tensor(graph, dtype, [1, 4], scales=[0.1] if dtype == INT8 else None)]
    builder.add(graph, name, graph.inputs, graph.outputs)
    return builder.bytes()


def endless() -> bytes:
    """A WHILE whose condition is constantly true: the model loads and never answers."""
    builder = Builder()
    graph, condition, body = builder.graph(), builder.graph(), builder.graph()
    graph.inputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    graph.outputs = [builder.tensor(graph, FLOAT32, [1, 4])]
    options = {0: Scalar("i", 1), 1: Scalar("i", 2)}
    builder.add(graph, "WHILE", graph.inputs, graph.outputs, options_type=93, options=options)
    condition.inputs = [builder.tensor(condition, FLOAT32, [1, 4])]
    condition.outputs = [builder.tensor(condition, BOOL, [1])]
    largest, axis = builder.tensor(condition, FLOAT32, [1]), -1
    axis = builder.tensor(condition, INT32, [2], data=np.array([0, 1], np.int32))
    builder.add(condition, "REDUCE_MAX", [condition.inputs[0], axis], [largest], options_type=27)
    builder.add(condition, "EQUAL", [largest, largest], condition.outputs, options_type=53)
    body.inputs = [builder.tensor(body, FLOAT32, [1, 4])]
    body.outputs = [builder.tensor(body, FLOAT32, [1, 4])]
    builder.add(body, "ABS", body.inputs, body.outputs, options_type=78)
    return builder.bytes()
