"""What a batch of uplinks changes, in one transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.devices.keys import Keyring
from fleet.devices.models import Device, DeviceEvent, DeviceSlot, Presence
from fleet.gateway.handlers import Control, Measurements, without_passing_states
from fleet.gateway.uplink import Reader, Uplink
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import Clock, EventKind, RefusalCode, UpdateState
from fleet.mqtt.codec.reported import SlotReport
from fleet.telemetry.models import DeadLetter, DeviceLast, Minute, Version, Window
from tests.devices.makers import BANK, Board, make_board, make_report
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db


@pytest.fixture
def board(now: datetime) -> Board:
    return make_board("dev-1", now)


@pytest.fixture
def control(board: Board) -> Control:
    return Control(Reader(board.installation, Keyring()), slot=0)


@pytest.fixture
def measure(board: Board) -> Measurements:
    return Measurements(Reader(board.installation, Keyring()), slot=3)


def test_reports_and_presence_become_state(control: Control, board: Board, now: datetime) -> None:
    other = make_board("dev-2", now)
    messages = [
        other.reported(make_report(1, 1)),
        board.online(True),
        board.reported(make_report(1, 1)),
        Arrived("f1/dev/dev-1/reported", b"junk", False, 0, 1),
        board.reported(make_report(1, 2, free_heap_bytes=7)),
        other.online(False),
    ]
    control.handle(messages, now=now)
    device = Device.objects.get(pk="dev-1")
    assert (device.report_n, device.free_heap_bytes, device.presence) == (2, 7, Presence.ONLINE)
    assert Device.objects.get(pk="dev-2").presence == Presence.OFFLINE
    assert DeviceSlot.objects.count() == 2
    letter = DeadLetter.objects.get()
    assert (letter.code, letter.device_id, bytes(letter.payload)) == ("cbor_bad", "dev-1", b"junk")


def test_retained_reports_that_come_again_change_nothing(
    control: Control, board: Board, now: datetime
) -> None:
    message = board.reported(make_report(1, 1), retained=True)
    control.handle([message], now=now)
    before = list(Device.objects.values()) + list(DeviceEvent.objects.values())
    control.handle([message, message], now=now + timedelta(hours=1))
    assert list(Device.objects.values()) + list(DeviceEvent.objects.values()) == before


def test_a_report_moves_the_jobs_of_its_device_in_the_same_transaction(
    control: Control, board: Board, now: datetime, make_job: Any
) -> None:
    job = make_job(board.id, target=(BANK.manifest_id * 2).hex(), attempt=2, counter=7)
    slot = SlotReport(UpdateState.DOWNLOADING, have=3, total=9, attempt=2, target=BANK.manifest_id)
    control.handle([board.reported(make_report(1, 1, slot=slot, desired_counter=7))], now=now)
    job.refresh_from_db()
    assert (job.state, job.have, job.total) == ("downloading", 3, 9)
    refused = SlotReport(UpdateState.REFUSED, RefusalCode.DIGEST, attempt=2, target=BANK.manifest_id)
    control.handle([board.reported(make_report(1, 2, slot=refused, desired_counter=7))], now=now)
    job.refresh_from_db()
    assert (job.state, job.code) == ("failed", "digest")


def test_telemetry_events_and_dead_letters_of_one_batch(
    measure: Measurements, board: Board, now: datetime
) -> None:
    event = Event(1, 1, int(now.timestamp() * 1000), Clock.SNTP, EventKind.ANOMALY, (900, 500, 2, 0))
    messages = [
        board.telemetry(make_batch(now - timedelta(minutes=1), 3)),
        board.event(event),
        Arrived("f1/dev/ghost/telemetry", b"", False, 0, 1),
        board.telemetry(make_batch(now - timedelta(minutes=1), 2, first=3)),
        board.event(event),
    ]
    for _ in range(2):  # a redelivery of everything
        measure.handle(messages, now=now)
    assert Window.objects.count() == 5
    assert set(Minute.objects.values_list("device_class", "ingest_slot")) == {("host-a", 3)}
    assert sum(Minute.objects.values_list("windows", flat=True)) == 5
    assert DeviceEvent.objects.filter(kind="anomaly").count() == 1
    assert list(DeadLetter.objects.values_list("code", "ingest_slot")) == [("unknown_device", 3)] * 2
    assert DeviceLast.objects.get().pk == "dev-1"
    assert Device.objects.get().last_seen_at == now


def ways(measure: Measurements, messages: Sequence[Arrived], now: datetime) -> list[str]:
    """How windows were stored: `careful` leaves out those that are there, `straight` is refused by them."""
    with CaptureQueriesContext(connection) as seen:
        measure.handle(messages, now=now)
    merges = [one["sql"] for one in seen if "FROM fresh" in one["sql"]]
    return ["careful" if "INSERT INTO tele_window" in sql else "straight" for sql in merges]


def test_windows_go_a_careful_way_while_repetitions_are_likely(
    measure: Measurements, board: Board, now: datetime
) -> None:
    """A straight copy that is refused leaves its rows behind as dead ones: once a minute at most."""
    first, second = (board.telemetry(make_batch(now, 2, first=n)) for n in (0, 2))
    assert ways(measure, [first], now) == ["straight"]
    assert ways(measure, [second._replace(is_again=True)], now) == ["careful"]
    for after_s, n in ((1, 4), (2, 6)):  # what the broker has marked does not make later ones suspect
        fresh = board.telemetry(make_batch(now, 2, first=n))
        assert ways(measure, [fresh], now + timedelta(seconds=after_s)) == ["straight"]
    assert ways(measure, [first], now + timedelta(seconds=3)) == ["careful"]  # after a refused copy
    fresh = board.telemetry(make_batch(now, 2, first=8))
    assert ways(measure, [fresh], now + timedelta(seconds=4)) == ["careful"]
    late = board.telemetry(make_batch(now, 2, first=10))
    assert ways(measure, [late], now + timedelta(seconds=64)) == ["straight"]
    assert Window.objects.count() == 12


def test_an_event_gives_a_job_its_code(
    measure: Measurements, board: Board, now: datetime, make_job: Any
) -> None:
    job = make_job(board.id, target="ab" * 32, attempt=1, counter=7)
    event = Event(1, 1, 0, Clock.SNTP, EventKind.REFUSAL, (RefusalCode.DIGEST, 0), 0, "ab" * 8)
    measure.handle([board.event(event)], now=now)
    job.refresh_from_db()
    assert (job.state, job.code) == ("offered", "digest")


def uplinks(steps: Sequence[tuple[str, UpdateState, int]]) -> list[Uplink]:
    return [
        Uplink(
            device,
            "reported",
            make_report(1, n, slot=SlotReport(state, attempt=attempt, total=99, target=BANK.manifest_id)),
            False,
        )
        for n, (device, state, attempt) in enumerate(steps, 1)
    ]


def test_only_the_newest_report_of_an_attempt_is_kept() -> None:
    down = UpdateState.DOWNLOADING
    sent = uplinks(
        [
            ("a", UpdateState.OFFERED, 1),
            ("a", down, 1),
            ("b", down, 1),
            ("a", UpdateState.REVERTED, 1),
            ("b", UpdateState.CONFIRMED, 1),
            ("a", UpdateState.OFFERED, 2),
            ("a", UpdateState.TRIAL, 2),
        ]
    )
    kept = without_passing_states(sent)
    assert [(one.device_id, one.content.n) for one in kept] == [  # type: ignore[union-attr]
        ("a", 4), ("b", 5), ("a", 7),
    ]  # fmt: skip


def test_new_model_runs_cost_as_many_questions_in_a_batch_of_forty_as_of_four(
    measure: Measurements, board: Board, now: datetime
) -> None:
    boards = [board, *(make_board(f"dev-{n}", now) for n in range(2, 5))]
    measure.handle([one.telemetry(make_batch(now)) for one in boards], now=now)  # keys, partitions, versions
    asked = []
    for first, each in ((1, 1), (2, 10), (2, 10)):
        runs = range(first, first + each)
        messages = [one.telemetry(make_batch(now, first=n, mid=f"{n:016x}")) for n in runs for one in boards]
        with CaptureQueriesContext(connection) as found:
            measure.handle(messages, now=now)
        asked.append(len([one for one in found if "FROM tele_version" in one["sql"]]))
    assert asked[1] == asked[0]
    assert asked[2] < asked[0], "what is known is not asked for again but by the statement that stores"
    assert Version.objects.count() == 12
