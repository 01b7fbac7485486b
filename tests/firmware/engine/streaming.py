"""A streaming model written by code: a ring of two frames in a resource variable, as wake words have."""

from __future__ import annotations

import numpy as np

from tests.models.graph import Graph, Op, Type, schema

FRAME, CLASSES, SCALE = 8, 4, 1.0 / 16.0


def streaming(*, seed: int = 7, names: tuple[str, ...] = ("ring",)) -> bytes:
    """int8 (1, 8) in, int8 (1, 4) out: weights x [last frame, this frame]; one variable for each of `names`,
    chained, so that the output of two variables also depends on the frame before the last.
    """
    random = np.random.default_rng(seed)
    graph = Graph()
    frame = graph.tensor(Type.INT8, (1, FRAME), scale=SCALE)
    begin = graph.tensor(Type.INT32, (2,), data=np.array([0, FRAME]))
    size = graph.tensor(Type.INT32, (2,), data=np.array([1, FRAME]))
    once = graph.subgraph()
    call = schema.CallOnceOptionsT()
    call.initSubgraphIndex = once
    graph.operator(Op.CALL_ONCE, [], [], options=call)
    newest = frame
    both = -1
    for name in names:
        zero = graph.tensor(Type.INT8, (1, 2 * FRAME), data=np.zeros((1, 2 * FRAME)), scale=SCALE, sub=once)
        graph.operator(Op.ASSIGN_VARIABLE, [_handle(graph, name, once), zero], [], sub=once)
        handle = _handle(graph, name, 0)
        old = graph.tensor(Type.INT8, (1, 2 * FRAME), scale=SCALE)
        graph.operator(Op.READ_VARIABLE, [handle], [old])
        last = graph.tensor(Type.INT8, (1, FRAME), scale=SCALE)
        graph.operator(Op.SLICE, [old, begin, size], [last], options=schema.SliceOptionsT())
        both = graph.tensor(Type.INT8, (1, 2 * FRAME), scale=SCALE)
        concatenation = schema.ConcatenationOptionsT()
        concatenation.axis = 1
        graph.operator(Op.CONCATENATION, [last, newest], [both], options=concatenation)
        graph.operator(Op.ASSIGN_VARIABLE, [handle, both], [])
        newest = last
    weights = graph.tensor(
        Type.INT8, (CLASSES, 2 * FRAME), data=random.integers(-127, 128, (CLASSES, 2 * FRAME)), scale=1 / 64
    )
    bias = graph.tensor(Type.INT32, (CLASSES,), data=random.integers(-999, 999, CLASSES), scale=SCALE / 64)
    scores = graph.tensor(Type.INT8, (1, CLASSES), scale=0.25)
    dense = schema.FullyConnectedOptionsT()
    graph.operator(Op.FULLY_CONNECTED, [both, weights, bias], [scores], options=dense)
    graph.io([frame], [scores])
    graph.io([], [], sub=once)
    return graph.pack()


def _handle(graph: Graph, name: str, sub: int) -> int:
    options = schema.VarHandleOptionsT()
    options.container, options.sharedName = "", name
    handle = graph.tensor(Type.RESOURCE, (), sub=sub)
    graph.operator(Op.VAR_HANDLE, [], [handle], options=options, sub=sub)
    return handle


def filtered(*, seed: int = 7, memory: int = 5) -> bytes:
    """int8 (1, 8) in, int8 (1, 4) out: an SVDF of rank 2, as keyword spotters have, then a dense layer.

    Its memory of `memory` frames is a variable tensor, not a resource variable.
    """
    units, rank = 6, 2
    random = np.random.default_rng(seed)

    def weights(dtype: int, *shape: int, scale: float) -> int:
        return graph.tensor(dtype, shape, data=random.integers(-127, 128, shape), scale=scale)

    graph = Graph()
    frame = graph.tensor(Type.INT8, (1, FRAME), scale=SCALE)
    feature = weights(Type.INT8, units * rank, FRAME, scale=1 / 64)
    time = weights(Type.INT16, units * rank, memory, scale=1 / 128)
    state_scale = 1 / 256
    bias = graph.tensor(Type.INT32, (units,), data=random.integers(-999, 999, units), scale=state_scale / 128)
    state = graph.tensor(Type.INT16, (1, units * rank * memory), scale=state_scale)
    graph.model.subgraphs[0].tensors[state].isVariable = True
    hidden = graph.tensor(Type.INT8, (1, units), scale=0.5, zero_point=-128)
    options = schema.SVDFOptionsT()
    options.rank, options.fusedActivationFunction = rank, schema.ActivationFunctionType.RELU
    graph.operator(Op.SVDF, [frame, feature, time, bias, state], [hidden], options=options)
    dense = weights(Type.INT8, CLASSES, units, scale=1 / 64)
    scores = graph.tensor(Type.INT8, (1, CLASSES), scale=1.0)
    graph.operator(Op.FULLY_CONNECTED, [hidden, dense, -1], [scores], options=schema.FullyConnectedOptionsT())
    graph.io([frame], [scores])
    return graph.pack()
