"""Take a `.tflite` apart, change it, put it together again: with FlatBuffers alone, TFLM is not loaded.

The schema module ships inside the `tflite-micro` wheel. It is loaded from its file, so that neither the test
process nor this one imports the runtime.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

_SCHEMA = "tensorflow/lite/micro/python/schema_py_generated.py"
_MODULE = "tests_tflite_schema"


def _load_schema() -> Any:
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = importlib.util.find_spec("tflite_micro")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the tflite-micro wheel is not installed (x86-64 Linux only)")
    spec = importlib.util.spec_from_file_location(
        _MODULE, Path(package.submodule_search_locations[0]) / _SCHEMA
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"the tflite-micro wheel has no {_SCHEMA}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


schema = _load_schema()
Op = schema.BuiltinOperator
Type = schema.TensorType
Options = schema.BuiltinOptions

_NUMPY = {
    Type.FLOAT32: np.float32,
    Type.INT8: np.int8,
    Type.INT16: np.int16,
    Type.INT32: np.int32,
    Type.INT64: np.int64,
    Type.BOOL: np.bool_,
}


def _integers(values: Any) -> list[int]:
    return [] if values is None else [int(one) for one in values]


class Graph:
    """A model being changed. Indices are those of tensors in one subgraph, the first by default.

    `at` is where `operator` inserts; None appends.
    """

    def __init__(self, data: bytes | None = None) -> None:
        if data is None:
            self.model = schema.ModelT()
            self.model.version = 3
            self.model.description = "made for tests"
            self.model.operatorCodes, self.model.subgraphs = [], []
            self.model.buffers = [schema.BufferT()]
            self.subgraph()
        else:
            self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
            for subgraph in self.model.subgraphs:
                self._make_editable(subgraph)

    def _make_editable(self, subgraph: Any) -> None:
        """The schema module reads index vectors as read-only arrays; plain lists can be changed."""
        subgraph.inputs, subgraph.outputs = _integers(subgraph.inputs), _integers(subgraph.outputs)
        for operator in subgraph.operators:
            operator.inputs, operator.outputs = _integers(operator.inputs), _integers(operator.outputs)
        for tensor in subgraph.tensors:
            tensor.shape = _integers(tensor.shape)

    def pack(self) -> bytes:
        """The model as a `.tflite` file; the same model always gives the same bytes."""
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def subgraph(self) -> int:
        """Add an empty subgraph and return its index."""
        added = schema.SubGraphT()
        added.tensors, added.operators, added.inputs, added.outputs = [], [], [], []
        self.model.subgraphs.append(added)
        return len(self.model.subgraphs) - 1

    def io(self, inputs: list[int], outputs: list[int], *, sub: int = 0) -> None:
        """Name the tensors that go in and come out."""
        self.model.subgraphs[sub].inputs, self.model.subgraphs[sub].outputs = inputs, outputs

    def tensor(
        self,
        dtype: int,
        shape: tuple[int, ...],
        *,
        data: npt.NDArray[Any] | None = None,
        scale: float | npt.NDArray[np.float32] | None = None,
        zero_point: int = 0,
        axis: int = 0,
        sub: int = 0,
        name: str = "",
    ) -> int:
        """Add a tensor, a constant when `data` is given, and return its index.

        scale: one number, or an array for per-channel quantisation along `axis` (zero points then all alike).
        """
        tensors = self.model.subgraphs[sub].tensors
        added = schema.TensorT()
        added.name, added.type, added.shape = name or f"t{sub}_{len(tensors)}", dtype, list(shape)
        self.model.buffers.append(schema.BufferT())
        added.buffer = len(self.model.buffers) - 1
        if data is not None:
            typed: npt.NDArray[Any] = np.ascontiguousarray(data, dtype=_NUMPY[dtype])
            self.model.buffers[added.buffer].data = np.frombuffer(typed.tobytes(), np.uint8)
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            quantisation = schema.QuantizationParametersT()
            quantisation.scale = scales
            quantisation.zeroPoint = np.full(len(scales), zero_point, np.int64)
            quantisation.quantizedDimension = axis
            added.quantization = quantisation
        tensors.append(added)
        return len(tensors) - 1

    def operator(
        self,
        code: int,
        inputs: list[int],
        outputs: list[int],
        *,
        options: Any = None,
        at: int | None = None,
        sub: int = 0,
    ) -> None:
        """Add an operator; `options` is a schema object such as AddOptionsT, named like its union member."""
        added = schema.OperatorT()
        added.opcodeIndex, added.inputs, added.outputs = self._code(code), inputs, outputs
        if options is not None:
            added.builtinOptions = options
            added.builtinOptionsType = getattr(Options, type(options).__name__.removesuffix("T"))
        operators = self.model.subgraphs[sub].operators
        operators.insert(len(operators) if at is None else at, added)

    def _code(self, builtin: int) -> int:
        for position, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return position
        added = schema.OperatorCodeT()
        added.builtinCode, added.deprecatedBuiltinCode, added.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

    def code_of(self, operator: Any) -> int:
        """Builtin code of an operator object."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return int(max(code.builtinCode, code.deprecatedBuiltinCode))

    def find(self, builtin: int) -> Any:
        """The last operator of this kind in the first subgraph. Raises LookupError when there is none."""
        for operator in reversed(self.model.subgraphs[0].operators):
            if self.code_of(operator) == builtin:
                return operator
        raise LookupError(f"no operator {builtin}")

    def at(self, index: int, *, sub: int = 0) -> Any:
        """The tensor object at an index."""
        return self.model.subgraphs[sub].tensors[index]

    def constant(self, index: int) -> npt.NDArray[Any] | None:
        """Values of a constant tensor in its own type and shape; None for an activation."""
        tensor = self.at(index)
        data = self.model.buffers[tensor.buffer].data
        if data is None or len(data) == 0:
            return None
        raw = np.asarray(data, np.uint8).tobytes()
        return np.frombuffer(raw, _NUMPY[tensor.type]).reshape(tensor.shape)

    def set_constant(self, index: int, values: npt.NDArray[Any]) -> None:
        """Give a constant other values, in the tensor's type; its buffer must not be shared."""
        tensor = self.at(index)
        typed: npt.NDArray[Any] = np.ascontiguousarray(values, dtype=_NUMPY[tensor.type])
        self.model.buffers[tensor.buffer].data = np.frombuffer(typed.tobytes(), np.uint8)
