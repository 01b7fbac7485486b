"""The private broker: who gets in, and whose topics are whose, against the real Mosquitto."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.mqtt import broker_files
from fleet.stack import mosquitto
from fleet.stack.errors import StackError
from fleet.stack.ports import LOOPBACK
from tests.stack.services import Broker, Client, private_mosquitto, wait_until

A, B, TEST = "dev-a", "dev-b", "svc.test-0"
SECRET = {A: "a" * 64, B: "b" * 64}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with private_mosquitto(tmp_path_factory.mktemp("broker")) as running:
        for device_id, secret in SECRET.items():
            running.add_device(device_id, secret)
        yield running


@pytest.fixture
def backend(broker: Broker) -> Iterator[Client]:
    with Client(broker, TEST, broker.secret(TEST)) as client:
        yield client


def as_device(broker: Broker, device_id: str) -> Client:
    return Client(broker, device_id, SECRET[device_id])


def test_a_wrong_password_is_refused(broker: Broker) -> None:
    with Client(broker, A, SECRET[B]) as client:
        assert client.reason == "Not authorized"


def test_an_unknown_user_is_refused(broker: Broker) -> None:
    with Client(broker, "dev-unknown", "x" * 64) as client:
        assert client.reason == "Not authorized"


def test_a_connection_without_tls_gets_no_answer(broker: Broker) -> None:
    with socket.create_connection((LOOPBACK, broker.port), timeout=5) as plain:
        plain.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00")
        try:
            answer = plain.recv(16)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"\x20")  # nothing, or a TLS alert; never a CONNACK


def test_a_client_that_trusts_another_authority_does_not_connect(broker: Broker) -> None:
    context = ssl.create_default_context()
    with (
        socket.create_connection((LOOPBACK, broker.port), timeout=5) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname=LOOPBACK)


def test_a_device_reads_its_own_downlinks_and_the_shared_ones_only(broker: Broker, backend: Client) -> None:
    with as_device(broker, A) as device:
        device.subscribe("#")
        allowed = ["f1/trust", "f1/trust/7", "f1/model/0123456789abcdef/0/3"]
        allowed += [f"f1/dev/{A}/desired", f"f1/dev/{A}/cmd"]
        denied = [f"f1/dev/{B}/{kind}" for kind in ("desired", "cmd", "reported")]
        denied += [f"f1/dev/{A}/reported", "f1/other"]
        for topic in [*denied, *allowed]:
            backend.publish(topic, b"x")
        wait_until(lambda: allowed[-1] in device.topics(), what="the last allowed message")
        assert device.topics() == allowed


def test_a_device_writes_its_own_uplinks_only(broker: Broker, backend: Client) -> None:
    backend.subscribe("f1/#")
    kinds = ("reported", "telemetry", "event", "online")
    allowed = [f"f1/dev/{A}/{kind}" for kind in kinds]
    denied = [f"f1/dev/{B}/{kind}" for kind in kinds]
    denied += [f"f1/dev/{A}/desired", f"f1/dev/{A}/cmd", "f1/trust", "f1/model/0123456789abcdef/manifest"]
    denied += ["f1/model/0123456789abcdef/0/0", f"f1/dev/{A}/reported/more"]
    with as_device(broker, A) as device:
        for topic in [*denied, *allowed]:
            device.publish(topic, b"x")
    wait_until(lambda: allowed[-1] in backend.topics(), what="the last allowed message")
    assert backend.topics() == allowed


def test_a_device_cannot_take_over_the_session_of_another(broker: Broker) -> None:
    with as_device(broker, B) as victim, Client(broker, A, SECRET[A], client_id=B) as thief:
        assert thief.is_connected
        thief.publish(f"f1/dev/{A}/event", b"x")
        victim.publish(f"f1/dev/{B}/event", b"x")  # its connection still works
        assert victim.is_connected


def test_removing_a_password_line_ends_the_live_session(broker: Broker) -> None:
    broker.add_device("dev-gone", "g" * 64)
    with Client(broker, "dev-gone", "g" * 64) as device, as_device(broker, A) as other:
        assert device.is_connected
        broker.remove_device("dev-gone")
        wait_until(lambda: not device.is_connected, what="the removed device to be disconnected")
        other.publish(f"f1/dev/{A}/event", b"x")
        assert other.is_connected
    assert not mosquitto.accepts(broker.port, broker.tls.ca, "dev-gone", "g" * 64)


def test_a_payload_over_the_limit_is_not_delivered(broker: Broker, backend: Client) -> None:
    backend.subscribe(f"f1/dev/{A}/event")
    with as_device(broker, A) as device:
        device.publish(f"f1/dev/{A}/event", bytes(16_385))
        device.publish(f"f1/dev/{A}/event", bytes(16_384))
    wait_until(lambda: backend.messages, what="the message of exactly the limit")
    assert [len(payload) for _, payload in backend.messages] == [16_384]


@pytest.mark.parametrize("saves", ["change", "1"])
def test_what_was_saved_survives_a_kill(saves: str, tmp_path: Path) -> None:
    with private_mosquitto(tmp_path, saves=saves) as broker:
        broker.add_device(A, SECRET[A])
        store = broker.run.mosquitto / "mosquitto.db"
        with Client(broker, TEST, broker.secret(TEST)) as client:
            client.publish("f1/trust", b"kept", retain=True)
            wait_until(lambda: store.exists() and b"kept" in store.read_bytes(), what="the broker to save")
        killed = broker.supervisor.pid("mosquitto")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: broker.supervisor.pid("mosquitto") != killed, what="the supervisor to restart it")
        wait_until(lambda: mosquitto.accepts(broker.port, broker.tls.ca, A, SECRET[A]), what="the broker")
        assert mosquitto.pid_file(broker.run).read_text().strip() == str(broker.supervisor.pid("mosquitto"))
        with Client(broker, A, SECRET[A]) as device:
            device.subscribe("f1/trust")
            wait_until(lambda: device.messages, what="the retained message")
            assert device.messages == [("f1/trust", b"kept")]


@pytest.mark.parametrize("saves", ["", "0", "-1", "3601", "5 s", "changes", "²"])
def test_another_word_for_when_to_save_is_refused(saves: str) -> None:
    with pytest.raises(StackError) as refused:
        mosquitto.saving_lines(saves)
    assert refused.value.code == "setting"


def test_a_second_start_keeps_devices_and_backend_secrets(tmp_path: Path) -> None:
    with private_mosquitto(tmp_path) as broker:
        broker.add_device(A, SECRET[A])
        secret = broker.secret(TEST)
        lines = mosquitto.password_file(broker.run).read_text()
    with private_mosquitto(tmp_path) as broker:
        assert broker.secret(TEST) == secret
        assert mosquitto.password_file(broker.run).read_text() == lines
        assert mosquitto.accepts(broker.port, broker.tls.ca, A, SECRET[A])


def test_files_with_secrets_are_closed_to_others(broker: Broker) -> None:
    files = [path for path in broker.run.root.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_every_backend_user_is_let_in(broker: Broker) -> None:
    users = broker_files.read_users(mosquitto.users_file(broker.run))
    assert set(users) == set(broker_files.service_users())
    for name in ("svc.web-0", "svc.gateway-0", "svc.worker-15", "svc.stage-0"):
        assert mosquitto.accepts(broker.port, broker.tls.ca, name, users[name])
