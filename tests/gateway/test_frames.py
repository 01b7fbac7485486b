"""Frames out of bytes: in whatever pieces they come, and whatever the bytes are."""

import itertools
import struct

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.gateway import frames
from fleet.gateway.frames import Answer, FrameError, FrameReader, Publish

U16 = st.integers(1, 65_535)
topics = st.text(max_size=60).map(lambda text: text.replace("\0", ""))


def varint(value: int) -> bytes:
    return frames._sized(bytes(value))[:-value] if value else b"\0"


def publish(one: Publish, properties: bytes = b"") -> bytes:
    """A PUBLISH as the standard has it, written apart from the reader."""
    raw = one.topic.encode()
    body = struct.pack(">H", len(raw)) + raw
    if one.mid:
        body += struct.pack(">H", one.mid)
    body += varint(len(properties)) + properties + one.payload
    first = 0x30 | (2 if one.mid else 0) | (8 if one.is_again else 0) | (1 if one.is_retained else 0)
    return bytes((first,)) + varint(len(body)) + body


publishes = st.builds(
    Publish, topics, st.binary(max_size=300), st.just(0) | U16, st.booleans(), st.booleans()
)
answers = st.sampled_from(
    [
        (b"\xd0\x00", Answer(frames.PINGRESP)),
        (b"\x20\x03\x00\x00\x00", Answer(frames.CONNACK, 0)),
        (b"\x20\x03\x01\x00\x00", Answer(frames.CONNACK, 0, True)),
        (b"\x20\x06\x00\x86\x03\x21\x00\x14", Answer(frames.CONNACK, 0x86)),
        (b"\x90\x05\x00\x02\x00\x01\x01", Answer(frames.SUBACK, 1)),
        (b"\x90\x05\x00\x02\x00\x01\x87", Answer(frames.SUBACK, 0x87)),
        (b"\xb0\x04\x00\x01\x00\x11", Answer(frames.UNSUBACK, 0x11)),
        (b"\xe0\x00", Answer(frames.DISCONNECT, 0)),
        (b"\xe0\x01\x8e", Answer(frames.DISCONNECT, 0x8E)),
    ]
)
either = st.tuples(publishes, st.binary(max_size=200)).map(lambda p: (publish(*p), p[0])) | answers


@settings(max_examples=200)
@given(stream=st.lists(either, max_size=12), cuts=st.lists(st.integers(0, 3000), max_size=12))
def test_frames_are_the_same_however_the_bytes_are_cut(
    stream: list[tuple[bytes, Publish | Answer]], cuts: list[int]
) -> None:
    data = b"".join(part for part, _ in stream)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader, found = FrameReader(), []
    for start, end in itertools.pairwise(edges):
        found += reader.feed(data[start:end])
    assert found == [one for _, one in stream]


def test_byte_by_byte_nothing_comes_before_its_last_byte() -> None:
    data = publish(Publish("f1/dev/a/telemetry", bytes(200), 7, False, False), b"\x26\x00\x01a\x00\x01b")
    reader = FrameReader()
    assert [len(reader.feed(data[n : n + 1])) for n in range(len(data))] == [0] * (len(data) - 1) + [1]


@settings(max_examples=500)
@given(data=st.binary(max_size=600))
def test_any_bytes_give_frames_or_a_frame_error(data: bytes) -> None:
    try:
        found = FrameReader().feed(data)
    except FrameError:
        return
    assert sum(len(one.payload) for one in found if isinstance(one, Publish)) <= len(data)


@settings(max_examples=300)
@given(one=publishes, at=st.integers(0, 400), value=st.integers(0, 255), more=st.binary(max_size=40))
def test_a_damaged_message_gives_frames_or_a_frame_error(
    one: Publish, at: int, value: int, more: bytes
) -> None:
    data = bytearray(publish(one) + more)
    data[at % len(data)] = value
    reader = FrameReader()
    try:
        reader.feed(bytes(data))
        reader.feed(publish(one))
    except FrameError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\xff\xff\xff\xff\x7f",  # five bytes of length
        b"\x30\x81\x80\x08",  # just beyond the bound, before anything else has come
        b"\x32\xff\xff\xff\x7f",  # 256 MB
        b"\x32\x04\x00\x01a\x00",  # no room for the number
        b"\x32\x05\x00\x01a\x00\x01",  # nor for the length of properties
        b"\x32\x06\x00\x01a\x00\x00\x00",  # number 0
        b"\x34\x06\x00\x01a\x00\x01\x00",  # QoS 2
        b"\x36\x06\x00\x01a\x00\x01\x00",  # QoS 3
        b"\x30\x04\x00\x09a\x00",  # a topic longer than the frame
        b"\x32\x06\x00\x01a\x00\x01\x05",  # properties longer than the frame
        b"\x32\x07\x00\x01a\x00\x01\x80\x80",  # their length is cut off
        b"\x30\x00",
        b"\x00\x00",
        b"\xf0\x00",  # AUTH
        b"\x40\x02\x00\x01",  # we publish nothing
        b"\x20\x01\x00",
        b"\x90\x02\x00\x01",
        b"\x90\x03\x00\x01\x00",  # granted nothing
        b"\xd0\x01\x00",
    ],
)
def test_what_is_no_frame_for_a_subscriber_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, frames.PACKET_BYTES])
def test_lengths_at_the_edges_of_their_encoding(size: int) -> None:
    one = Publish("t", bytes(size), 1, False, False)
    assert FrameReader().feed(publish(one)) == [one]


def test_a_topic_that_is_no_text_does_not_stop_the_stream() -> None:
    data = b"\x32\x07\x00\x02\xff\xfe\x00\x01\x00" + b"\xd0\x00"
    bad, ping = FrameReader().feed(data)
    assert isinstance(bad, Publish)
    assert bad.topic == "��"
    assert ping == Answer(frames.PINGRESP)


@given(mids=st.lists(U16, max_size=50))
@example(mids=[])
def test_acknowledgements_are_in_order(mids: list[int]) -> None:
    written = frames.acknowledge(mids)
    assert written == b"".join(bytes((paho.PUBACK, 2)) + struct.pack(">H", mid) for mid in mids)


def test_lengths_of_what_is_written_are_right() -> None:
    for data in (
        frames.connect("svc.gateway-1", "s" * 64, keepalive_s=60, receive_most=10_000, expiry_s=604_800),
        frames.subscribe(2, ["f1/dev/+/telemetry", "$share/" + "a" * 32 + "/f1/dev/+/event"]),
        frames.unsubscribe(1, ["x" * 200]),
        frames.PING,
        frames.GOODBYE,
    ):
        head = frames._varint(data, 1, len(data))
        assert head is not None
        assert sum(head) == len(data)
