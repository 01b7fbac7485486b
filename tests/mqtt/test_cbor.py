"""The CBOR codec: deterministic both ways, strict, bounded, and the same values as cbor2."""

from __future__ import annotations

import io
from enum import IntEnum
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt.codec.cbor import Tag, decode_strict, encode
from fleet.mqtt.codec.errors import CodecError
from tests.mqtt import strategies as own


@given(own.items)
def test_what_is_encoded_is_decoded(item: Any) -> None:
    assert decode_strict(encode(item), max_bytes=1 << 20) == item


@given(own.items)
def test_cbor2_reads_the_same_values(item: Any) -> None:
    assert cbor2.loads(encode(item)) == item


@given(own.number_keyed)
def test_cbor2_writes_the_same_canonical_bytes(item: Any) -> None:
    assert cbor2.dumps(item, canonical=True) == encode(item)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_a_codec_error(data: bytes) -> None:
    value, code = own.outcome(lambda: decode_strict(data, max_bytes=300, may_tag=True))
    assert code == "cbor_bad" or encode(value) == data, "one value has one encoding"


@given(own.items, st.data())
def test_a_changed_byte_gives_another_value_or_a_codec_error(item: Any, data: st.DataObject) -> None:
    good = encode(item)
    index = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    bad = good[:index] + bytes((good[index] ^ (1 << bit),)) + good[index + 1 :]
    value, code = own.outcome(lambda: decode_strict(bad, max_bytes=1 << 20))
    assert code == "cbor_bad" or (value != item and encode(value) == bad)


@given(own.items.map(encode), st.data())
def test_truncated_and_extended_items_are_refused(good: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(good) - 1))
    for bad in (good[:cut], good + b"\0"):
        with pytest.raises(CodecError) as refused:
            decode_strict(bad, max_bytes=1 << 20)
        assert refused.value.code == "cbor_bad"


def test_cbor2_would_have_accepted_what_we_refuse() -> None:
    for bad in ("1801", "a201000000", "a200000001", "0000", "9f00ff", "f93c00"):
        raw = bytes.fromhex(bad)
        cbor2.CBORDecoder(io.BytesIO(raw)).decode()
        with pytest.raises(CodecError):
            decode_strict(raw, max_bytes=100)


def test_size_depth_and_items_are_bounded_before_they_cost_anything() -> None:
    with pytest.raises(CodecError) as refused:
        decode_strict(bytes(101), max_bytes=100)
    assert refused.value.code == "too_large"
    with pytest.raises(CodecError):
        decode_strict(b"\x81" * 100_000 + b"\x00", max_bytes=1 << 20, max_depth=6)
    assert decode_strict(b"\x84\0\0\0\0", max_bytes=10, max_items=5) == [0, 0, 0, 0]
    with pytest.raises(CodecError):
        decode_strict(b"\x84\0\0\0\0", max_bytes=10, max_items=4)
    for huge in ("9bffffffffffffffff", "bbffffffffffffffff", "5bffffffffffffffff", "7bffffffffffffffff"):
        with pytest.raises(CodecError):
            decode_strict(bytes.fromhex(huge), max_bytes=10)


def test_a_tag_is_accepted_only_outermost_and_only_when_asked_for() -> None:
    tagged = encode(Tag(17, [1]))
    assert decode_strict(tagged, max_bytes=10, may_tag=True) == Tag(17, [1])
    for bad in (tagged, encode([Tag(17, 1)]), encode(Tag(17, Tag(17, 1)))):
        with pytest.raises(CodecError):
            decode_strict(bad, max_bytes=10, may_tag=bad != tagged)


def test_the_error_code_is_the_caller_s_to_name() -> None:
    with pytest.raises(CodecError) as refused:
        decode_strict(b"", max_bytes=10, code="schema")
    assert refused.value.code == "schema"


@pytest.mark.parametrize("value", [True, None, 1.5, {-1: 0}, {True: 0}, {b"a": 0}, object(), [object()]])
def test_values_without_a_place_in_the_protocol_are_not_encoded(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1])
def test_integers_beyond_64_bits_are_not_encoded(value: int) -> None:
    with pytest.raises(ValueError):
        encode(value)


def test_enumerations_are_encoded_as_their_number() -> None:
    class Number(IntEnum):
        SEVEN = 7

    assert encode([Number.SEVEN, {Number.SEVEN: 1}]) == encode([7, {7: 1}])
