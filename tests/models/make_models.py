"""Models that TinyFleet must refuse, or take back: written by code from deploy/models/activity-v1.tflite.

    python -m tests.models.make_models --to DIR [--only NAME ...]

Every model is a function that returns the bytes of a `.tflite`, always the same ones; MODELS names them all
with what TFLM does with each. Made with FlatBuffers and numpy alone. How TFLM behaves was observed in the
wheel; tests/models/test_make_models.py observes it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.graph import Graph, Op, Options, Type, schema

ACTIVITY = Path(__file__).resolve().parents[2] / "deploy" / "models" / "activity-v1.tflite"
WINDOW, AXES, CLASSES, EMBEDDING = 100, 6, 7, 32
WX = 3
INPUT_SCALE = 1.0 / 16.0
FAR = 1 << 30
"""An element index no process has memory at: 1 GiB past the start of a 7-byte tensor."""


class Outcome(StrEnum):
    """What a fresh process that runs TFLM does with a model."""

    RUNS = "runs"
    REFUSED = "refused"
    DIES = "dies"
    HANGS = "hangs"


@dataclass(frozen=True)
class BadModel:
    """make: writes it. outcome: what TFLM does on a window of zeros. why: what is wrong, for people."""

    make: Callable[[], bytes]
    outcome: Outcome
    why: str


def activity() -> Graph:
    """A fresh copy of activity-v1 to change."""
    return Graph(ACTIVITY.read_bytes())


def crash_tensor_index() -> bytes:
    """FULLY_CONNECTED reads a tensor index the subgraph does not have; any walk over the indices finds it."""
    graph = activity()
    graph.find(Op.FULLY_CONNECTED).inputs[0] = 40_000
    return graph.pack()


def crash_short_buffer() -> bytes:
    """The last weights claim (7, 4,000,000), their buffer holds 224 bytes: TFLM reads past the file."""
    graph = activity()
    operator = graph.find(Op.FULLY_CONNECTED)
    graph.at(operator.inputs[1]).shape = [CLASSES, 4_000_000]
    return graph.pack()


def crash_slice() -> bytes:
    """Every index and size in the file is right, yet SLICE starts at element 2^30 of 7 when invoked."""
    graph = activity()
    _slice(graph, graph.tensor(Type.INT32, (2,), data=np.array([0, FAR])))
    return graph.pack()


def crash_no_options() -> bytes:
    """SOFTMAX has lost its options, which the schema allows: TFLM aborts while it prepares the operator.

    Found among 240 seeded mutants of activity-v1, the only one that died although its indices were sound.
    """
    graph = activity()
    operator = graph.find(Op.SOFTMAX)
    operator.builtinOptions, operator.builtinOptionsType = None, Options.NONE
    return graph.pack()


def crash_in_use(*, limit: int = 112) -> bytes:
    """Runs well until the fastest wrist rotation (axis wx) reaches `limit`, then reads 1 GiB away.

    limit: int8 units; 112 is 7 standard deviations. Nothing static is wrong with it, and no window of
    activity-eval.npz reaches the limit; of people 6..10 the 7th and the 9th do.
    """
    graph = activity()
    given = graph.model.subgraphs[0].inputs[0]
    begin = graph.tensor(Type.INT32, (3,), data=np.array([0, 0, WX]))
    size = graph.tensor(Type.INT32, (3,), data=np.array([1, WINDOW, 1]))
    rotation = graph.tensor(Type.INT8, (1, WINDOW, 1), scale=INPUT_SCALE)
    graph.operator(Op.SLICE, [given, begin, size], [rotation], options=schema.SliceOptionsT())
    axes = graph.tensor(Type.INT32, (3,), data=np.array([0, 1, 2]))
    highest = graph.tensor(Type.INT8, (1,), scale=INPUT_SCALE)
    graph.operator(Op.REDUCE_MAX, [rotation, axes], [highest], options=schema.ReducerOptionsT())
    value = graph.tensor(Type.INT32, (1,))
    cast = schema.CastOptionsT()
    cast.inDataType, cast.outDataType = Type.INT8, Type.INT32
    graph.operator(Op.CAST, [highest], [value], options=cast)
    for code, options, number in (
        (Op.ADD, schema.AddOptionsT(), 1 - limit),
        (Op.MAXIMUM, schema.MaximumMinimumOptionsT(), 0),
        (Op.MINIMUM, schema.MaximumMinimumOptionsT(), 1),
        (Op.MUL, schema.MulOptionsT(), [0, FAR]),
    ):
        constant = graph.tensor(Type.INT32, (2,), data=np.broadcast_to(number, 2))
        result = graph.tensor(Type.INT32, (2,))
        graph.operator(code, [value, constant], [result], options=options)
        value = result
    _slice(graph, value)
    return graph.pack()


def _slice(graph: Graph, where: int) -> None:
    """Append a SLICE of one class score, from the indices in tensor `where`; nothing uses what it reads."""
    scores = graph.model.subgraphs[0].outputs[0]
    size = graph.tensor(Type.INT32, (2,), data=np.array([1, 1]))
    read = graph.tensor(Type.INT8, (1, 1), scale=1 / 256, zero_point=-128)
    graph.operator(Op.SLICE, [scores, where, size], [read], options=schema.SliceOptionsT())


def hang() -> bytes:
    """WHILE whose body never changes what its condition looks at: allocates, then runs for ever."""
    return loop(turns=1, step=0)


def slow() -> bytes:
    """WHILE that counts to 8,000,000 before it answers: correct, and far over any latency budget."""
    return loop(turns=8_000_000, step=1)


def loop(*, turns: int, step: int) -> bytes:
    """activity-v1 behind a WHILE that adds `step` to a counter, from 0, until it reaches `turns`."""
    graph = activity()
    start = graph.tensor(Type.INT32, (1,), data=np.array([0]))
    end = graph.tensor(Type.INT32, (1,))
    condition, body = graph.subgraph(), graph.subgraph()
    seen = graph.tensor(Type.INT32, (1,), sub=condition)
    limit = graph.tensor(Type.INT32, (1,), data=np.array([turns]), sub=condition)
    more = graph.tensor(Type.BOOL, (1,), sub=condition)
    graph.operator(Op.LESS, [seen, limit], [more], options=schema.LessOptionsT(), sub=condition)
    graph.io([seen], [more], sub=condition)
    old = graph.tensor(Type.INT32, (1,), sub=body)
    amount = graph.tensor(Type.INT32, (1,), data=np.array([step]), sub=body)
    new = graph.tensor(Type.INT32, (1,), sub=body)
    graph.operator(Op.ADD, [old, amount], [new], options=schema.AddOptionsT(), sub=body)
    graph.io([old], [new], sub=body)
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = condition, body
    graph.operator(Op.WHILE, [start], [end], options=options, at=0)
    return graph.pack()


def op_missing() -> bytes:
    """ADD_N adds zeros to the class scores: same answers, but an operator few firmware builds link."""
    graph = activity()
    softmax = graph.find(Op.SOFTMAX)
    before = softmax.inputs[0]
    quantisation = graph.at(before).quantization
    scale, zero_point = float(quantisation.scale[0]), int(quantisation.zeroPoint[0])
    shape = (1, CLASSES)
    nothing = graph.tensor(
        Type.INT8, shape, data=np.full(shape, zero_point), scale=scale, zero_point=zero_point
    )
    after = graph.tensor(Type.INT8, shape, scale=scale, zero_point=zero_point)
    last = len(graph.model.subgraphs[0].operators) - 1
    graph.operator(Op.ADD_N, [before, nothing], [after], options=schema.AddNOptionsT(), at=last)
    softmax.inputs[0] = after
    return graph.pack()


def too_large(*, copies: int = 320) -> bytes:
    """Spread 32 features over 32 * `copies` equal units and add them up again: equal answers, 411 kB."""
    graph = activity()
    dense = graph.find(Op.FULLY_CONNECTED)
    features, weights, bias = dense.inputs
    units = EMBEDDING * copies
    quantisation = graph.at(features).quantization
    scale, zero_point = float(quantisation.scale[0]), int(quantisation.zeroPoint[0])
    spread = np.tile(np.eye(EMBEDDING, dtype=np.int8) * 127, (copies, 1))
    spreading = graph.tensor(Type.INT8, (units, EMBEDDING), data=spread, scale=1 / 127)
    wide = graph.tensor(Type.INT8, (1, units), scale=scale, zero_point=zero_point)
    last = len(graph.model.subgraphs[0].operators) - 2
    options = schema.FullyConnectedOptionsT()
    graph.operator(Op.FULLY_CONNECTED, [features, spreading, -1], [wide], options=options, at=last)
    values, offsets = graph.constant(weights), graph.constant(bias)
    per_channel = np.asarray(graph.at(weights).quantization.scale, np.float32) / np.float32(copies)
    summing = graph.tensor(
        Type.INT8, (CLASSES, units), data=np.tile(_needed(values), (1, copies)), scale=per_channel
    )
    added = graph.tensor(Type.INT32, (CLASSES,), data=_needed(offsets) * copies, scale=per_channel * scale)
    dense.inputs = [wide, summing, added]
    return graph.pack()


def arena_hungry(*, rows: int = 60_000) -> bytes:
    """PAD the window to `rows` samples and shrink it again: small file, same answers, an arena of 720 kB."""
    graph = activity()
    given = graph.model.subgraphs[0].inputs[0]
    padded = graph.tensor(Type.INT8, (1, rows, AXES), scale=INPUT_SCALE)
    amounts = graph.tensor(Type.INT32, (3, 2), data=np.array([[0, 0], [0, rows - WINDOW], [0, 0]]))
    graph.operator(Op.PAD, [given, amounts], [padded], options=schema.PadOptionsT(), at=0)
    begin = graph.tensor(Type.INT32, (3,), data=np.array([0, 0, 0]))
    size = graph.tensor(Type.INT32, (3,), data=np.array([1, WINDOW, AXES]))
    shrunk = graph.tensor(Type.INT8, (1, WINDOW, AXES), scale=INPUT_SCALE)
    graph.operator(Op.SLICE, [padded, begin, size], [shrunk], options=schema.SliceOptionsT(), at=1)
    graph.find(Op.RESHAPE).inputs[0] = shrunk
    return graph.pack()


def float_twin() -> bytes:
    """activity-v1 computed in float32: the right answers, which `weight_only` should give and does not."""
    return _in_float(activity(), weights="float").pack()


def weight_only() -> bytes:
    """Float activations, per-channel int8 weights behind DEQUANTIZE: TFLM uses one scale for all channels."""
    return _in_float(activity(), weights="dequantize").pack()


def hybrid() -> bytes:
    """Float activations and int8 weights in one operator ("dynamic range"): TFLM refuses to allocate it."""
    return _in_float(activity(), weights="int8").pack()


def variables_unset() -> bytes:
    """The last weights come from READ_VARIABLE, and nothing ever assigns that variable: it reads as zeros."""
    graph = _in_float(activity(), weights="float")
    handle = graph.tensor(Type.RESOURCE, (1,))
    options = schema.VarHandleOptionsT()
    options.container, options.sharedName = "", "dense/kernel"
    graph.operator(Op.VAR_HANDLE, [], [handle], options=options, at=0)
    read = graph.tensor(Type.FLOAT32, (CLASSES, EMBEDDING))
    graph.operator(Op.READ_VARIABLE, [handle], [read], options=schema.ReadVariableOptionsT(), at=1)
    graph.find(Op.FULLY_CONNECTED).inputs[1] = read
    return graph.pack()


def constant_output() -> bytes:
    """The last weights are all zero, so every window gets the same answer; it runs like any other."""
    graph = activity()
    weights = graph.find(Op.FULLY_CONNECTED).inputs[1]
    graph.set_constant(weights, np.zeros_like(_needed(graph.constant(weights))))
    return graph.pack()


def wrong_io_scale() -> bytes:
    """The input declares a step of 1/2 where the weights expect 1/16: it sees an eighth of every signal."""
    graph = activity()
    graph.at(graph.model.subgraphs[0].inputs[0]).quantization.scale = np.array([0.5], np.float32)
    return graph.pack()


def truncated() -> bytes:
    """The first two thirds of activity-v1."""
    data = ACTIVITY.read_bytes()
    return data[: len(data) * 2 // 3]


def not_a_model() -> bytes:
    """Bytes that are no FlatBuffer at all."""
    return b"\x89PNG\r\n\x1a\n" + np.random.default_rng(7).bytes(4_000)


def _unbalance(graph: Graph) -> None:
    """Scale the channels of the first convolution by 1/8 .. 8 and undo it in the second: the same function.

    Channels of trained models differ as much (and much more in depthwise ones); activity-v1's happen to be
    alike, so that using one scale for all of them would do little harm.
    """
    first, second = (op for op in graph.model.subgraphs[0].operators[:4] if graph.code_of(op) == Op.CONV_2D)
    kernel, bias, following = first.inputs[1], first.inputs[2], second.inputs[1]
    factors = np.exp2(np.linspace(-3, 3, graph.at(kernel).shape[0]).round()).astype(np.float32)
    for index in (kernel, bias):
        quantisation = graph.at(index).quantization
        quantisation.scale = np.asarray(quantisation.scale, np.float32) * factors
    quantisation = graph.at(following).quantization
    column = np.asarray(quantisation.scale, np.float32).reshape(-1, 1, 1, 1)
    real = _needed(graph.constant(following)) * column / factors
    quantisation.scale = (np.abs(real).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    graph.set_constant(following, np.round(real / quantisation.scale.reshape(-1, 1, 1, 1)))


def _needed(values: Any) -> Any:
    if values is None:
        raise ValueError("the tensor is not a constant")
    return values


def _in_float(graph: Graph, *, weights: str) -> Graph:
    """Turn the int8 graph into float32. weights: `float`, `dequantize` (int8, then an operator) or `int8`."""
    subgraph = graph.model.subgraphs[0]
    _unbalance(graph)
    weighted = [op for op in subgraph.operators if graph.code_of(op) in (Op.CONV_2D, Op.FULLY_CONNECTED)]
    kernels, biases = {op.inputs[1] for op in weighted}, {op.inputs[2] for op in weighted}
    for index in range(len(subgraph.tensors)):
        tensor, values = graph.at(index), graph.constant(index)
        if values is None:
            tensor.type, tensor.quantization = Type.FLOAT32, None
        elif index in biases or (index in kernels and weights == "float"):
            scales = np.asarray(tensor.quantization.scale, np.float32)
            tensor.type, tensor.quantization = Type.FLOAT32, None
            graph.set_constant(index, values * scales.reshape(-1, *[1] * (values.ndim - 1)))
    if weights == "dequantize":
        for index in sorted(kernels):
            real = graph.tensor(Type.FLOAT32, tuple(graph.at(index).shape))
            for op in weighted:
                op.inputs = [real if one == index else one for one in op.inputs]
            graph.operator(Op.DEQUANTIZE, [index], [real], options=schema.DequantizeOptionsT(), at=0)
    return graph


MODELS: dict[str, BadModel] = {
    "crash-tensor-index": BadModel(crash_tensor_index, Outcome.DIES, "a tensor index out of range"),
    "crash-short-buffer": BadModel(crash_short_buffer, Outcome.DIES, "weights larger than their buffer"),
    "crash-slice": BadModel(crash_slice, Outcome.DIES, "reads from an element that does not exist"),
    "crash-no-options": BadModel(crash_no_options, Outcome.DIES, "an operator without its options"),
    "crash-in-use": BadModel(crash_in_use, Outcome.RUNS, "dies only when the wrist turns fast"),
    "hang": BadModel(hang, Outcome.HANGS, "a loop without end"),
    "slow": BadModel(slow, Outcome.RUNS, "8,000,000 turns of a loop"),
    "op-missing": BadModel(op_missing, Outcome.RUNS, "ADD_N, which a class may lack"),
    "too-large": BadModel(too_large, Outcome.RUNS, "411 kB, more than a slot"),
    "arena-hungry": BadModel(arena_hungry, Outcome.RUNS, "needs 720 kB of arena"),
    "hybrid": BadModel(hybrid, Outcome.REFUSED, "int8 weights, float activations"),
    "weight-only": BadModel(weight_only, Outcome.RUNS, "per-channel weights behind DEQUANTIZE"),
    "variables-unset": BadModel(variables_unset, Outcome.RUNS, "weights in a variable nobody assigns"),
    "constant-output": BadModel(constant_output, Outcome.RUNS, "the same answer to everything"),
    "wrong-io-scale": BadModel(wrong_io_scale, Outcome.RUNS, "declares another input step than it has"),
    "truncated": BadModel(truncated, Outcome.REFUSED, "two thirds of a file"),
    "not-a-model": BadModel(not_a_model, Outcome.REFUSED, "not a FlatBuffer"),
}
"""Every model by name; `NAME.tflite` on disk."""


def write_all(target_dir: Path, names: list[str] | None = None) -> list[Path]:
    """Write the named models, or all, into a folder; return their paths. KeyError for an unknown name."""
    target_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names or list(MODELS):
        path = target_dir / f"{name}.tflite"
        path.write_bytes(MODELS[name].make())
        paths.append(path)
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Write the models from the command line and list them."""
    parser = argparse.ArgumentParser(description="Write the models that TinyFleet must refuse or take back.")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--only", nargs="+", choices=sorted(MODELS), metavar="NAME", help="only these")
    options = parser.parse_args(arguments)
    for path in write_all(options.to, options.only):
        print(f"{path.name:26} {path.stat().st_size:>9,} bytes  {MODELS[path.stem].why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
