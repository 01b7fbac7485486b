"""Tensor contracts and golden vectors, the part of a manifest that a self-test runs on."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.shape import INT32_MAX, INT32_MIN, UINT32_MAX, Shape

MAX_TENSORS = 8
MAX_BLOB_BYTES = 65_536
MAX_TENSOR_BYTES = 262_144
MAX_INLINE_BYTES = 1024
MAX_INLINE_VECTORS = 8
MAX_BLOB_VECTORS = 4096


class DType(IntEnum):
    """TFLite TensorType of a model's input or output."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    BOOL = 6
    INT16 = 7
    INT8 = 9

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _ITEM_BYTES[self]


_ITEM_BYTES = {
    DType.FLOAT32: 4,
    DType.FLOAT16: 2,
    DType.INT32: 4,
    DType.UINT8: 1,
    DType.INT64: 8,
    DType.BOOL: 1,
    DType.INT16: 2,
    DType.INT8: 1,
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. shape: 1..5 positive dimensions. scale_bits: float32 bits, 0 = no scale."""

    dtype: DType
    shape: tuple[int, ...]
    scale_bits: int = 0
    zero_point: int = 0

    @classmethod
    def of(cls, dtype: DType, shape: Sequence[int], scale: float = 0.0, zero_point: int = 0) -> TensorSpec:
        """A spec from a scale as a number; it is rounded to float32 as TFLite stores it."""
        bits = struct.unpack("<I", struct.pack("<f", scale))[0]
        return cls(dtype, tuple(int(dim) for dim in shape), int(bits), int(zero_point))

    @property
    def scale(self) -> float:
        """The quantisation scale; 0.0 when the tensor has none."""
        return float(struct.unpack("<f", struct.pack("<I", self.scale_bits))[0])

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.dtype.item_bytes

    def item(self) -> list[Any]:
        """The CBOR form."""
        return [self.dtype, list(self.shape), self.scale_bits, self.zero_point]


@dataclass(frozen=True)
class GoldenVector:
    """Recorded input bytes and the output bytes they gave, little-endian, in the order of the contract."""

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]

    def item(self) -> list[Any]:
        """The CBOR form."""
        return [list(self.inputs), list(self.outputs)]


@dataclass(frozen=True)
class GoldenInline:
    """Golden vectors inside the manifest. tolerance: LSB of the output's scale, 1/256 for float outputs."""

    vectors: tuple[GoldenVector, ...]
    tolerance: int

    def item(self) -> list[Any]:
        """The CBOR form."""
        return [[vector.item() for vector in self.vectors], self.tolerance]


@dataclass(frozen=True)
class GoldenBlob:
    """Golden vectors behind the model: size and SHA-256 of the blob, number of vectors, tolerance."""

    size: int
    sha256: bytes
    count: int
    tolerance: int

    def item(self) -> list[Any]:
        """The CBOR form."""
        return [self.size, self.sha256, self.count, self.tolerance]


Golden = GoldenInline | GoldenBlob


def encode_golden_blob(vectors: Iterable[GoldenVector]) -> bytes:
    """The bytes that follow the model in the artifact: a CBOR array of vectors.

    Raises CodecError `too_large` beyond 65,536 bytes.
    """
    blob = encode([vector.item() for vector in vectors])
    if len(blob) > MAX_BLOB_BYTES:
        raise CodecError("too_large", f"golden blob is {len(blob):,} bytes, at most {MAX_BLOB_BYTES:,}")
    return blob


def parse_golden_blob(blob: bytes) -> tuple[GoldenVector, ...]:
    """Read a golden blob. Raises CodecError `too_large` or `schema`."""
    shape = Shape("schema")
    item = decode_strict(blob, max_bytes=MAX_BLOB_BYTES, max_items=4 * MAX_BLOB_VECTORS, code="schema")
    vectors = shape.array(item, "golden blob", least=1, most=MAX_BLOB_VECTORS)
    return tuple(parse_vector(vector, shape) for vector in vectors)


def make_golden(vectors: Sequence[GoldenVector], tolerance: int) -> tuple[Golden, bytes]:
    """(the manifest's entry, the blob): inline and an empty blob when the vectors fit into the manifest.

    Raises CodecError `too_large` when not even a blob holds them.
    """
    inline = GoldenInline(tuple(vectors), tolerance)
    if len(vectors) <= MAX_INLINE_VECTORS and len(encode(inline.item())) <= MAX_INLINE_BYTES:
        return inline, b""
    blob = encode_golden_blob(vectors)
    return GoldenBlob(len(blob), hashlib.sha256(blob).digest(), len(vectors), tolerance), blob


def parse_tensors(value: Any, what: str, shape: Shape) -> tuple[TensorSpec, ...]:
    """The input or output contract of a manifest: 1..8 tensors."""
    return tuple(
        _parse_tensor(item, what, shape) for item in shape.array(value, what, least=1, most=MAX_TENSORS)
    )


def _parse_tensor(value: Any, what: str, shape: Shape) -> TensorSpec:
    dtype, dims, scale_bits, zero_point = shape.array(value, what, least=4, most=4)
    if type(dtype) is not int or dtype not in DType.__members__.values():
        raise shape.fail(f"{what} has a tensor type that models here cannot have")
    return TensorSpec(
        dtype=DType(dtype),
        shape=tuple(
            shape.integer(dim, f"dimension of {what}", 1, INT32_MAX)
            for dim in shape.array(dims, f"shape of {what}", least=1, most=5)
        ),
        scale_bits=shape.uint(scale_bits, f"scale of {what}", UINT32_MAX),
        zero_point=shape.integer(zero_point, f"zero point of {what}", INT32_MIN, INT32_MAX),
    )


def parse_vector(value: Any, shape: Shape) -> GoldenVector:
    """One golden vector: 1..8 inputs and 1..8 outputs."""
    inputs, outputs = (
        shape.array(part, "golden vector", least=1, most=MAX_TENSORS)
        for part in shape.array(value, "golden vector", least=2, most=2)
    )
    for data in (*inputs, *outputs):
        if type(data) is not bytes:
            raise shape.fail("golden vector holds something that is not bytes")
    return GoldenVector(tuple(inputs), tuple(outputs))


def parse_golden(value: Any, shape: Shape) -> Golden:
    """Manifest key 15 in either form; the first element tells which."""
    part = shape.array(value, "golden vectors", least=2, most=4)
    if type(part[0]) is list:
        shape.array(part, "inline golden vectors", least=2, most=2)
        if len(encode(part)) > MAX_INLINE_BYTES:
            raise shape.fail(f"inline golden vectors are over {MAX_INLINE_BYTES} bytes")
        vectors = shape.array(part[0], "inline golden vectors", least=1, most=MAX_INLINE_VECTORS)
        tolerance = shape.uint(part[1], "tolerance", UINT32_MAX)
        return GoldenInline(tuple(parse_vector(vector, shape) for vector in vectors), tolerance)
    shape.array(part, "golden blob", least=4, most=4)
    return GoldenBlob(
        size=shape.integer(part[0], "golden blob size", 1, MAX_BLOB_BYTES),
        sha256=shape.raw(part[1], "golden blob digest", 32),
        count=shape.integer(part[2], "number of golden vectors", 1, MAX_BLOB_VECTORS),
        tolerance=shape.uint(part[3], "tolerance", UINT32_MAX),
    )
