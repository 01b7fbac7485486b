"""Broken models for both walks, the device's in C and the server's inspector: one thing wrong in each, and
seeded damage. The same bytes for the same seed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ota.inspector import InspectionError, inspect
from tests.firmware.engine.streaming import streaming
from tests.models.graph import Graph, Op, schema
from tests.models.make_models import loop

ACTIVITY = Path(__file__).resolve().parents[2] / "deploy" / "models" / "activity-v1.tflite"


def change(edit: Callable[[Graph], None], *, model: Callable[[], bytes] = ACTIVITY.read_bytes) -> bytes:
    """A model after one change."""
    graph = Graph(model())
    edit(graph)
    return graph.pack()


def _dense(graph: Graph) -> list[int]:
    return list(graph.find(Op.FULLY_CONNECTED).inputs)


def _set(thing: object, **values: object) -> None:
    for name, value in values.items():
        setattr(thing, name, value)


def _metadata(graph: Graph, words: Sequence[int]) -> None:
    entry = schema.MetadataT()
    entry.name, entry.buffer = "OfflineMemoryAllocation", len(graph.model.buffers)
    graph.model.buffers.append(schema.BufferT())
    graph.model.buffers[-1].data = np.frombuffer(struct.pack(f"<{len(words)}i", *words), np.uint8)
    graph.model.metadata = [entry]


def plan(graph: Graph, *, n: int = 0, offset: int = -1) -> None:
    tensors = len(graph.model.subgraphs[0].tensors)
    _metadata(graph, [1, 0, tensors + n, *[offset] * tensors])


def _custom(graph: Graph) -> None:
    _set(graph.model.operatorCodes[0], builtinCode=32, deprecatedBuiltinCode=32, customCode=None)


def _variable(name: str | None, container: str | None) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        _set(graph.find(Op.VAR_HANDLE).builtinOptions, sharedName=name, container=container)

    return edit


def _calls(index: int) -> Callable[[Graph], None]:
    return lambda graph: _set(graph.find(Op.WHILE).builtinOptions, bodySubgraphIndex=index)


BAD: dict[str, bytes] = {
    "schema version": change(lambda g: _set(g.model, version=2)),
    "no subgraph": change(lambda g: _set(g.model, subgraphs=[])),
    "a tensor's buffer": change(lambda g: _set(g.at(3), buffer=9_999)),
    "an operator's output": change(lambda g: _set(g.find(Op.MEAN), outputs=[-1])),
    "an operator's input": change(lambda g: _set(g.find(Op.MEAN), inputs=[-2, 0])),
    "an operator's code": change(lambda g: _set(g.find(Op.MEAN), opcodeIndex=64)),
    "the options of another operator": change(
        lambda g: _set(g.find(Op.MAX_POOL_2D), opcodeIndex=g.find(Op.SOFTMAX).opcodeIndex)
    ),
    "a graph's input": change(lambda g: g.io([999], g.model.subgraphs[0].outputs)),
    "a graph's output": change(lambda g: g.io(g.model.subgraphs[0].inputs, [-1])),
    "no input at all": change(lambda g: g.io([], g.model.subgraphs[0].outputs)),
    "a negative dimension": change(lambda g: _set(g.at(_dense(g)[0]), shape=[1, -32])),
    "dimensions whose product wraps": change(lambda g: _set(g.at(_dense(g)[1]), shape=[65_536, 65_536, 4])),
    "nine dimensions": change(lambda g: _set(g.at(_dense(g)[0]), shape=[1] * 8 + [32])),
    "fewer scales than channels": change(lambda g: _set(g.at(_dense(g)[1]), shape=[3, 32])),
    "an axis out of range": change(lambda g: _set(g.at(_dense(g)[1]).quantization, quantizedDimension=2)),
    "zero points for some channels": change(
        lambda g: _set(g.at(_dense(g)[1]).quantization, zeroPoint=np.zeros(3, np.int64))
    ),
    "a custom operator without a name": change(_custom),
    "a plan for more tensors than it has": change(lambda g: plan(g, n=1)),
    "a plan with an offset below zero": change(lambda g: plan(g, offset=-8)),
    "a plan of two words": change(lambda g: _metadata(g, [1, 0])),
    "a loop that calls itself": change(_calls(0), model=lambda: loop(turns=2, step=1)),
    "a loop without its body": change(_calls(7), model=lambda: loop(turns=2, step=1)),
    "a variable without a name": change(_variable(None, ""), model=streaming),
    "containers on some variables only": change(_variable("ring", None), model=streaming),
}
"""One thing wrong in each, by what it is."""


def is_refused(model: bytes) -> bool:
    """True when the inspector raises its own error, or finds a reason why no device can run the model."""
    try:
        return bool(inspect(model).refusals)
    except InspectionError:
        return True


def mutants(model: bytes, n: int, *, seed: int) -> list[bytes]:
    """n copies, each with one to four changed words or bytes, at places where structure is likely."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        copy = bytearray(model)
        for _ in range(int(random.integers(1, 5))):
            at = int(random.integers(0, len(copy) - 4))
            match int(random.integers(0, 4)):
                case 0:
                    copy[at] ^= 1 << int(random.integers(0, 8))
                case 1:
                    struct.pack_into("<i", copy, at & ~3, int(random.integers(-(2**31), 2**31)))
                case 2:
                    struct.pack_into("<i", copy, at & ~3, int(random.integers(-3, 70)))
                case _:
                    struct.pack_into("<H", copy, at & ~1, int(random.integers(0, 65_536)))
        made.append(bytes(copy))
    return made
