"""Dead letters once more through the pipeline: counted once, and what is still refused stays."""

from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.utils import timezone

from fleet.accounts.models import AuditEvent
from fleet.devices.keys import Keyring
from fleet.devices.models import Device, DeviceEvent
from fleet.gateway import replay
from fleet.gateway.handlers import Measurements
from fleet.gateway.replay import Replayed
from fleet.gateway.uplink import Reader
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import Clock, EventKind
from fleet.telemetry import dead, partitions
from fleet.telemetry.dead import Quota, Refused
from fleet.telemetry.gap_models import Boot
from fleet.telemetry.models import DeadLetter, Minute, Window
from tests.devices.makers import CONSOLE, Board, make_board
from tests.telemetry.batches import make_batch, ms

pytestmark = pytest.mark.django_db


@pytest.fixture
def board(now: datetime) -> Board:
    return make_board("dev-1", now)


@pytest.fixture
def again(board: Board, now: datetime) -> Callable[..., Replayed]:
    """Replay a minute after everything was refused."""

    def run(code: str, **options: Any) -> Replayed:
        reader = Reader(board.installation, Keyring())
        return replay.replay(reader, code, actor=CONSOLE, now=now + timedelta(minutes=1), **options)

    return run


def refuse(messages: list[Arrived], code: str, now: datetime) -> None:
    """Keep these as letters, as a gateway of another day would have."""
    letters = [Refused(one.topic.split("/")[2], one.topic, code, "", one.payload) for one in messages]
    dead.record(letters, slot=0, now=now, quota=Quota(10_000))


def batches(board: Board, now: datetime, count: int, windows: int = 4) -> list[Arrived]:
    start = now - timedelta(hours=1)
    return [board.telemetry(make_batch(start, windows, first=windows * n, dt_ms=20)) for n in range(count)]


def anomaly(board: Board, now: datetime) -> Arrived:
    return board.event(Event(1, 1, ms(now), Clock.SNTP, EventKind.ANOMALY, (900, 800, 2, 0)))


def test_letters_that_are_understood_now_are_stored_with_their_rollup_and_gone(
    board: Board, now: datetime, again: Callable[..., Replayed]
) -> None:
    refuse([*batches(board, now, 3), anomaly(board, now)], "format_unknown", now)
    done = again("format_unknown")
    assert (done.seen, done.taken, done.windows, done.events) == (4, 4, 12, 1)
    assert Window.objects.count() == 12
    assert sum(Minute.objects.values_list("windows", flat=True)) == 12
    assert DeviceEvent.objects.filter(kind="anomaly").count() == 1
    boot = Boot.objects.get()
    assert (boot.received, boot.highest) == (12, 11)
    assert DeadLetter.objects.count() == 0


def test_a_second_replay_finds_nothing_to_do(
    board: Board, now: datetime, again: Callable[..., Replayed]
) -> None:
    refuse(batches(board, now, 2), "db_reject", now)
    assert again("db_reject").taken == 2
    assert again("db_reject") == Replayed()
    assert AuditEvent.objects.filter(verb="telemetry.replay").count() == 1


def test_records_that_arrived_after_all_are_not_counted_twice(
    board: Board, now: datetime, again: Callable[..., Replayed]
) -> None:
    messages = batches(board, now, 2)
    Measurements(Reader(board.installation, Keyring()), slot=0).handle(messages[:1], now=now)
    refuse(messages, "rate_limited", now)
    done = again("rate_limited")
    assert (done.taken, done.windows, done.duplicates) == (2, 4, 4)
    assert Window.objects.count() == sum(Minute.objects.values_list("windows", flat=True)) == 8


def test_what_is_still_refused_stays_with_its_letter(
    board: Board, now: datetime, again: Callable[..., Replayed]
) -> None:
    good, cut = batches(board, now, 2)
    stranger = Arrived("f1/dev/dev-9/telemetry", good.payload, False, 0, 1)
    refuse([good, cut._replace(payload=cut.payload[:-1]), stranger], "unknown_device", now)
    before = list(DeadLetter.objects.order_by("id").values("id", "code", "at"))
    done = again("unknown_device")
    assert (done.seen, done.taken, dict(done.refused)) == (3, 1, {"cbor_bad": 1, "unknown_device": 1})
    assert list(DeadLetter.objects.order_by("id").values("id", "code", "at")) == before[1:]


def test_presence_and_reports_of_another_day_are_never_replayed(
    board: Board, now: datetime, again: Callable[..., Replayed]
) -> None:
    refuse([board.online(True)], "unknown_device", now)
    assert again("unknown_device") == Replayed()
    assert DeadLetter.objects.count() == 1
    assert Device.objects.get(pk=board.id).presence != "online"


def test_only_the_letters_of_the_code_and_the_device_asked_for_are_replayed(
    board: Board, now: datetime, again: Callable[..., Replayed]
) -> None:
    other = make_board("dev-2", now)
    refuse(batches(board, now, 1), "range", now)
    refuse(batches(other, now, 1), "range", now)
    refuse(batches(other, now, 1), "bad_window", now)
    assert again("range", device_id="dev-2").taken == 1
    assert sorted(DeadLetter.objects.values_list("device_id", "code")) == [
        ("dev-1", "range"),
        ("dev-2", "bad_window"),
    ]


def test_a_replay_goes_on_over_many_steps(
    board: Board, now: datetime, again: Callable[..., Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "STEP", 3)
    messages = batches(board, now, 8, windows=1)
    messages[4] = messages[4]._replace(payload=b"junk")
    refuse(messages, "internal", now)
    done = again("internal")
    assert (done.seen, done.taken, done.windows, done.refused["cbor_bad"]) == (8, 7, 7, 1)
    steps = AuditEvent.objects.filter(verb="telemetry.replay", subject_id="internal")
    assert sorted(one.after["letters"] for one in steps) == [2, 2, 3]


def test_a_message_that_the_database_refuses_stays_and_the_others_are_stored(
    board: Board, now: datetime, again: Callable[..., Replayed]
) -> None:
    refuse(batches(board, now, 4, windows=1), "db_reject", now)
    partitions.make_ahead(now)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tele_window ADD CONSTRAINT no_second CHECK (seq & 4294967295 <> 1)")
    done = again("db_reject")
    assert (done.taken, done.windows, dict(done.refused)) == (3, 3, {"db_reject": 1})
    assert DeadLetter.objects.count() == 1


def test_a_step_that_fails_leaves_its_letters(
    board: Board, now: datetime, again: Callable[..., Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(batches(board, now, 1), "db_reject", now)

    def fail(**_: Any) -> None:
        raise IntegrityError("the audit trail is full")

    monkeypatch.setattr(replay.audit, "record", fail)
    assert again("db_reject").taken == 0
    assert (DeadLetter.objects.count(), Window.objects.count()) == (1, 0)


def test_a_letter_that_another_replay_has_taken_is_not_stored_again(
    board: Board, now: datetime, again: Callable[..., Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(batches(board, now, 2), "db_reject", now)
    claim = replay._claim

    def late(keys: Any) -> Any:
        DeadLetter.objects.filter(id=keys[0][1]).delete()
        return claim(keys)

    monkeypatch.setattr(replay, "_claim", late)
    assert again("db_reject").taken == 1
    assert Window.objects.count() == 4


def test_the_command_says_what_it_did_and_refuses_a_code_that_is_none() -> None:
    now = timezone.now()
    board = make_board("dev-1", now)
    refuse(batches(board, now, 2), "key_unknown", now)
    refuse([Arrived("f1/dev/dev-1/telemetry", b"junk", False, 0, 1)], "key_unknown", now)
    out = StringIO()
    call_command("telemetry", "replay", "--code", "key_unknown", stdout=out)
    assert "2 of 3 messages are stored: 8 windows" in out.getvalue()
    assert "1 stay, refused as cbor_bad" in out.getvalue()
    with pytest.raises(CommandError, match="unknown_code"):
        call_command("telemetry", "replay", "--code", "tea")
