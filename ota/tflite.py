"""The part of a `.tflite` file the inspector needs, read strictly into frozen dataclasses.

`read_model` follows the TFLite schema (version 3) with the bounded reader of `ota.flatbuffer` and then walks
every index: operator -> operator code, operator -> tensor, tensor -> buffer, control flow -> subgraph. What
it returns has no index out of range and no constant that is smaller than its shape says, so TFLM reads inside
the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ota.flatbuffer import Buffer, FlatBufferError, Table
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
SUBGRAPHS_MAX: Final = 64
TENSORS_MAX: Final = 16_384
OPERATORS_MAX: Final = 8_192
BUFFERS_MAX: Final = 32_768
DIMENSIONS_MAX: Final = 8
ELEMENTS_MAX: Final = 2**31 - 1

_IF, _WHILE, _CALL_ONCE, _VAR_HANDLE = 118, 119, 129, 142
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
    is_sparse: bool

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
    root = Buffer(data).root()
    version = root.scalar(0, "u32", "version")
    if version != 3:
        raise FlatBufferError("model.version", f"schema version {version}, TFLM reads version 3")
    codes = [_operator_code(table) for table in root.tables(1, "operator_codes", at_most=1024)]
    buffers = [_buffer_bytes(table) for table in root.tables(4, "buffers", at_most=BUFFERS_MAX)]
    metadata = root.tables(6, "metadata", at_most=256)
    for entry in metadata:
        _index(entry.scalar(1, "u32", "buffer"), len(buffers), f"{entry.path}.buffer")
    names = tuple(entry.string(0, "name") for entry in metadata)
    is_compressed = "COMPRESSION_METADATA" in names
    tables = root.tables(2, "subgraphs", at_most=SUBGRAPHS_MAX)
    if not tables:
        raise FlatBufferError("model.subgraphs", "the file has no subgraph")
    subgraphs = tuple(_subgraph(table, codes, buffers, len(tables), is_compressed) for table in tables)
    _signatures(root, subgraphs)
    used = {tensor.buffer for subgraph in subgraphs for tensor in subgraph.tensors}
    return Model(root.string(3, "description"), subgraphs, names, sum(buffers[index] for index in used))


def _index(value: int, count: int, path: str, *, least: int = 0) -> int:
    if not least <= value < count:
        raise FlatBufferError(path, f"index {value} is outside {least}..{count - 1}")
    return value


def _operator_code(table: Table) -> tuple[int, str | None]:
    # Old writers set only the 8-bit field, new ones both; the schema says the larger one counts.
    builtin = max(table.scalar(3, "i32", "builtin_code"), table.scalar(0, "i8", "deprecated_builtin_code"))
    if builtin < 0:
        raise FlatBufferError(f"{table.path}.builtin_code", f"negative operator code {builtin}")
    custom = table.string(1, "custom_code") if table.has(1) else None
    if builtin == CUSTOM and not custom:
        raise FlatBufferError(f"{table.path}.custom_code", "a custom operator without a name")
    return builtin, custom if builtin == CUSTOM else None


def _buffer_bytes(table: Table) -> int:
    if table.scalar(1, "u64", "offset") > 1:
        raise FlatBufferError(
            f"{table.path}.offset", "data stored outside the FlatBuffer, which TFLM cannot read"
        )
    data = table.vector(0, 1, "data")
    return 0 if data is None else data.count


def _signatures(root: Table, subgraphs: tuple[Subgraph, ...]) -> None:
    for table in root.tables(7, "signature_defs", at_most=64):
        owner = table.scalar(4, "u32", "subgraph_index")
        _index(owner, len(subgraphs), f"{table.path}.subgraph_index")
        for number, name in ((0, "inputs"), (1, "outputs")):
            for entry in table.tables(number, name, at_most=64):
                index = entry.scalar(1, "u32", "tensor_index")
                _index(index, len(subgraphs[owner].tensors), f"{entry.path}.tensor_index")


def _subgraph(
    table: Table, codes: list[tuple[int, str | None]], buffers: list[int], subgraphs: int, is_compressed: bool
) -> Subgraph:
    tensors = tuple(
        _tensor(entry, buffers, is_compressed) for entry in table.tables(0, "tensors", at_most=TENSORS_MAX)
    )
    inputs = _indices(table, 1, "inputs", len(tensors), at_most=256)
    outputs = _indices(table, 2, "outputs", len(tensors), at_most=256)
    nodes = tuple(
        _node(entry, codes, len(tensors), subgraphs)
        for entry in table.tables(3, "operators", at_most=OPERATORS_MAX)
    )
    for name, indices in (("inputs", inputs), ("outputs", outputs)):
        for position, index in enumerate(indices):
            if 0 in tensors[index].shape:
                raise FlatBufferError(
                    f"{table.path}.{name}[{position}]", f"shape {tensors[index].shape} is empty"
                )
    return Subgraph(tensors, nodes, inputs, outputs)


def _indices(
    table: Table, number: int, name: str, count: int, *, at_most: int, least: int = 0
) -> tuple[int, ...]:
    found = table.vector(number, 4, name)
    if found is None:
        return ()
    values = found.scalars("i32", at_most=at_most)
    for position, value in enumerate(values):
        _index(value, count, f"{found.path}[{position}]", least=least)
    return values


def _tensor(table: Table, buffers: list[int], is_compressed: bool) -> Tensor:
    shape_at = table.vector(0, 4, "shape")
    shape = () if shape_at is None else shape_at.scalars("i32", at_most=DIMENSIONS_MAX)
    dtype = table.scalar(1, "i8", "type")
    if dtype not in DTYPE_NAMES:
        raise FlatBufferError(f"{table.path}.type", f"unknown tensor type {dtype}")
    if any(size < 0 for size in shape) or math.prod(shape) > ELEMENTS_MAX:
        raise FlatBufferError(
            f"{table.path}.shape", f"{list(shape)} is negative or above {ELEMENTS_MAX:,} elements"
        )
    buffer = _index(table.scalar(2, "u32", "buffer"), len(buffers), f"{table.path}.buffer")
    is_sparse = table.table(6, "sparsity") is not None
    scale_count, scale, zero_point = _quantisation(table)
    needed = dtype_bytes(dtype, math.prod(shape))
    if needed is not None and 0 < buffers[buffer] < needed and not is_sparse and not is_compressed:
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
        is_sparse=is_sparse,
    )


def _quantisation(table: Table) -> tuple[int, float, int]:
    quantisation = table.table(4, "quantization")
    if quantisation is None:
        return 0, 0.0, 0
    scales = quantisation.vector(2, 4, "scale")
    zero_points = quantisation.vector(3, 8, "zero_point")
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


def _node(table: Table, codes: list[tuple[int, str | None]], tensors: int, subgraphs: int) -> Node:
    opcode = table.scalar(0, "u32", "opcode_index")
    builtin, custom = codes[_index(opcode, len(codes), f"{table.path}.opcode_index")]
    inputs = _indices(table, 1, "inputs", tensors, at_most=1024, least=-1)
    outputs = _indices(table, 2, "outputs", tensors, at_most=1024)
    _indices(table, 8, "intermediates", tensors, at_most=1024)
    table.vector(5, 1, "custom_options")
    options = table.table(4, "builtin_options")
    window, variable = None, None
    calls: tuple[int, ...] = ()
    if options is not None:
        window = _window(builtin, options)
        variable = options.string(1, "shared_name") if builtin == _VAR_HANDLE else None
        calls = _calls(builtin, options, subgraphs)
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


def _calls(builtin: int, options: Table, subgraphs: int) -> tuple[int, ...]:
    names = {
        _IF: ("then_subgraph_index", "else_subgraph_index"),
        _WHILE: ("cond_subgraph_index", "body_subgraph_index"),
        _CALL_ONCE: ("init_subgraph_index",),
    }.get(builtin, ())
    found = []
    for number, name in enumerate(names):
        index = options.scalar(number, "i32", name)
        found.append(_index(index, subgraphs, f"{options.path}.{name}"))
    return tuple(found)
