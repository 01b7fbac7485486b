"""Every malformed, forged or misplaced uplink has its code; none is parsed further than it deserves."""

from datetime import datetime, timedelta

import pytest

from fleet.devices.keys import Keyring
from fleet.devices.models import Device
from fleet.gateway.uplink import Reader, Uplink
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.cbor import encode
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import Clock, EventKind
from fleet.mqtt.codec.reported import Reported
from fleet.mqtt.codec.telemetry import Batch, encode_batch
from fleet.telemetry import ingest
from fleet.telemetry.dead import CODES, Refused
from fleet.telemetry.ingest import Delivery
from tests.devices.makers import Board, make_board, make_report
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db


@pytest.fixture
def board(now: datetime) -> Board:
    return make_board("dev-1", now)


def read(board: Board, message: Arrived, now: datetime) -> Uplink | Refused:
    return Reader(board.installation, Keyring()).read(message, now=now)


def refusal(board: Board, message: Arrived, now: datetime) -> str:
    found = read(board, message, now)
    assert isinstance(found, Refused)
    assert found.payload == message.payload
    assert found.code in CODES
    return found.code


def test_authentic_uplinks_of_each_kind_are_understood(board: Board, now: datetime) -> None:
    reported = read(board, board.reported(make_report(), retained=True), now)
    assert isinstance(reported, Uplink)
    assert (reported.device_id, reported.kind, reported.is_retained) == ("dev-1", "reported", True)
    assert isinstance(reported.content, Reported)
    telemetry = read(board, board.telemetry(make_batch(now, 3)), now)
    assert isinstance(telemetry, Uplink)
    assert telemetry.content == make_batch(now, 3)
    event = Event(1, 1, 0, Clock.SNTP, EventKind.LOW_HEAP)
    told = read(board, board.event(event), now)
    assert isinstance(told, Uplink)
    assert told.content == event
    for is_online in (True, False):
        presence = read(board, board.online(is_online), now)
        assert isinstance(presence, Uplink)
        assert presence.content is is_online


def test_a_message_of_another_device_is_refused(board: Board, now: datetime) -> None:
    other = make_board("dev-2", now)
    stolen = other.telemetry(make_batch(now))._replace(topic="f1/dev/dev-1/telemetry")
    assert refusal(board, stolen, now) == "key_unknown"


def test_a_message_moved_to_another_topic_or_installation_is_refused(board: Board, now: datetime) -> None:
    message = board.telemetry(make_batch(now))
    assert (
        refusal(board, message._replace(topic="f1/dev/dev-1/event", payload=message.payload), now)
        == "mac_bad"
    )
    make_board("dev-2", now)
    foreign = Reader(b"\0" * 16, Keyring()).read(message, now=now)
    assert isinstance(foreign, Refused)
    assert foreign.code == "mac_bad"


@pytest.mark.parametrize("position", [0, 5, 40, 60, -1])
def test_any_flipped_bit_is_refused(board: Board, now: datetime, position: int) -> None:
    message = board.telemetry(make_batch(now))
    payload = bytearray(message.payload)
    payload[position] ^= 1
    code = refusal(board, message._replace(payload=bytes(payload)), now)
    assert code in ("mac_bad", "mac_missing", "cbor_bad", "key_unknown")


@pytest.mark.parametrize(
    ("kind", "size"), [("telemetry", 4097), ("reported", 2049), ("event", 513), ("online", 17)]
)
def test_too_large_a_message_is_not_parsed(board: Board, now: datetime, kind: str, size: int) -> None:
    message = Arrived(f"f1/dev/dev-1/{kind}", b"\x00" * size, False, 0, 1)
    assert refusal(board, message, now) == "too_large"
    assert refusal(board, message._replace(payload=b"\xff" * (size - 1)), now) == "cbor_bad"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "cbor_bad"),
        (b"hello", "cbor_bad"),
        (encode({0: 1}), "mac_missing"),
        (encode({0: 1}) + b"\0", "cbor_bad"),
        (b"\xf9\x3c\x00", "cbor_bad"),
    ],
)
def test_what_is_no_mac_message_is_refused(board: Board, now: datetime, payload: bytes, code: str) -> None:
    assert refusal(board, Arrived("f1/dev/dev-1/telemetry", payload, False, 0, 1), now) == code


def test_authentic_nonsense_is_refused(board: Board, now: datetime) -> None:
    good = encode_batch(make_batch(now))
    assert refusal(board, board.message("telemetry", good[:-1]), now) == "cbor_bad"
    assert refusal(board, board.message("telemetry", encode({0: 2})), now) == "format_unknown"
    assert refusal(board, board.message("telemetry", encode({0: 1})), now) == "range"
    wrong = encode({0: 1, 1: 1, 2: 0, 3: 0, 4: 2, 5: [0, "m", "1", b"8" * 8], 6: b"abcd", 7: [[0] * 12]})
    assert refusal(board, board.message("telemetry", wrong), now) == "bad_window"
    assert refusal(board, board.message("reported", encode({0: 1})), now) == "range"
    assert refusal(board, board.message("event", encode({0: 9})), now) == "format_unknown"
    assert refusal(board, Arrived("f1/dev/dev-1/online", b"\xa1\x00\x02", False, 0, 1), now) == "cbor_bad"


def test_times_outside_retention_are_refused(board: Board, now: datetime) -> None:
    for start in (now - timedelta(days=31), now + timedelta(days=2)):
        assert refusal(board, board.telemetry(make_batch(start)), now) == "time_range"


def test_unknown_and_retired_devices_are_refused(board: Board, now: datetime) -> None:
    message = board.telemetry(make_batch(now))
    assert refusal(board, message._replace(topic="f1/dev/dev-9/telemetry"), now) == "unknown_device"
    Device.objects.update(retired_at=now)
    assert refusal(board, message, now) == "retired_device"
    assert refusal(board, board.online(True), now) == "retired_device"


@pytest.mark.parametrize(
    "topic", ["f1/dev/Dev/telemetry", "f1/dev/dev-1/desired", "x", "f1/dev/dev-1/telemetry/x"]
)
def test_other_topics_are_refused(board: Board, now: datetime, topic: str) -> None:
    assert refusal(board, Arrived(topic, b"", False, 0, 1), now) == "topic_bad"


def test_a_device_brings_sixteen_unknown_model_runs_a_day(board: Board, now: datetime) -> None:
    make_board("dev-2", now)
    reader = Reader(board.installation, Keyring())

    def told(n: int, at: datetime = now, who: Board = board, reader: Reader = reader) -> str:
        found = reader.read(who.telemetry(make_batch(now, first=n, mid=f"{n:016x}")), now=at)
        if isinstance(found, Refused):
            return found.code
        assert isinstance(found.content, Batch)
        if n % 2:  # half of them are in the same transaction as what follows
            ingest.store([Delivery(found.device_id, found.content)], slot=0, now=at)
        return "ok"

    assert [told(n) for n in range(16)] == ["ok"] * 16
    assert [told(16), told(17)] == ["too_many_versions"] * 2
    assert told(3) == told(4) == "ok", "known by now, or let pass before"
    assert told(16, who=make_board("dev-3", now)) == "ok", "another device is not hurt"
    assert told(17, at=now + timedelta(hours=25)) == "ok", "the next day"
    ingest.store(
        [Delivery("dev-1", make_batch(now, first=n, mid=f"{n:016x}")) for n in range(16)], slot=0, now=now
    )
    assert told(40, reader=Reader(board.installation, Keyring())) == "too_many_versions", (
        "after a restart too"
    )


def test_of_messages_that_are_read_together_the_first_sixteen_unknown_runs_pass(
    board: Board, now: datetime
) -> None:
    other = make_board("dev-2", now)
    messages = [board.telemetry(make_batch(now, first=n, mid=f"{n // 2:016x}")) for n in range(40)]
    messages.insert(0, other.telemetry(make_batch(now, mid=f"{19:016x}")))
    found = Reader(board.installation, Keyring()).read_all(messages, now=now)
    assert [one.code for one in found if isinstance(one, Refused)] == ["too_many_versions"] * 8
    assert [isinstance(one, Uplink) for one in found] == [True] * 33 + [False] * 8
