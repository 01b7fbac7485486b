"""The short ways of reading a telemetry message say what the strict ones say, or leave it to them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.mqtt.codec import cose, telemetry
from fleet.mqtt.codec.cbor import encode
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.quick_windows import QuickReader
from fleet.mqtt.codec.telemetry import Batch, encode_batch, parse_strictly
from tests.mqtt import strategies as own
from tests.mqtt.strategies import outcome
from tests.vectors.telemetry import window

KEY, AAD = bytes(range(32)), bytes(16) + b"f1/dev/dev-1/telemetry"


def of_windows(batch: Batch) -> Batch:
    windows = batch.windows or (window(),)
    t0_ms = batch.t0_ms | 1 << 40  # 2004 or later: an earlier one has a shorter form
    batch = batch._replace(t0_ms=t0_ms, windows=windows, inferences=(), sketches=())
    return parse_strictly(encode_batch(batch))


window_batches = own.batches().map(of_windows)


@st.composite
def changed(draw: st.DrawFn, good: bytes) -> bytes:
    """The bytes with a few of them replaced, removed, doubled or lengthened."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from(["flip", "set", "cut", "twice", "longer", "end"]))
        if what == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set":
            data[at] = draw(
                st.sampled_from([0x00, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x20, 0x38, 0x58, 0x80, 0xFF])
            )
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 3))]
        elif what == "twice":
            data[at:at] = data[at : at + draw(st.integers(1, 14))]
        elif what == "longer":
            data[at : at + 1] = struct.pack(">BB", 0x18, data[at])
        else:
            data += draw(st.binary(min_size=1, max_size=3))
        if not data:
            break
    return bytes(data)


@settings(max_examples=100)
@given(batch=window_batches)
def test_every_batch_of_windows_takes_the_short_way_once_its_model_run_is_known(batch: Batch) -> None:
    quick, payload = QuickReader(), encode_batch(batch)
    assert quick.read(payload) is None
    quick.learn(batch)
    assert quick.read(payload) == batch == parse_strictly(payload)


@settings(max_examples=300)
@given(batch=window_batches, data=st.data())
def test_a_changed_batch_is_read_as_the_strict_reader_does_or_left_to_it(
    batch: Batch, data: st.DataObject
) -> None:
    quick, payload = QuickReader(), encode_batch(batch)
    quick.learn(batch)
    other = data.draw(changed(payload))
    found = quick.read(other)
    if found is not None:
        assert found == parse_strictly(other)


@pytest.mark.parametrize("field", telemetry.Window._fields[2:])
@settings(max_examples=40)
@given(
    value=st.integers(-(2**33), 2**33) | st.sampled_from([-128, -2, -1, 0, 23, 24, 255, 256, 65_535, 65_536])
)
def test_a_value_of_any_field_is_judged_as_the_strict_reader_does(field: str, value: int) -> None:
    good = window()
    batch = of_windows(Batch(7, 20, 10**12, telemetry.Clock.SNTP, 0, "har", "1", "00" * 8, bytes(4)))
    quick, payload = QuickReader(), encode_batch(batch)
    quick.learn(batch)
    item = list(good[2:])
    item[good._fields[2:].index(field)] = value
    other = payload[: -len(encode(list(good[2:])))] + encode(item)
    found, (strict, code) = quick.read(other), outcome(lambda: parse_strictly(other))
    assert found == strict if code == "ok" else found is None


def test_a_model_run_that_was_never_accepted_is_not_believed() -> None:
    batch = of_windows(Batch(7, 20, 10**12, telemetry.Clock.SNTP, 0, "har", "1", "00" * 8, bytes(4)))
    payload = encode_batch(batch)
    quick = QuickReader()
    quick.learn(batch)
    assert quick.read(payload.replace(b"\x63har", b"\x63HAR")) is None
    with pytest.raises(CodecError):
        parse_strictly(payload.replace(b"\x63har", b"\x63HAR"))


@settings(max_examples=300)
@given(
    payload=st.binary(max_size=400) | st.binary(min_size=250, max_size=260), kind=st.sampled_from(cose.KINDS)
)
@example(payload=bytes(23), kind="telemetry")
@example(payload=bytes(24), kind="telemetry")
@example(payload=bytes(255), kind="event")
@example(payload=bytes(256), kind="event")
def test_a_mac0_message_is_taken_apart_as_the_strict_reader_does(payload: bytes, kind: str) -> None:
    message = cose.mac0(kind, payload, KEY, aad=AAD)
    assert cose._usual_mac0(kind, message) == cose._strict_mac0(kind, message, 4096)
    found = cose.verify_mac0(kind, message, {cose.mac_kid(KEY): KEY}.get, aad=AAD, max_bytes=4096)
    assert found == payload


@settings(max_examples=300)
@given(payload=st.binary(max_size=300), data=st.data())
def test_a_changed_mac0_message_gets_the_strict_reader_s_answer(payload: bytes, data: st.DataObject) -> None:
    other = data.draw(changed(cose.mac0("telemetry", payload, KEY, aad=AAD)))
    usual = cose._usual_mac0("telemetry", other)
    strict, code = outcome(lambda: cose._strict_mac0("telemetry", other, 4096))
    assert usual is None or (usual == strict and code == "ok")
