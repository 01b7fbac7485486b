"""The manifest codec: round trips, any bytes, limits and golden vectors."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import RefusalCode
from ota.errors import OtaError
from ota.hints import Hints
from ota.manifest import Manifest, ManifestError
from ota.tensors import (
    DType,
    GoldenBlob,
    GoldenInline,
    GoldenVector,
    TensorSpec,
    encode_golden_blob,
    make_golden,
    parse_golden_blob,
)
from tests.mqtt.strategies import outcome
from tests.ota import documents
from tests.vectors.keys import base_manifest

LABELS = {code.label for code in RefusalCode}


@given(documents.manifests())
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    payload = manifest.encode()
    assert Manifest.parse(payload) == manifest
    assert Manifest.parse(payload).encode() == payload


@given(documents.payloads(base_manifest(hints=Hints(window=8, hop=4)).encode()))
def test_any_payload_gives_a_manifest_or_a_code(payload: bytes) -> None:
    _, code = outcome(lambda: Manifest.parse(payload))
    assert code == "ok" or code in LABELS


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, "schema"),
        ({"version": "1 0"}, "schema"),
        ({"seq": 2**32}, "schema"),
        ({"floor": 6}, "schema"),
        ({"classes": ()}, "schema"),
        ({"operators": (9, 3)}, "schema"),
        ({"slot": 4}, "schema"),
        ({"size": 4_186_113}, "too_large"),
        ({"hints": Hints(window=4, hop=5)}, "io_contract"),
        ({"hints": Hints(hop=5)}, "io_contract"),
        ({"golden": GoldenInline((GoldenVector((bytes(5),), (bytes(3),)),), 1)}, "io_contract"),
        ({"golden": GoldenInline((GoldenVector((bytes(6),), (bytes(3), bytes(3))),), 1)}, "io_contract"),
    ],
)
def test_a_manifest_that_devices_refuse_cannot_be_encoded(change: dict[str, Any], code: str) -> None:
    with pytest.raises(ManifestError) as refused:
        dataclasses.replace(base_manifest(), **change).encode()
    assert refused.value.code == code
    assert isinstance(refused.value, OtaError)


def test_a_payload_over_the_message_limit_is_refused_unread() -> None:
    with pytest.raises(ManifestError) as refused:
        Manifest.parse(b"\xff" * 2049)
    assert refused.value.code == "too_large"


def test_few_small_vectors_stay_inline_and_others_become_a_blob() -> None:
    small = [GoldenVector((bytes(10),), (bytes(4),))] * 3
    golden, blob = make_golden(small, 2)
    assert (golden, blob) == (GoldenInline(tuple(small), 2), b"")
    many = [GoldenVector((bytes(10),), (bytes(4),))] * 9
    golden, blob = make_golden(many, 2)
    assert isinstance(golden, GoldenBlob)
    assert (golden.size, golden.count) == (len(blob), 9)
    assert parse_golden_blob(blob) == tuple(many)
    large = [GoldenVector((bytes(1100),), (bytes(4),))]
    assert isinstance(make_golden(large, 2)[0], GoldenBlob)


def test_a_golden_blob_has_a_limit() -> None:
    with pytest.raises(CodecError) as refused:
        encode_golden_blob([GoldenVector((bytes(60_000),), (bytes(6_000),))])
    assert refused.value.code == "too_large"
    with pytest.raises(CodecError):
        parse_golden_blob(b"\x80")


@given(st.binary(max_size=100))
def test_any_blob_gives_vectors_or_a_code(blob: bytes) -> None:
    _, code = outcome(lambda: parse_golden_blob(blob))
    assert code in {"ok", "schema"}


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_scale_keeps_its_float32_bits(scale: float) -> None:
    spec = TensorSpec.of(DType.INT8, (1, 2), scale, -128)
    assert spec.scale == scale
    assert spec.scale_bits == struct.unpack("<I", struct.pack("<f", scale))[0]


def test_tensor_sizes_count_elements_and_their_width() -> None:
    assert TensorSpec.of(DType.FLOAT32, (2, 3)).size_bytes == 24
    assert TensorSpec.of(DType.INT64, (5,)).size_bytes == 40
    assert [dtype.item_bytes for dtype in DType] == [4, 2, 4, 1, 8, 1, 2, 1]


def test_the_layout_follows_from_size_and_blob() -> None:
    golden, blob = make_golden([GoldenVector((bytes(5000),), (bytes(3),))], 1)
    manifest = base_manifest(size=4097, golden=golden)
    assert manifest.blob_size == len(blob)
    assert (manifest.layout.model_chunks, manifest.layout.blob_chunks) == (2, 2)
