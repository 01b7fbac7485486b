"""The part of a `.tflite` file the inspector needs, read strictly into frozen dataclasses.

`read_model` follows the TFLite schema (version 3) with the bounded reader of `ota.flatbuffer` and then walks
every index: operator -> operator code, operator -> tensor, tensor -> buffer, control flow -> subgraph. What
it returns has no index out of range and no constant that is smaller than its shape says, so TFLM reads inside
the file; a device's own walk (`ota.index_walk` has its other rules) refuses nothing that passes here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ota import index_walk
from ota.flatbuffer import Buffer, FlatBufferError, Table, Vector
from ota.index_walk import Options
from ota.operators import CUSTOM

DTYPE_NAMES: Final[dict[int, str]] = dict(
    enumerate(
        (
            *(
                "float32",
                "float16",
                "int32",
                "uint8",
                "int64",
                "string",
                "bool",
                "int16",
                "complex64",
                "int8",
            ),
            *("float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4"),
            *("bfloat16", "int2", "uint4", "float8_e4m3fn", "float8_e5m2"),
        )
    )
)
"""TFLite TensorType -> name. SPEC.md uses the same numbers in manifest keys 13 and 14."""
_DTYPE_BITS: Final = {
    0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128,
    12: 64, 15: 32, 16: 16, 17: 4, 18: 16, 19: 2, 20: 4, 21: 8, 22: 8,
}  # fmt: skip
IDENTIFIER: Final = b"TFL3"
LEAST_BYTES: Final = 16

_VAR_HANDLE: Final = 142
_CONV, _DEPTHWISE, _AVERAGE_POOL, _MAX_POOL, _L2_POOL, _TRANSPOSE_CONV = 3, 4, 1, 17, 12, 67


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. shape: elements per axis. data_bytes: constant bytes in the file, 0 for an activation.

    scale_count: 0 not quantised, 1 per tensor, more per channel; scale and zero_point are those of channel 0.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    buffer: int
    data_bytes: int
    scale_count: int
    scale: float
    zero_point: int
    is_variable: bool

    @property
    def is_constant(self) -> bool:
        """True when the file carries the tensor's values."""
        return self.data_bytes > 0

    @property
    def elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Window:
    """Padding (0 SAME, 1 VALID), strides and dilations of a convolution or pooling operator."""

    padding: int
    stride_w: int
    stride_h: int
    dilation_w: int = 1
    dilation_h: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One operator in a subgraph. inputs may hold -1 (optional, absent); every other index is in range."""

    builtin: int
    custom: str | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: Window | None
    variable: str | None
    calls: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Tensors, operators in execution order, and the indices of the subgraph's inputs and outputs."""

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A whole file. constant_bytes: bytes of all buffers tensors use, each counted once."""

    description: str
    subgraphs: tuple[Subgraph, ...]
    metadata: tuple[str, ...]
    constant_bytes: int


def dtype_name(dtype: int) -> str:
    """Name of a TFLite TensorType, `type 99` for one the schema lacks."""
    return DTYPE_NAMES.get(dtype, f"type {dtype}")


def dtype_bytes(dtype: int, elements: int) -> int | None:
    """Bytes of `elements` packed values; None for types without a fixed size."""
    bits = _DTYPE_BITS.get(dtype)
    return None if bits is None else (bits * elements + 7) // 8


def read_model(data: bytes) -> Model:
    """Parse a `.tflite` file that starts with a `TFL3` FlatBuffer.

    Raises FlatBufferError with the path of the first field that is wrong; any bytes end in one of the two.
    """
    if len(data) < LEAST_BYTES:
        raise FlatBufferError("model", f"{len(data)} bytes are too few for a model")
    root = Buffer(data).root()
    version = root.scalar(0, "u32", "version")
    if version != 3:
        raise FlatBufferError("model.version", f"schema version {version}, TFLM reads version 3")
    codes = [
        _operator_code(table) for table in root.tables(1, "operator_codes", at_most=index_walk.OPCODES_MAX)
    ]
    buffers = [_buffer(table) for table in root.tables(4, "buffers", at_most=index_walk.BUFFERS_MAX)]
    if not buffers:
        raise FlatBufferError("model.buffers", "the file has no buffer")
    tables = root.tables(2, "subgraphs", at_most=index_walk.SUBGRAPHS_MAX)
    if not tables:
        raise FlatBufferError("model.subgraphs", "the file has no subgraph")
    sizes = [0 if data is None else data.count for data in buffers]
    options = Options(len(tables))
    subgraphs = tuple(_subgraph(table, codes, sizes, options, number) for number, table in enumerate(tables))
    options.close()
    names = _metadata(root, buffers, len(subgraphs[0].tensors))
    _signatures(root, subgraphs)
    used = {tensor.buffer for subgraph in subgraphs for tensor in subgraph.tensors}
    return Model(root.string(3, "description"), subgraphs, names, sum(sizes[index] for index in used))


def _metadata(root: Table, buffers: list[Vector | None], tensors: int) -> tuple[str, ...]:
    """Names of the entries; tensors: of the first subgraph, which a memory plan must fit."""
    entries = root.tables(6, "metadata", at_most=256)
    for entry in entries:
        index = _index(entry.scalar(1, "u32", "buffer"), len(buffers), f"{entry.path}.buffer")
        index_walk.offline_plan(entry, buffers[index], tensors)
    return tuple(entry.string(0, "name") for entry in entries)


def _index(value: int, count: int, path: str, *, least: int = 0) -> int:
    if not least <= value < count:
        raise FlatBufferError(path, f"index {value} is outside {least}..{count - 1}")
    return value


def _operator_code(table: Table) -> tuple[int, str | None]:
    # Old writers set only the 8-bit field, new ones both; the schema says the larger one counts.
    new, old = table.scalar(3, "i32", "builtin_code"), table.scalar(0, "i8", "deprecated_builtin_code")
    if min(new, old) < 0:
        raise FlatBufferError(f"{table.path}.builtin_code", f"negative operator code {min(new, old)}")
    builtin = max(new, old)
    custom = table.string(1, "custom_code") if table.has(1) else None
    if builtin == CUSTOM and not custom:
        raise FlatBufferError(f"{table.path}.custom_code", "a custom operator without a name")
    return builtin, custom if builtin == CUSTOM else None


def _buffer(table: Table) -> Vector | None:
    if table.scalar(1, "u64", "offset") > 1:
        raise FlatBufferError(
            f"{table.path}.offset", "data stored outside the FlatBuffer, which TFLM cannot read"
        )
    return table.vector(0, 1, "data")


def _signatures(root: Table, subgraphs: tuple[Subgraph, ...]) -> None:
    for table in root.tables(7, "signature_defs", at_most=64):
        owner = table.scalar(4, "u32", "subgraph_index")
        _index(owner, len(subgraphs), f"{table.path}.subgraph_index")
        for number, name in ((0, "inputs"), (1, "outputs")):
            for entry in table.tables(number, name, at_most=64):
                index = entry.scalar(1, "u32", "tensor_index")
                _index(index, len(subgraphs[owner].tensors), f"{entry.path}.tensor_index")


def _subgraph(
    table: Table, codes: list[tuple[int, str | None]], buffers: list[int], options: Options, number: int
) -> Subgraph:
    entries = index_walk.required(table, 0, "tensors").tables(at_most=index_walk.TENSORS_MAX)
    tensors = tuple(_tensor(entry, buffers) for entry in entries)
    for field, name in ((1, "inputs"), (2, "outputs")):
        index_walk.required(table, field, name)
    inputs = _indices(table, 1, "inputs", len(tensors))
    outputs = _indices(table, 2, "outputs", len(tensors))
    operators = index_walk.required(table, 3, "operators").tables(at_most=index_walk.OPERATORS_MAX)
    nodes = tuple(_node(entry, codes, len(tensors), options, number) for entry in operators)
    for name, indices in (("inputs", inputs), ("outputs", outputs)):
        for position, index in enumerate(indices):
            if 0 in tensors[index].shape:
                raise FlatBufferError(
                    f"{table.path}.{name}[{position}]", f"shape {tensors[index].shape} is empty"
                )
    return Subgraph(tensors, nodes, inputs, outputs)


def _indices(table: Table, number: int, name: str, count: int, *, least: int = 0) -> tuple[int, ...]:
    found = table.vector(number, 4, name)
    if found is None:
        return ()
    values = found.scalars("i32", at_most=index_walk.OPERANDS_MAX)
    for position, value in enumerate(values):
        _index(value, count, f"{found.path}[{position}]", least=least)
    return values


def _tensor(table: Table, buffers: list[int]) -> Tensor:
    shape_at = table.vector(0, 4, "shape")
    shape = () if shape_at is None else shape_at.scalars("i32", at_most=index_walk.DIMENSIONS_MAX)
    dtype = table.scalar(1, "i8", "type")
    if dtype not in DTYPE_NAMES:
        raise FlatBufferError(f"{table.path}.type", f"unknown tensor type {dtype}")
    elements = index_walk.elements(shape, f"{table.path}.shape")
    buffer = _index(table.scalar(2, "u32", "buffer"), len(buffers), f"{table.path}.buffer")
    scale_count, scale, zero_point = _quantisation(table, shape)
    index_walk.constant_type(dtype, dtype_name(dtype), buffers[buffer], f"{table.path}.buffer")
    needed = dtype_bytes(dtype, elements)
    # Sparse and compressed constants, shorter than their shape, are not read by the TFLM on a device either.
    if needed is not None and 0 < buffers[buffer] < needed:
        raise FlatBufferError(
            f"{table.path}.buffer",
            f"{dtype_name(dtype)} {list(shape)} needs {needed:,} bytes, its buffer holds {buffers[buffer]:,}",
        )
    return Tensor(
        name=table.string(3, "name"),
        dtype=dtype,
        shape=shape,
        buffer=buffer,
        data_bytes=buffers[buffer],
        scale_count=scale_count,
        scale=scale,
        zero_point=zero_point,
        is_variable=bool(table.scalar(5, "u8", "is_variable")),
    )


def _quantisation(table: Table, shape: tuple[int, ...]) -> tuple[int, float, int]:
    quantisation = table.table(4, "quantization")
    if quantisation is None:
        return 0, 0.0, 0
    scales = quantisation.vector(2, 4, "scale")
    zero_points = quantisation.vector(3, 8, "zero_point")
    index_walk.channels(
        quantisation, shape, scales.count if scales else 0, zero_points.count if zero_points else 0
    )
    if scales is None or scales.count == 0:
        return 0, 0.0, 0
    scale = float(scales.first("f32") or 0.0)
    if not math.isfinite(scale) or scale < 0:
        raise FlatBufferError(scales.path, f"scale {scale} is not a finite number above 0")
    first = zero_points.first("i64") if zero_points is not None else 0
    zero_point = int(first or 0)
    if not -(2**31) <= zero_point < 2**31:
        raise FlatBufferError(f"{table.path}.quantization.zero_point", f"{zero_point} does not fit 32 bits")
    return scales.count, scale, zero_point


def _node(
    table: Table, codes: list[tuple[int, str | None]], tensors: int, options: Options, subgraph: int
) -> Node:
    opcode = table.scalar(0, "u32", "opcode_index")
    builtin, custom = codes[_index(opcode, len(codes), f"{table.path}.opcode_index")]
    inputs = _indices(table, 1, "inputs", tensors, least=-1)
    outputs = _indices(table, 2, "outputs", tensors)
    _indices(table, 8, "intermediates", tensors)
    table.vector(5, 1, "custom_options")
    found, calls = options.read(table, builtin, subgraph)
    window, variable = None, None
    if found is not None:
        window = _window(builtin, found)
        variable = found.string(1, "shared_name") if builtin == _VAR_HANDLE else None
    return Node(builtin, custom, inputs, outputs, window, variable, calls)


def _window(builtin: int, options: Table) -> Window | None:
    if builtin not in (_CONV, _DEPTHWISE, _AVERAGE_POOL, _MAX_POOL, _L2_POOL, _TRANSPOSE_CONV):
        return None
    padding = options.scalar(0, "i8", "padding")
    stride_w = options.scalar(1, "i32", "stride_w")
    stride_h = options.scalar(2, "i32", "stride_h")
    if stride_w < 1 or stride_h < 1 or padding not in (0, 1):
        raise FlatBufferError(
            options.path, f"padding {padding}, strides {stride_h} x {stride_w} are not usable"
        )
    dilation_w = dilation_h = 1
    if builtin in (_CONV, _DEPTHWISE):
        first = 4 if builtin == _CONV else 5
        dilation_w = options.scalar(first, "i32", "dilation_w_factor", 1)
        dilation_h = options.scalar(first + 1, "i32", "dilation_h_factor", 1)
    return Window(padding, stride_w, stride_h, dilation_w, dilation_h)
