"""Slots: one gateway each, roles apart, and a way to empty one whose gateway will not come back."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection

from fleet.devices.models import Device
from fleet.gateway import drain, readiness, service
from fleet.gateway.errors import GatewayError
from fleet.gateway.slot_lease import SlotLease
from fleet.mqtt.client import MqttError, take_named
from fleet.mqtt.codec.json_windows import json_of
from fleet.telemetry.models import DeadLetter, UnprovenWindow, Window
from tests.devices.makers import Board, make_report
from tests.gateway.gateways import enrolled, left_at_broker, process, running, send, wait_until
from tests.stack.services import Broker, Client
from tests.telemetry.batches import make_batch
from tests.telemetry.test_ingest import totals

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def boards(broker: Broker, moment: datetime) -> list[Board]:
    return enrolled(broker, moment, 2)


@pytest.fixture
def lease() -> Iterator[SlotLease]:
    held = SlotLease([1])
    yield held
    held.release()


def test_a_slot_is_held_by_one_gateway_of_all_machines(lease: SlotLease) -> None:
    lease.take()
    other = SlotLease([1])
    with pytest.raises(GatewayError) as caught:
        other.take()
    assert caught.value.code == "slot_taken"
    assert not other.is_held
    apart = SlotLease([3])
    apart.take()
    assert apart.is_held
    apart.release()
    lease.release()
    other.take()
    assert other.is_held
    other.release()


def test_a_lease_that_was_lost_with_its_connection_is_taken_again_or_told(lease: SlotLease) -> None:
    def end_session() -> None:
        assert lease._connection is not None
        pid = lease._connection.info.backend_pid
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])

    lease.take()
    end_session()
    lease.take()
    assert lease.is_held
    end_session()
    other = SlotLease([1])
    other.take()
    with pytest.raises(GatewayError):
        lease.take()
    other.release()


def test_a_lease_waits_for_a_database_that_is_away(lease: SlotLease, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(psycopg, "connect", lambda **options: _away())
        lease.take()
        assert not lease.is_held
    lease.take()
    assert lease.is_held


def _away() -> Any:
    raise psycopg.OperationalError("connection refused")


def test_a_second_gateway_of_a_slot_is_told_so(
    broker: Broker, boards: list[Board], tmp_path: Path, lease: SlotLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.take()  # as a gateway of another machine would
    monkeypatch.setattr(readiness, "LEASE_WAIT_S", 0.3)
    with pytest.raises(GatewayError) as caught:
        service.run(slot=0, stop=threading.Event(), role=service.Role.TELEMETRY)
    assert caught.value.code == "slot_taken"
    take_named("svc.gateway-1").release()  # the machine's own lease was given back


def test_a_gateway_whose_slot_is_taken_from_it_ends_with_a_sentence(
    broker: Broker, boards: list[Board], tmp_path: Path
) -> None:
    with process(broker.env(), tmp_path, "--role", "telemetry") as gateway:
        gateway.says("is ready")
        thief = SlotLease([1])

        def is_stolen() -> bool:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND classid = %s AND objid = 1",
                    [0x7E1E_0002],
                )
            with suppress(GatewayError):
                thief.take()
            return thief.is_held

        wait_until(is_stolen, what="the slot to be taken away")
        gateway.says("slot_taken")
        assert gateway.child.wait(timeout=90) == 1
        thief.release()


def test_roles_apart_take_what_is_theirs(broker: Broker, boards: list[Board], moment: datetime) -> None:
    board = boards[0]
    with Client(broker, board.id, board.secret) as client:
        with running(role=service.Role.TELEMETRY):
            send(client, board, "reported", board.reported(make_report(1, 1)).payload)
            send(client, board, "telemetry", board.telemetry(make_batch(moment)).payload)
            wait_until(lambda: Window.objects.count() == 1, what="the window")
            assert Device.objects.get(pk=board.id).report_n == 0
        with running(role=service.Role.CONTROL):
            send(client, board, "telemetry", board.telemetry(make_batch(moment, first=1)).payload)
            wait_until(lambda: Device.objects.get(pk=board.id).report_n == 1, what="the report")
            assert Window.objects.count() == 1
    assert left_at_broker(broker) == 1


def test_control_belongs_to_slot_0(broker: Broker, tmp_path: Path) -> None:
    with process(broker.env(), tmp_path, "--role", "control", "--slot", "1") as gateway:
        assert gateway.child.wait(timeout=90) == 1
        gateway.says("reports and presence belong to slot 0")


def test_a_drained_slot_is_stored_and_gone(broker: Broker, boards: list[Board], moment: datetime) -> None:
    board = boards[0]
    with running(slot=1), Client(broker, board.id, board.secret) as client:
        send(client, board, "telemetry", board.telemetry(make_batch(moment)).payload)
        wait_until(lambda: Window.objects.count() == 1, what="the first window")
    with Client(broker, board.id, board.secret) as client:  # a shared subscription keeps it for slot 1
        for k in range(1, 40):
            send(client, board, "telemetry", board.telemetry(make_batch(moment, first=k)).payload)
    assert Window.objects.count() == 1
    assert drain.run(slot=1, stop=threading.Event())
    assert totals()[0] == 40
    with Client(broker, board.id, board.secret) as client:  # nobody is subscribed any more
        send(client, board, "telemetry", board.telemetry(make_batch(moment, first=40)).payload)
    assert drain.run(slot=1, stop=threading.Event())
    assert totals()[0] == 40


def test_draining_reads_in_debug_mode_what_a_gateway_would(
    broker: Broker, boards: list[Board], moment: datetime, settings: Any
) -> None:
    settings.DEBUG_JSON, board = True, boards[0]
    with running(slot=1):
        pass
    with Client(broker, board.id, board.secret) as client:
        send(client, board, "telemetry", json_of(make_batch(moment, 2)))
    assert drain.run(slot=1, stop=threading.Event())
    assert (UnprovenWindow.objects.count(), DeadLetter.objects.count()) == (2, 0)


def test_a_slot_whose_gateway_runs_is_not_drained(
    broker: Broker, boards: list[Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LEASE_WAIT_S", 0.3)
    with running(slot=1), pytest.raises(MqttError) as caught:
        drain.run(slot=1, stop=threading.Event())
    assert caught.value.code == "no_free_user"
