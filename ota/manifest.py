"""The manifest: everything a device must know and agree to before it fetches a model (SPEC.md section 6).

`Manifest.encode` and `Manifest.parse` share one validation, so the backend cannot sign what a device refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.classes import Firmware, Operator, encode_operators, parse_firmware, parse_operators
from fleet.mqtt.codec.cose import MAX_SIGNED_BYTES
from fleet.mqtt.codec.names import is_display_version, is_model_name
from fleet.mqtt.codec.shape import INT32_MAX, UINT32_MAX, Shape
from ota.chunking import CHUNK_BYTES, MAX_CHUNKS, Layout
from ota.documents import DocumentError, document_shape, refusing_as
from ota.hints import Hints, contradiction, misfit, parse_hints
from ota.tensors import (
    MAX_TENSOR_BYTES,
    Golden,
    GoldenBlob,
    GoldenInline,
    TensorSpec,
    parse_golden,
    parse_tensors,
)

MAX_MODEL_BYTES = 4_186_112
MAX_CLASSES = 8
KIND_MODEL, KIND_FIRMWARE = 0, 1
FIRMWARE_SLOT = 255
MAX_SLOT = 3
CLASS_ID_BYTES = 16
_REQUIRED = (*range(17), 20)


class ManifestError(DocumentError):
    """A manifest that devices refuse.

    Codes: `too_large`, `schema`, `io_contract`, `signature`, `sequence`, `expired`.
    """


@dataclass(frozen=True)
class Manifest:
    """A model version as devices see it. Times are unix seconds, sizes bytes.

    seq: rises with each version of a name. floor: least seq devices keep accepting once this is confirmed.
    classes: class ids of 16 bytes. sha256: of the plain model. leaves_sha256: of the leaf list. arena_bytes:
    tensor arena needed. firmware: least version. operators: in wire order. expires: an install gate only,
    None = never.
    """

    name: str
    version: str
    seq: int
    floor: int
    classes: tuple[bytes, ...]
    size: int
    sha256: bytes
    leaves_sha256: bytes
    arena_bytes: int
    firmware: Firmware
    operators: tuple[Operator, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: Golden
    created: int
    expires: int | None = None
    kind: int = KIND_MODEL
    slot: int = 0
    hints: Hints | None = None

    @property
    def blob_size(self) -> int:
        """Bytes of the golden blob behind the model, 0 when the vectors are inline."""
        return self.golden.size if isinstance(self.golden, GoldenBlob) else 0

    @property
    def layout(self) -> Layout:
        """How the artifact is cut into chunks."""
        return Layout(self.size, self.blob_size)

    def encode(self) -> bytes:
        """The deterministic payload bytes that are signed. Raises ManifestError as `parse` does."""
        item: dict[int, Any] = {
            0: 1,
            1: self.name,
            2: self.version,
            3: self.seq,
            4: self.floor,
            5: list(self.classes),
            6: self.size,
            7: self.sha256,
            8: CHUNK_BYTES,
            9: self.leaves_sha256,
            10: self.arena_bytes,
            11: list(self.firmware),
            12: encode_operators(self.operators),
            13: [tensor.item() for tensor in self.inputs],
            14: [tensor.item() for tensor in self.outputs],
            15: self.golden.item(),
            16: self.created,
            20: [self.kind, self.slot],
        }
        if self.expires is not None:
            item[17] = self.expires
        if self.hints is not None:
            item[21] = self.hints.item()
        payload = encode(item)
        Manifest.parse(payload)
        return payload

    @classmethod
    def parse(cls, payload: bytes) -> Manifest:
        """Read and check a payload, whoever signed it.

        Raises ManifestError `too_large` for a payload over 2048 bytes or a model no device can hold,
        `io_contract` for golden vectors or hints that do not fit the tensors, and `schema` for everything
        else.
        """
        with refusing_as(ManifestError):
            item = decode_strict(payload, max_bytes=MAX_SIGNED_BYTES, code="schema")
        shape = document_shape(ManifestError)
        fields = shape.map(item, "manifest", required=_REQUIRED, optional=(17, 21))
        shape.integer(fields[0], "format", 1, 1)
        shape.integer(fields[8], "chunk size", CHUNK_BYTES, CHUNK_BYTES)
        seq = shape.uint(fields[3], "seq", UINT32_MAX)
        kind, slot = _kind_and_slot(fields[20], shape)
        manifest = cls(
            name=_named(fields[1], shape),
            version=_versioned(fields[2], shape),
            seq=seq,
            floor=shape.uint(fields[4], "floor", seq),
            classes=_classes(fields[5], shape),
            size=shape.integer(fields[6], "size", 1, 2**63),
            sha256=shape.raw(fields[7], "model digest", 32),
            leaves_sha256=shape.raw(fields[9], "leaf list digest", 32),
            arena_bytes=shape.uint(fields[10], "arena", INT32_MAX),
            firmware=parse_firmware(fields[11], "least firmware version", shape),
            operators=parse_operators(fields[12], "operators", shape),
            inputs=parse_tensors(fields[13], "inputs", shape),
            outputs=parse_tensors(fields[14], "outputs", shape),
            golden=parse_golden(fields[15], shape),
            created=shape.uint(fields[16], "created"),
            expires=shape.uint(fields[17], "expires") if 17 in fields else None,
            kind=kind,
            slot=slot,
            hints=parse_hints(fields[21], shape) if 21 in fields else None,
        )
        _check_sizes(manifest)
        _check_contract(manifest)
        return manifest


def _named(value: Any, shape: Shape) -> str:
    name = shape.text(value, "model name", least=1, most=32)
    if not is_model_name(name):
        raise shape.fail("malformed model name")
    return name


def _versioned(value: Any, shape: Shape) -> str:
    version = shape.text(value, "version", least=1, most=24)
    if not is_display_version(version):
        raise shape.fail("malformed version")
    return version


def _classes(value: Any, shape: Shape) -> tuple[bytes, ...]:
    ids = shape.array(value, "device classes", least=1, most=MAX_CLASSES)
    return tuple(shape.raw(entry, "class id", CLASS_ID_BYTES) for entry in ids)


def _kind_and_slot(value: Any, shape: Shape) -> tuple[int, int]:
    pair = shape.array(value, "kind and slot", least=2, most=2)
    kind = shape.integer(pair[0], "kind", KIND_MODEL, KIND_FIRMWARE)
    least, most = (0, MAX_SLOT) if kind == KIND_MODEL else (FIRMWARE_SLOT, FIRMWARE_SLOT)
    return kind, shape.integer(pair[1], "slot", least, most)


def _check_sizes(manifest: Manifest) -> None:
    if manifest.size > MAX_MODEL_BYTES:
        raise ManifestError("too_large", f"model is {manifest.size:,} bytes, at most {MAX_MODEL_BYTES:,}")
    if manifest.layout.total > MAX_CHUNKS:
        raise ManifestError("too_large", f"{manifest.layout.total:,} chunks, at most {MAX_CHUNKS:,}")


def _check_contract(manifest: Manifest) -> None:
    """Tensors are of a size devices can hold, inline vectors fill them exactly, hints do not contradict."""
    if any(tensor.size_bytes > MAX_TENSOR_BYTES for tensor in (*manifest.inputs, *manifest.outputs)):
        raise ManifestError("io_contract", f"a tensor has more than {MAX_TENSOR_BYTES:,} bytes")
    if isinstance(manifest.golden, GoldenInline):
        inputs = [tensor.size_bytes for tensor in manifest.inputs]
        outputs = [tensor.size_bytes for tensor in manifest.outputs]
        for vector in manifest.golden.vectors:
            if [len(data) for data in vector.inputs] != inputs or [
                len(data) for data in vector.outputs
            ] != outputs:
                raise ManifestError("io_contract", "a golden vector does not fit the tensors")
    if manifest.hints is None:
        return
    text = contradiction(manifest.hints) or misfit(
        manifest.hints,
        slot=manifest.slot,
        inputs=[tensor.shape for tensor in manifest.inputs],
        outputs=[tensor.shape for tensor in manifest.outputs],
    )
    if text is not None:
        raise ManifestError("io_contract", text)
