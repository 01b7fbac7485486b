"""Reported, telemetry and event: round trips, any bytes, and nothing authentic without the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt import topics
from fleet.mqtt.codec import cose, names
from fleet.mqtt.codec.cbor import encode
from fleet.mqtt.codec.classes import ClassDescription
from fleet.mqtt.codec.envelope import keyring, open_uplink, seal_uplink
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.event import Event, encode_event, parse_event
from fleet.mqtt.codec.reported import Reported, SlotReport, encode_reported, parse_reported
from fleet.mqtt.codec.telemetry import Batch, encode_batch, parse_batch
from tests.mqtt import strategies as own
from tests.vectors import keys, reported, telemetry

INST, KEY = bytes(range(16)), bytes(32)
PARSERS: list[tuple[str, Callable[[bytes], Any]]] = [
    ("reported", parse_reported),
    ("telemetry", parse_batch),
    ("event", parse_event),
]
PAYLOADS = {
    "reported": encode_reported(reported.base_reported()),
    "telemetry": encode_batch(
        Batch(7, 20, 10**12, names.Clock.SNTP, 0, "har", "1", "00" * 8, bytes(4), (telemetry.window(),) * 3)
    ),
    "event": encode_event(Event(1, 2, 3, names.Clock.SNTP, names.EventKind.RESET, (1, 2, 3))),
}
UPLINK_CODES = set(names.UPLINK_CODES)


@given(own.reports)
def test_a_report_is_read_as_it_was_written(report: Reported) -> None:
    assert parse_reported(encode_reported(report)) == report


@given(own.batches())
def test_a_batch_is_read_as_it_was_written(batch: Batch) -> None:
    assert parse_batch(encode_batch(batch)) == batch


@given(own.events())
def test_an_event_is_read_as_it_was_written(event: Event) -> None:
    assert parse_event(encode_event(event)) == event


@pytest.mark.parametrize(("kind", "parse"), PARSERS)
@given(data=st.data())
def test_any_payload_gives_a_document_or_a_code(
    kind: str, parse: Callable[[bytes], Any], data: st.DataObject
) -> None:
    good = PAYLOADS[kind]
    number = st.integers(0, 25)
    payload = data.draw(
        st.one_of(
            st.binary(max_size=200),
            own.items.map(encode),
            st.dictionaries(number, own.nested(3), max_size=20).map(encode),
            st.dictionaries(number, own.nested(3), max_size=20).map(lambda extra: encode({0: 1} | extra)),
            st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255)).map(lambda at: _xor(good, *at)),
        )
    )
    _, code = own.outcome(lambda: parse(payload))
    assert code == "ok" or code in UPLINK_CODES


def _xor(data: bytes, index: int, mask: int) -> bytes:
    return data[:index] + bytes((data[index] ^ mask,)) + data[index + 1 :]


@pytest.mark.parametrize("kind", list(PAYLOADS))
def test_each_flipped_bit_and_each_truncation_of_a_message_is_refused(kind: str) -> None:
    topic = topics.device("dev-7", kind)
    message = seal_uplink(kind, PAYLOADS[kind], topic=topic, installation_id=INST, key=KEY)
    lookup = keyring(KEY)
    assert open_uplink(kind, message, topic=topic, installation_id=INST, key_lookup=lookup) == PAYLOADS[kind]
    bad = [_xor(message, index, 1 << bit) for index in range(len(message)) for bit in range(8)]
    bad += [message[:size] for size in range(len(message))]
    for candidate in bad:
        with pytest.raises(CodecError) as refused:
            open_uplink(kind, candidate, topic=topic, installation_id=INST, key_lookup=lookup)
        assert refused.value.code in {"cbor_bad", "mac_missing", "mac_bad", "key_unknown"}


@given(st.sampled_from(list(PAYLOADS)), st.one_of(st.binary(max_size=300), own.items.map(encode)))
def test_any_message_gives_a_code_and_never_a_payload(kind: str, message: bytes) -> None:
    topic = topics.device("dev-7", kind)
    with pytest.raises(CodecError) as refused:
        open_uplink(kind, message, topic=topic, installation_id=INST, key_lookup=keyring(KEY))
    assert refused.value.code in UPLINK_CODES


def test_a_key_is_asked_for_only_by_its_kid() -> None:
    asked: list[bytes] = []

    def lookup(kid: bytes) -> bytes | None:
        asked.append(kid)
        return None

    topic = topics.device("dev-7", "event")
    message = seal_uplink("event", PAYLOADS["event"], topic=topic, installation_id=INST, key=KEY)
    with pytest.raises(CodecError) as refused:
        open_uplink("event", message, topic=topic, installation_id=INST, key_lookup=lookup)
    assert (refused.value.code, asked) == ("key_unknown", [cose.mac_kid(KEY)])


def test_an_oversized_message_is_refused_unread() -> None:
    for kind, limit in cose.MAX_UPLINK_BYTES.items():
        with pytest.raises(CodecError) as refused:
            open_uplink(kind, b"\xff" * (limit + 1), topic="t", installation_id=INST, key_lookup=keyring(KEY))
        assert refused.value.code == "too_large"
    with pytest.raises(CodecError) as refused:
        open_uplink(
            "event", bytes(20), topic="t", installation_id=INST, key_lookup=keyring(KEY), max_bytes=19
        )
    assert refused.value.code == "too_large"


def test_a_device_cannot_seal_more_than_a_broker_would_take() -> None:
    with pytest.raises(CodecError) as refused:
        seal_uplink("event", bytes(500), topic="t", installation_id=INST, key=KEY)
    assert refused.value.code == "too_large"


def test_times_and_sequence_numbers_follow_from_the_batch() -> None:
    windows = (telemetry.window(dt_ms=5), telemetry.window(dt_ms=7))
    batch = Batch(3, 9, 1_000, names.Clock.SNTP, 0, "har", "1", "00" * 8, bytes(4), windows)
    read = parse_batch(encode_batch(batch))
    assert [window.ts_ms for window in read.windows] == [1_005, 1_012]
    assert [window.seq for window in read.windows] == [3 << 32 | 9, 3 << 32 | 10]
    assert read.windows[0].heap_min_bytes == 64 * windows[0].heap_min_64b


def test_event_details_have_names() -> None:
    event = Event(1, 2, 3, names.Clock.SNTP, names.EventKind.COMMAND_RESULT, (1, 0, 77))
    assert event.fields == {"verb": 1, "code": 0, "counter": 77}
    assert event.seq == 1 << 32 | 2


def test_a_value_that_a_reader_would_refuse_cannot_be_written() -> None:
    report = reported.base_reported()
    too_many = {slot: SlotReport(names.UpdateState.IDLE, have=1) for slot in range(1)}
    for bad in ({"boot": 2**31}, {"slots": too_many}, {"class_id": b""}, {"firmware_text": "\0"}):
        with pytest.raises(CodecError) as refused:
            encode_reported(type(report)(**(vars(report) | bad)))
        assert refused.value.code == "range"


@given(own.operator_lists, st.lists(st.integers(0, 2**19), min_size=1, max_size=4), own.printable)
def test_a_class_description_is_read_as_it_was_written(
    operators: tuple[int | str, ...], chunks: list[int], esp_nn: str
) -> None:
    slots = tuple(count * 4096 for count in chunks)
    described = ClassDescription("a class", names.Chip.ESP32C3, 100_000, slots, operators, esp_nn)
    assert ClassDescription.parse(described.encode()) == described
    assert len(described.class_id) == 16


def test_labels_are_the_names_of_the_contract() -> None:
    assert names.RefusalCode.SELFTEST_MISMATCH.label == "selftest_mismatch"
    assert names.RefusalCode.from_label("no_link") is names.RefusalCode.NO_LINK
    assert names.UpdateState.MANIFEST_OK.label == "manifest_ok"
    with pytest.raises(KeyError):
        names.RefusalCode.from_label("no such code")


def test_an_error_survives_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(CodecError("range", "text")))
    assert (error.code, error.text, str(error)) == ("range", "text", "range: text")


def test_keys_of_the_vectors_are_distinct() -> None:
    publics = [pair.public_key for pair in keys.KEYS.values()]
    assert len(set(publics)) == len(publics)
