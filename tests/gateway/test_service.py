"""The gateway against a real broker and a real database: in order, killed, cut off, poisoned."""

import os
import signal
import threading
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from fleet.devices.keys import Keyring
from fleet.devices.models import Device, DeviceEvent, Presence
from fleet.gateway import metrics, readiness, service
from fleet.gateway.handlers import Measurements
from fleet.gateway.uplink import Reader
from fleet.mqtt.client import BackendClient, MqttError, take_named
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.json_windows import json_of
from fleet.mqtt.codec.names import Clock, EventKind
from fleet.stack.mosquitto import accepts
from fleet.telemetry.models import DeadLetter, UnprovenWindow, Window
from tests.devices.makers import Board, make_report
from tests.gateway.gateways import enrolled, left_at_broker, process, running, send, streaming, wait_until
from tests.stack.services import Broker, Client
from tests.telemetry.batches import make_batch
from tests.telemetry.test_ingest import totals

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def boards(broker: Broker, moment: datetime) -> list[Board]:
    return enrolled(broker, moment, 3)


def test_everything_a_device_says_arrives_and_is_acknowledged(
    broker: Broker, reader: str, boards: list[Board], moment: datetime, settings: Any
) -> None:
    board, settings.DEBUG_JSON = boards[0], True
    with running(reader=reader), Client(broker, board.id, board.secret) as client:
        send(client, board, "online", board.online(True).payload)
        send(client, board, "reported", board.reported(make_report(1, 1)).payload)
        send(client, board, "telemetry", board.telemetry(make_batch(moment, 3)).payload)
        send(client, board, "event", board.event(Event(1, 1, 0, Clock.SNTP, EventKind.BROWNOUT)).payload)
        send(client, board, "telemetry", b"junk")
        send(client, board, "telemetry", json_of(make_batch(moment, 2, first=90)))
        wait_until(lambda: UnprovenWindow.objects.count() == 2, what="windows without a MAC")
        wait_until(lambda: Window.objects.count() == 3, what="windows")
        wait_until(lambda: Device.objects.get(pk="dev-0").report_n == 1, what="the report")
        wait_until(lambda: DeviceEvent.objects.filter(kind="brownout").exists(), what="the event")
        wait_until(lambda: DeadLetter.objects.filter(code="cbor_bad").exists(), what="the dead letter")
        wait_until(lambda: Device.objects.get(pk="dev-0").presence == Presence.ONLINE, what="presence")
    assert totals()[0] == 3
    assert left_at_broker(broker) == 0


def test_what_comes_while_the_gateway_is_away_is_kept_by_the_broker(
    broker: Broker, reader: str, boards: list[Board], moment: datetime
) -> None:
    board = boards[0]
    with running(reader=reader), Client(broker, board.id, board.secret) as client:
        send(client, board, "telemetry", board.telemetry(make_batch(moment)).payload)
        wait_until(lambda: Window.objects.count() == 1, what="the first window")
    with Client(broker, board.id, board.secret) as client:
        send(client, board, "reported", board.reported(make_report(1, 5)).payload)
        for k in range(1, 40):
            send(client, board, "telemetry", board.telemetry(make_batch(moment, first=k)).payload)
    assert Window.objects.count() == 1
    with running(reader=reader):
        wait_until(lambda: Window.objects.count() == 40, what="the windows that were kept")
        wait_until(lambda: Device.objects.get(pk="dev-0").report_n == 5, what="the retained report")


def test_death_between_commit_and_acknowledgement_counts_once(
    broker: Broker, reader: str, boards: list[Board], moment: datetime
) -> None:
    board, inbox = boards[0], []
    user = take_named("svc.gateway-1")
    with BackendClient(user, clean=False, manual_ack=True, on_message=inbox.append) as half:
        half.subscribe("f1/dev/+/telemetry")
        half.connect()
        wait_until(lambda: half.is_subscribed, what="the subscription")
        with Client(broker, board.id, board.secret) as client:
            for k in range(10):
                send(client, board, "telemetry", board.telemetry(make_batch(moment, first=k)).payload)
        wait_until(lambda: len(inbox) == 10, what="ten batches")
        handler = Measurements(Reader(board.installation, Keyring()), slot=0)
        handler.handle(inbox, now=moment)  # committed; the process ends before it acknowledges
    user.release()
    assert Window.objects.count() == 10
    duplicates = metrics.WINDOWS.labels("duplicate")._value
    before = duplicates.get()
    with running(reader=reader):
        wait_until(lambda: duplicates.get() == before + 10, what="ten redelivered windows")
    assert totals()[0] == 10
    assert left_at_broker(broker) == 0


def test_kill_9_in_mid_stream_loses_nothing_and_counts_nothing_twice(
    broker: Broker, reader: str, boards: list[Board], moment: datetime, tmp_path: Path
) -> None:
    """Once from outside, whenever that is, and twice by itself between a commit and its acknowledgement."""
    arguments = ("--reader", reader, "--device-burst", "1000000")
    duplicates = metrics.WINDOWS.labels("duplicate")._value
    before = duplicates.get()
    with ExitStack() as devices:
        with process(broker.env(), tmp_path, *arguments) as gateway:
            gateway.says("is ready")  # subscribed: from now on the broker keeps what comes
            sent = devices.enter_context(streaming(broker, boards, moment))
            wait_until(lambda: Window.objects.count() > 200, what="more windows")
        for _ in range(2):
            with process(broker.env(), tmp_path, *arguments, dying_at=2) as gateway:
                assert gateway.child.wait(timeout=90) == -signal.SIGKILL, gateway.log.read_text()[-2000:]
        stored = Window.objects.count()
        with running(reader=reader, burst=1_000_000):
            wait_until(lambda: Window.objects.count() > stored, what="the last successor's windows")
            sent.end()
            wait_until(lambda: Window.objects.count() == sent.windows, what=f"{sent.windows} windows")
    assert duplicates.get() > before
    assert totals()[0] == sent.windows
    assert left_at_broker(broker) == 0


def test_a_killed_broker_is_come_back_to(
    broker: Broker, reader: str, boards: list[Board], moment: datetime, tmp_path: Path
) -> None:
    board = boards[0]
    with process(broker.env(), tmp_path, "--reader", reader) as gateway:
        gateway.says("is ready")
        with Client(broker, board.id, board.secret) as client:
            send(client, board, "telemetry", board.telemetry(make_batch(moment)).payload)
        wait_until(lambda: Window.objects.count() == 1, what="the first window")
        before = broker.supervisor.pid("mosquitto")
        os.kill(before, signal.SIGKILL)
        gateway.says("lost its connection to the broker")
        wait_until(lambda: broker.supervisor.pid("mosquitto") != before, what="a new broker")
        # At once, before the gateway is back: the broker remembers who subscribed.
        wait_until(lambda: accepts(broker.port, broker.tls.ca, board.id, board.secret), what="the broker")
        with Client(broker, board.id, board.secret) as client:
            send(client, board, "telemetry", board.telemetry(make_batch(moment, first=1)).payload)
        wait_until(lambda: Window.objects.count() == 2, what="the second window")
        gateway.says("connected to the broker again")
        assert gateway.terminate() == 0


def test_a_lost_database_connection_costs_a_retry_and_no_row(
    broker: Broker, reader: str, boards: list[Board], moment: datetime
) -> None:
    board = boards[0]
    retries = metrics.RETRIES.labels("telemetry")._value
    before = retries.get()
    with running(reader=reader), Client(broker, board.id, board.secret) as client:
        send(client, board, "telemetry", board.telemetry(make_batch(moment)).payload)
        wait_until(lambda: Window.objects.count() == 1, what="the first window")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            )
            assert cursor.fetchone()[0] >= 1
        send(client, board, "telemetry", board.telemetry(make_batch(moment, first=1)).payload)
        wait_until(lambda: Window.objects.count() == 2, what="the second window")
    assert retries.get() == before + 1


def test_a_database_that_only_reads_for_a_while_costs_retries_and_no_row(
    broker: Broker, boards: list[Board], moment: datetime
) -> None:
    board = boards[0]
    retries = metrics.RETRIES.labels("telemetry")._value
    before = retries.get()
    name = connection.settings_dict["NAME"]

    def set_and_reconnect(what: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" {what}')
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            )

    try:
        with running(), Client(broker, board.id, board.secret) as client:
            set_and_reconnect("SET default_transaction_read_only = on")
            for k in range(20):
                send(client, board, "telemetry", board.telemetry(make_batch(moment, first=k)).payload)
            wait_until(lambda: retries.get() >= before + 2, what="two retries")
            assert Window.objects.count() == 0
            set_and_reconnect("RESET default_transaction_read_only")
            wait_until(lambda: Window.objects.count() == 20, what="every window")
    finally:
        set_and_reconnect("RESET default_transaction_read_only")
    assert DeadLetter.objects.count() == 0
    assert left_at_broker(broker) == 0


def test_a_device_that_sends_too_much_loses_its_own_messages_and_no_other_does(
    broker: Broker, reader: str, boards: list[Board], moment: datetime
) -> None:
    limited = metrics.REFUSED.labels("telemetry", "rate_limited")._value
    before = limited.get()
    mad, calm = boards[:2]
    with running(reader=reader, per_s=0.001, burst=5):
        for board, count in ((mad, 30), (calm, 5)):
            with Client(broker, board.id, board.secret) as client:
                for k in range(count):
                    send(client, board, "telemetry", board.telemetry(make_batch(moment, first=k)).payload)
        wait_until(lambda: limited.get() == before + 25, what="25 messages beyond the pace")
        wait_until(lambda: Window.objects.filter(device_id=calm.id).count() == 5, what="the calm device's")
    assert Window.objects.filter(device_id=mad.id).count() == 5
    letter = DeadLetter.objects.get()
    assert (letter.device_id, letter.code) == (mad.id, "rate_limited")
    assert bytes(letter.payload) == mad.telemetry(make_batch(moment, first=5)).payload
    assert left_at_broker(broker) == 0


def test_a_message_that_the_database_refuses_becomes_a_dead_letter_and_its_neighbours_stay(
    broker: Broker, reader: str, boards: list[Board], moment: datetime
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE tele_window ADD CONSTRAINT poison CHECK (us_max <> 666)")
    try:
        board = boards[0]
        with Client(broker, board.id, board.secret) as client, running(reader=reader):
            for k in range(20):
                poison = {"us_mean": 1, "us_max": 666 if k in (7, 8) else 5}
                send(
                    client, board, "telemetry", board.telemetry(make_batch(moment, first=k, **poison)).payload
                )
            wait_until(lambda: Window.objects.count() == 18, what="the good windows")
            wait_until(lambda: DeadLetter.objects.count() == 2, what="two dead letters")
        assert set(DeadLetter.objects.values_list("code", flat=True)) == {"db_reject"}
        assert left_at_broker(broker) == 0
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE tele_window DROP CONSTRAINT poison")


def test_two_gateways_share_telemetry_and_each_window_counts_once(
    broker: Broker, reader: str, boards: list[Board], moment: datetime, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    with (
        process(broker.env(), one, "--reader", reader, "--shared") as first,
        process(broker.env(), two, "--reader", reader, "--slot", "1") as second,
    ):
        first.says("is ready")
        second.says("is ready")
        for board in boards:
            with Client(broker, board.id, board.secret) as client:
                for k in range(30):
                    send(client, board, "telemetry", board.telemetry(make_batch(moment, first=k)).payload)
        wait_until(lambda: Window.objects.count() == 90, what="90 windows")
        assert (first.terminate(), second.terminate()) == (0, 0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT ingest_slot, sum(windows) FROM tele_minute GROUP BY 1 ORDER BY 1")
        shares = dict(cursor.fetchall())
    assert shares.keys() == {0, 1}
    assert totals()[0] == 90


def test_a_slot_has_one_gateway(broker: Broker, boards: list[Board], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "LEASE_WAIT_S", 0.3)
    holder = take_named("svc.gateway-1")
    with pytest.raises(MqttError) as caught:
        service.run(slot=0, stop=threading.Event())
    assert caught.value.code == "no_free_user"
    holder.release()


def test_an_absent_broker_is_said_and_waited_for(broker: Broker, boards: list[Board], tmp_path: Path) -> None:
    with process({**broker.env(), "FLEET_MQTT_PORT": "1"}, tmp_path) as gateway:
        gateway.says("no broker answers at 127.0.0.1:1")
        wait_until(lambda: gateway.log.read_text().count("broker_unreachable") >= 2, what="both sessions")
        assert gateway.child.poll() is None
        assert gateway.terminate() == 0
        assert gateway.log.read_text().count("broker_unreachable") == 2  # once per session, not per try


def test_an_absent_database_is_said_and_waited_for(broker: Broker, tmp_path: Path) -> None:
    with process({**broker.env(), "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x"}, tmp_path) as gateway:
        gateway.says("database_unavailable")
        assert gateway.terminate() == 0


def test_an_installation_without_identity_is_said(broker: Broker, tmp_path: Path) -> None:
    with process(broker.env(), tmp_path) as gateway:
        gateway.says("not_set_up")
        assert gateway.terminate() == 0


def test_missing_broker_users_end_the_process_with_a_sentence(
    broker: Broker, boards: list[Board], tmp_path: Path
) -> None:
    with process({**broker.env(), "FLEET_MQTT_USERS_FILE": ""}, tmp_path) as gateway:
        assert gateway.child.wait(timeout=90) == 1
        gateway.says("users_missing: FLEET_MQTT_USERS_FILE is not set")
        assert "Traceback" not in gateway.log.read_text()


def test_the_share_group_is_a_secret_of_the_installation(settings: Any) -> None:
    first = readiness.share_group(b"i" * 16)
    assert len(first) == 32
    assert readiness.share_group(b"j" * 16) != first
    settings.KEY_PASSPHRASE = "another passphrase"
    assert readiness.share_group(b"i" * 16) != first
