"""What is missing becomes a gap, is explained or given up, and is repaired by whatever arrives after all."""

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.devices import timeline
from fleet.devices.keys import KEYRING
from fleet.devices.models import Device
from fleet.gateway.handlers import Measurements
from fleet.gateway.uplink import Reader
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import Clock, EventKind
from fleet.mqtt.codec.telemetry import encode_batch, parse_batch
from fleet.telemetry import gaps, ingest, queries
from fleet.telemetry.gap_models import Boot, Gap
from fleet.telemetry.ingest import Delivery
from tests.devices.makers import Board, make_board
from tests.telemetry.batches import make_batch, ms, sketch_batch
from tests.vectors.collection import changed

pytestmark = pytest.mark.django_db
LATER = timedelta(seconds=61)
NUMBERS = itertools.count()
Row = tuple[int, int, str, str]


@pytest.fixture
def board(now: datetime) -> Board:
    KEYRING.clear()  # of this process: another test had other keys for the same name
    return make_board("dev-1", now)


@pytest.fixture
def send(board: Board, now: datetime) -> Callable[..., None]:
    """`send(first, n, boot=1, at=now)`: a batch of n windows of the board arrives."""

    def sent(first: int, n: int = 1, *, boot: int = 1, at: datetime = now) -> None:
        start = now - timedelta(hours=1) + timedelta(seconds=10 * first)
        ingest.store([Delivery(board.id, make_batch(start, n, boot=boot, first=first))], slot=0, now=at)

    return sent


def turn(board: Board, at: datetime) -> gaps.Turn:
    return gaps.run(at, installation_id=board.installation)


def rows() -> list[Row]:
    return list(Gap.objects.order_by("boot", "first").values_list("first", "last", "state", "cause"))


def test_dense_counters_make_no_gap_in_any_order(board: Board, send: Any, now: datetime) -> None:
    for first, n in ((3, 2), (0, 1), (1, 2), (1, 2)):
        send(first, n)
    boot = Boot.objects.get()
    assert (boot.highest, boot.received, boot.unsettled_at) == (4, 5, None)
    assert turn(board, now + LATER) == gaps.Turn()
    assert rows() == []


def test_what_is_missing_for_a_minute_is_a_gap_and_not_before(board: Board, send: Any, now: datetime) -> None:
    send(2, 3)
    send(7)
    assert turn(board, now + timedelta(seconds=59)) == gaps.Turn()
    assert turn(board, now + LATER) == gaps.Turn(found=2)
    assert rows() == [(0, 1, "open", ""), (5, 6, "open", "")]
    assert turn(board, now + LATER) == gaps.Turn(), "found once"
    boot = Boot.objects.get()
    assert (boot.highest, boot.received, boot.unsettled_at) == (7, 4, None)


def test_a_hole_that_closed_meanwhile_does_not_make_the_next_one_older(
    board: Board, send: Any, now: datetime
) -> None:
    send(1)
    send(0, at=now + timedelta(seconds=1))
    send(3, at=now + timedelta(seconds=59))
    assert turn(board, now + LATER) == gaps.Turn()
    assert turn(board, now + LATER + timedelta(minutes=1)) == gaps.Turn(found=1)


def test_a_gap_at_the_end_shows_with_the_next_record(board: Board, send: Any, now: datetime) -> None:
    send(0, 3)
    assert turn(board, now + LATER) == gaps.Turn()
    send(5)
    turn(board, now + LATER)
    assert rows() == [(3, 4, "open", "")]


def test_a_part_that_arrives_is_repaired_and_the_rest_stays(board: Board, send: Any, now: datetime) -> None:
    send(10)
    turn(board, now + LATER)
    send(4, 3, at=now + LATER)
    assert turn(board, now + 2 * LATER) == gaps.Turn(repaired=1)
    assert rows() == [(0, 3, "open", ""), (4, 6, "repaired", ""), (7, 9, "open", "")]
    assert Gap.objects.get(first=7).found_at == now + LATER
    send(0, 4, at=now + 2 * LATER)
    send(7, 3, at=now + 2 * LATER)
    turn(board, now + 3 * LATER)
    assert {state for *_, state, _ in rows()} == {"repaired"}
    assert Boot.objects.get().received == 11


def test_every_kind_of_record_counts(board: Board, now: datetime) -> None:
    def edit(item: dict[int, Any]) -> None:
        item[8] = [[100, 9, 2, 9000, 500, 10, 800, 0]]

    mixed = parse_batch(changed(encode_batch(make_batch(now, 2)), edit))
    batches = [mixed, sketch_batch(now, first=3), make_batch(now, first=4)]
    ingest.store([Delivery(board.id, one) for one in batches], slot=0, now=now)
    boot = Boot.objects.get()
    assert (boot.highest, boot.received, boot.unsettled_at) == (4, 5, None)


def test_the_device_says_what_its_ring_lost(board: Board, send: Any, now: datetime) -> None:
    send(10)
    turn(board, now + LATER)
    event = Event(1, 1, ms(now), Clock.SNTP, EventKind.TELEMETRY_LOST, (1, 2, 3, 1))
    other = Event(1, 2, ms(now), Clock.SNTP, EventKind.TELEMETRY_LOST, (2, 0, 9, 1))
    for one in (event, other):
        timeline.record_event(board.id, one, now=now)
    assert turn(board, now + LATER) == gaps.Turn(lost=1)
    assert rows() == [(0, 1, "open", ""), (2, 3, "lost", "ring_full"), (4, 9, "open", "")]


def test_an_authentic_refused_batch_closes_its_counters_and_a_forged_one_closes_none(
    board: Board, send: Any, now: datetime
) -> None:
    old = board.telemetry(make_batch(now - timedelta(days=40), 2, first=0))
    forged = Arrived(old.topic, old.payload[:-1] + b"\0", False, 0, 1)
    later = board.telemetry(make_batch(now - timedelta(days=40), 1, first=5))
    for message in (forged, later):
        Measurements(Reader(board.installation, KEYRING), slot=0).handle([message], now=now)
    send(10)
    turn(board, now + LATER)
    assert rows() == [(0, 4, "open", ""), (5, 5, "lost", "time_range"), (6, 9, "open", "")]
    Measurements(Reader(board.installation, KEYRING), slot=0).handle([old], now=now)
    turn(board, now + LATER)
    assert rows()[0] == (0, 1, "lost", "time_range")


def test_a_letter_of_a_flood_is_opened_before_it_is_believed(board: Board, send: Any, now: datetime) -> None:
    said = board.telemetry(make_batch(now, 2, first=3))
    false = board.telemetry(make_batch(now, 2, first=0))
    for payload in (said.payload, false.payload[:-4] + b"abcd"):
        message = Arrived(said.topic, payload, False, 0, 1, excess="first")
        Measurements(Reader(board.installation, KEYRING), slot=0).handle([message], now=now)
    send(10)
    turn(board, now + LATER)
    assert rows() == [(0, 2, "open", ""), (3, 4, "lost", "rate_limited"), (5, 9, "open", "")]


def test_a_boot_that_is_over_holds_nothing_any_more(board: Board, send: Any, now: datetime) -> None:
    send(2)
    send(0, boot=2)
    assert turn(board, now + LATER) == gaps.Turn(found=1, lost=1)
    assert rows() == [(0, 1, "lost", "rebooted")]
    send(0, at=now + LATER)
    assert turn(board, now + 2 * LATER) == gaps.Turn(repaired=1), "a queue of an old boot came after all"
    assert rows() == [(0, 0, "repaired", ""), (1, 1, "lost", "rebooted")]


def test_a_retired_device_is_asked_nothing(board: Board, send: Any, now: datetime) -> None:
    send(2)
    Device.objects.update(retired_at=now)
    turn(board, now + LATER)
    assert rows() == [(0, 1, "lost", "retired")]


def test_a_gap_nobody_answers_for_is_lost(board: Board, send: Any, now: datetime) -> None:
    send(2)
    turn(board, now + LATER)
    Gap.objects.update(state="asked", tries=2, asked_at=now + LATER)
    assert turn(board, now + LATER + timedelta(seconds=119)) == gaps.Turn()
    assert turn(board, now + LATER + timedelta(seconds=120)) == gaps.Turn(lost=1)
    assert rows() == [(0, 1, "lost", "no_answer")]
    assert Gap.objects.get().closed_at is not None


def test_a_device_that_never_comes_back_is_given_up(board: Board, send: Any, now: datetime) -> None:
    send(2)
    turn(board, now + LATER)
    assert turn(board, now + timedelta(days=7)) == gaps.Turn()
    assert turn(board, now + LATER + timedelta(days=7)) == gaps.Turn(lost=1)
    assert rows() == [(0, 1, "lost", "not_back")]


def test_a_boot_full_of_holes_is_counted_and_not_named(
    board: Board, send: Any, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaps, "MOST_RANGES", 4)
    for first in range(1, 12, 2):
        send(first)
    turn(board, now + LATER)
    gap = Gap.objects.get()
    assert (gap.first, gap.last, gap.records, gap.cause) == (0, 10, 6, "scattered")
    boot = Boot.objects.get()
    assert (boot.highest, boot.received, boot.scattered, boot.unsettled_at) == (11, 6, 6, None)
    send(13)
    turn(board, now + 2 * LATER)
    assert rows()[1:] == [(12, 12, "open", "")]
    assert Boot.objects.get().received == 7


def test_old_boots_and_their_gaps_are_forgotten_but_never_the_newest(
    board: Board, send: Any, now: datetime
) -> None:
    send(2)
    send(1, boot=2)
    turn(board, now + LATER)
    gaps.run(now + timedelta(days=8), installation_id=board.installation)
    assert gaps.forget(now + timedelta(days=91)) == 2
    assert [(one.boot, one.highest) for one in Boot.objects.all()] == [(2, 1)]
    assert Gap.objects.get().boot == 2


def test_what_was_sent_before_anybody_kept_count_is_taken_as_received(
    board: Board, send: Any, now: datetime
) -> None:
    send(7, 3, boot=4)
    Boot.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(import_module("fleet.telemetry.migrations.0004_gaps")._FILL_SQL)
    send(10, 2, boot=4)
    boot = Boot.objects.get()
    assert (boot.boot, boot.highest, boot.received, boot.unsettled_at) == (4, 11, 12, None)


def test_to_a_gate_a_lost_gap_is_missing_telemetry_and_a_repaired_one_is_not(
    board: Board, send: Any, now: datetime
) -> None:
    span = queries.Span(board.id, None, now - timedelta(hours=1), now, expected=10)
    send(0, 2)
    send(8, 2)
    turn(board, now + LATER)
    Gap.objects.update(state="lost", cause="not_held")
    (outcome,) = queries.device_outcomes([span], metric="reporting")
    assert (outcome.windows, outcome.mean) == (4, 0.4)
    send(2, 6, at=now + LATER)
    turn(board, now + 2 * LATER)
    assert rows() == [(2, 7, "repaired", "")]
    (outcome,) = queries.device_outcomes([span], metric="reporting")
    assert (outcome.windows, outcome.mean) == (10, 1.0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_permutation_loss_and_duplication_leaves_exactly_what_is_missing(
    data: st.DataObject, now: datetime
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    sent = data.draw(st.lists(st.sampled_from(range(len(sizes))), max_size=14))
    looks = data.draw(st.sets(st.integers(0, len(sent))))
    name = f"p-{next(NUMBERS)}"  # examples share one transaction
    arrived: set[int] = set()
    at = now
    for step, index in enumerate([*sent, -1]):
        if step in looks or index < 0:
            at += LATER
            gaps.run(at, installation_id=b"\0" * 16)
            top = max(arrived, default=-1)
            missing = set(range(top + 1)) - arrived
            named = [
                counter
                for row in Gap.objects.filter(device_id=name).exclude(state="repaired")
                for counter in range(row.first, row.last + 1)
            ]
            assert sorted(named) == sorted(missing), "each once"
            boot = Boot.objects.filter(device_id=name).first()
            assert (boot.received if boot else 0) == len(arrived)
        if index >= 0:
            batch = make_batch(now - timedelta(hours=1), sizes[index], first=firsts[index])
            ingest.store([Delivery(name, batch)], slot=step % 2, now=at)
            arrived |= set(range(firsts[index], firsts[index] + sizes[index]))
