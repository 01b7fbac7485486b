"""The packets of a publishing connection: cut from any stream, refused by name, never read past their end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt import packets
from fleet.mqtt.codec.errors import CodecError
from tests.mqtt.strategies import outcome


def length(value: int) -> bytes:
    """A remaining length as MQTT section 1.5.5 writes it, digit by digit."""
    digits = []
    while True:
        value, digit = divmod(value, 128)
        digits.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(digits)


def read_length(data: bytes, pos: int) -> tuple[int, int]:
    """The value of a remaining length and the position behind it."""
    value = place = 0
    while True:
        value |= (data[pos] & 0x7F) << place
        pos, place = pos + 1, place + 7
        if data[pos - 1] < 0x80:
            return value, pos


streams = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=12)


@given(streams, st.lists(st.integers(1, 64), max_size=80))
def test_packets_are_the_same_however_the_stream_arrives(
    stream: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    data = b"".join(bytes((first,)) + length(len(body)) + body for first, body in stream)
    reader, found = packets.PacketReader(), []
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        found += reader.feed(piece)
    assert found == stream


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_are_packets_or_refused_by_name_and_never_pile_up(pieces: list[bytes]) -> None:
    reader = packets.PacketReader()
    for piece in pieces:
        found, code = outcome(lambda piece=piece: reader.feed(piece))  # type: ignore[misc]
        if found is None:
            assert code in ("packet_bad", "too_large")
            return
        assert len(reader._held) <= packets.MAX_INCOMING_BYTES + 5


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("40 81 20", "too_large"),  # 4,097 bytes
        ("40 ff ff ff 7f", "too_large"),
        ("40 ff ff ff ff", "packet_bad"),  # a fifth byte would follow
        ("40 82 00", "packet_bad"),  # 2, in two bytes
    ],
)
def test_a_length_that_is_none_is_refused_before_its_body_comes(head: str, code: str) -> None:
    assert outcome(lambda: packets.PacketReader().feed(bytes.fromhex(head)))[1] == code


def test_the_longest_body_is_read() -> None:
    body = bytes(packets.MAX_INCOMING_BYTES)
    assert packets.PacketReader().feed(b"\x20\x80\x20" + body) == [(packets.CONNACK, body)]


@given(
    st.text(st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), min_size=1, max_size=80),
    st.sampled_from([0, 1, 40, 110, 120, 127, 128, 300, 16_370, 16_384, 20_000]),
    st.integers(1, packets.MAX_MID),
    st.booleans(),
)
def test_a_publish_carries_topic_packet_id_and_payload(topic: str, size: int, mid: int, retain: bool) -> None:
    payload = b"\xa5" * size
    packet = packets.publish(topic, payload, mid, retain=retain)
    assert packet[0] == (0x33 if retain else 0x32)
    left, at = read_length(packet, 1)
    assert len(packet) == at + left
    assert packet[1:at] == length(left)
    name_bytes = int.from_bytes(packet[at : at + 2], "big")
    rest = packet[at + 2 + name_bytes :]
    assert packet[at + 2 : at + 2 + name_bytes] == topic.encode()
    assert (rest[:2], rest[2:3], rest[3:]) == (mid.to_bytes(2, "big"), b"\0", payload)


@pytest.mark.parametrize("topic", ["", "f1/dev/+/desired", "f1/#", "f1/\0", "x" * 65_536])
def test_nothing_is_published_to_a_topic_that_is_none(topic: str) -> None:
    with pytest.raises(CodecError) as caught:
        packets.publish(topic, b"", 1, retain=True)
    assert caught.value.code == "topic_bad"


def prop(name: int, value: int) -> bytes:
    return bytes((name,)) + value.to_bytes({0x21: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x13: 2}[name], "big")


def connack(properties: bytes, reason: int = 0) -> bytes:
    return bytes((0, reason)) + length(len(properties)) + properties


TEXTS = b"\x12\x00\x03abc" + b"\x26\x00\x01k\x00\x02vw" + b"\x26\x00\x01k\x00\x00" + b"\x1f\x00\x00"


def test_a_connack_tells_what_the_broker_takes() -> None:
    assert packets.read_connack(connack(b"")) == packets.Connack(0)
    told = packets.read_connack(connack(TEXTS + prop(0x21, 200) + prop(0x27, 65_536) + prop(0x13, 600)))
    assert told == packets.Connack(0, receive_maximum=200, max_packet_bytes=65_536)
    assert packets.read_connack(connack(b"", reason=0x87)).reason == 0x87


@pytest.mark.parametrize("unfit", [prop(0x24, 0), prop(0x25, 0)])
def test_a_broker_without_retained_messages_or_qos_1_is_told_apart(unfit: bytes) -> None:
    assert packets.read_connack(connack(b"")).is_fit
    assert not packets.read_connack(connack(unfit)).is_fit


@pytest.mark.parametrize(
    "properties",
    [prop(0x21, 0), prop(0x27, 0), prop(0x21, 1) * 2, b"\x01\x00", b"\x21\x00", b"\x12\x00\x05ab"],
    ids=["takes nothing", "no packet", "twice", "unknown", "cut number", "cut text"],
)
def test_a_connack_that_contradicts_itself_is_refused(properties: bytes) -> None:
    assert outcome(lambda: packets.read_connack(connack(properties)))[1] == "packet_bad"


@given(st.integers(0, 60))
def test_a_connack_cut_anywhere_is_refused(at: int) -> None:
    whole = connack(TEXTS + prop(0x21, 200))
    expected = "ok" if at >= len(whole) else "packet_bad"
    assert outcome(lambda: packets.read_connack(whole[:at]))[1] == expected


@given(st.binary(max_size=40))
def test_any_bytes_are_a_connack_or_refused(body: bytes) -> None:
    assert outcome(lambda: packets.read_connack(body))[1] in ("ok", "packet_bad")


def test_an_acknowledgement_has_a_packet_id_and_perhaps_a_reason() -> None:
    assert packets.read_puback(b"\xff\xfe") == (65_534, 0)
    assert packets.read_puback(b"\0\1\x87") == (1, 0x87)
    assert packets.read_puback(b"\0\1\x10\0") == (1, 0x10)
    assert outcome(lambda: packets.read_puback(b"\1"))[1] == "packet_bad"
