"""Dense layers as 1 x 1 convolutions: the same arithmetic in another kernel.

The optional TFLM library is older than per-channel scales in FULLY_CONNECTED and, without a word, takes the
first scale for every row. (Golden vectors are in the manifest because of such things.) Its CONV_2D knows
them. So the engine is compared on models in which those layers are convolutions, with the wheel's outputs for
the model as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tests.models.graph import Graph, Op, Type, schema

VALID = 1


def without_dense_layers(model: bytes) -> bytes:
    """Every FULLY_CONNECTED with per-channel weights becomes RESHAPE, CONV_2D, RESHAPE."""
    graph = Graph(model)
    operators = graph.model.subgraphs[0].operators
    for dense in [one for one in operators if graph.code_of(one) == Op.FULLY_CONNECTED]:
        given, weights, *bias = dense.inputs
        if len(graph.at(weights).quantization.scale) == 1:
            continue
        place = next(i for i, one in enumerate(operators) if one is dense)
        rows, columns = graph.at(weights).shape
        graph.at(weights).shape = [rows, 1, 1, columns]
        wide = _like(graph, given, [1, 1, 1, columns])
        scores = _like(graph, dense.outputs[0], [1, 1, 1, rows])
        options = schema.Conv2DOptionsT()
        options.padding, options.strideW, options.strideH = VALID, 1, 1
        options.fusedActivationFunction = dense.builtinOptions.fusedActivationFunction
        del operators[place]
        _reshape(graph, given, wide, at=place)
        graph.operator(Op.CONV_2D, [wide, weights, *bias], [scores], options=options, at=place + 1)
        _reshape(graph, scores, dense.outputs[0], at=place + 2)
    return graph.pack()


def _like(graph: Graph, index: int, shape: list[int]) -> int:
    """An activation with another's type and quantisation."""
    tensors: list[Any] = graph.model.subgraphs[0].tensors
    added = graph.tensor(graph.at(index).type, tuple(shape))
    tensors[added].quantization = copy.copy(graph.at(index).quantization)
    return added


def _reshape(graph: Graph, given: int, wanted: int, *, at: int) -> None:
    shape = np.array(graph.at(wanted).shape)
    constant = graph.tensor(Type.INT32, (len(shape),), data=shape)
    options = schema.ReshapeOptionsT()
    options.newShape = [int(n) for n in shape]
    graph.operator(Op.RESHAPE, [given, constant], [wanted], options=options, at=at)
