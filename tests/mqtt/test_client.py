"""The backend's MQTT client against a real broker:

publishing, retained reading, failures, leases, manual acknowledgement.
"""

import os
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.mqtt.client import Arrived, BackendClient, MqttError, take_user
from tests.stack.services import Broker, Client, private_mosquitto, wait_until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with private_mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(autouse=True)
def _point_at_broker(broker: Broker, settings: Any) -> None:
    env = broker.env()
    settings.MQTT = {
        "host": env["FLEET_MQTT_HOST"],
        "port": broker.port,
        "ca": env["FLEET_MQTT_CA"],
        "users_file": env["FLEET_MQTT_USERS_FILE"],
        "password_file": env["FLEET_MQTT_PASSWORD_FILE"],
        "pid_file": env["FLEET_MQTT_PID_FILE"],
    }


def test_published_messages_are_retained_and_read_back() -> None:
    items = [(f"f1/model/{'ab' * 8}/{i // 8}/{i}", os.urandom(500)) for i in range(450)]
    with BackendClient("test").connect() as client:
        assert client.publish_all(items, deadline_s=20) == 450
        assert client.read_retained(f"f1/model/{'ab' * 8}/#", expect=None, timeout_s=10) == dict(items)
        assert len(client.read_retained(f"f1/model/{'ab' * 8}/3/+", expect=8, timeout_s=10)) == 8
        assert client.read_retained("f1/model/nothing/#", expect=None, timeout_s=5) == {}


def test_a_restarted_broker_gets_the_rest_of_a_running_publish(broker: Broker) -> None:
    def items() -> Iterator[tuple[str, bytes]]:
        for i in range(300):
            if i == 150:
                before = broker.supervisor.pid("mosquitto")
                os.kill(before, signal.SIGKILL)
            yield f"f1/model/{'cd' * 8}/{i // 8}/{i}", b"x" * i

    with BackendClient("test").connect() as client:
        assert client.publish_all(items(), deadline_s=30, window=20) == 300
        found = client.read_retained(f"f1/model/{'cd' * 8}/#", expect=None, timeout_s=10)
    later = {f"f1/model/{'cd' * 8}/{i // 8}/{i}": b"x" * i for i in range(150, 300)}
    assert {topic: found.get(topic) for topic in later} == later


def test_a_deadline_that_passes_counts_what_was_acknowledged() -> None:
    with BackendClient("test").connect() as client:
        assert client.publish_all([("f1/svc/a", b"1")], deadline_s=5) == 1
        client._client.disconnect()
        with pytest.raises(MqttError) as caught:
            client.publish_all([("f1/svc/a", b"2")], deadline_s=0.3)
        assert (caught.value.code, caught.value.acknowledged) == ("publish_timeout", 0)


def test_no_broker_is_said_clearly(settings: Any) -> None:
    settings.MQTT = {**settings.MQTT, "port": 1}
    with pytest.raises(MqttError, match=r"no broker answered at 127\.0\.0\.1:1") as caught:
        BackendClient("test").connect(timeout_s=0.5)
    assert caught.value.code == "broker_unreachable"


def test_a_wrong_secret_is_told_from_an_absent_broker(settings: Any, tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text('{"svc.test-0": "wrong"}')
    settings.MQTT = {**settings.MQTT, "users_file": str(users)}
    with pytest.raises(MqttError) as caught:
        BackendClient("test").connect(timeout_s=5)
    assert caught.value.code == "broker_auth"


def test_a_foreign_certificate_is_refused(settings: Any, tmp_path: Path) -> None:
    from fleet.stack.paths import RunDir
    from fleet.stack.tls import ensure_tls

    settings.MQTT = {**settings.MQTT, "ca": str(ensure_tls(RunDir(tmp_path).ensure()).ca)}
    with pytest.raises(MqttError) as caught:
        BackendClient("test").connect(timeout_s=5)
    assert caught.value.code == "broker_tls"


def test_leased_names_are_exclusive_until_released(settings: Any) -> None:
    leases = [take_user("doctor") for _ in range(2)]
    assert len({lease.name for lease in leases}) == 2
    with pytest.raises(MqttError) as caught:
        take_user("doctor")
    assert caught.value.code == "no_free_user"
    for lease in leases:
        lease.release()
    with BackendClient("doctor").connect():
        pass
    take_user("doctor").release()
    settings.MQTT = {**settings.MQTT, "users_file": ""}
    with pytest.raises(MqttError) as caught:
        take_user("doctor")
    assert caught.value.code == "users_missing"


def test_an_unacknowledged_message_comes_again_and_an_acknowledged_one_does_not(broker: Broker) -> None:
    broker.add_device("ack-dev", "s")

    def session(inbox: "queue.Queue[Arrived]") -> BackendClient:
        client = BackendClient("svc.gateway-7", clean=False, manual_ack=True, on_message=inbox.put)
        client.subscribe("f1/dev/+/telemetry")
        return client.connect()

    first: queue.Queue[Arrived] = queue.Queue()
    with session(first) as client, Client(broker, "ack-dev", "s") as device:
        for n in range(3):
            device.publish("f1/dev/ack-dev/telemetry", bytes([n]))
        got = [first.get(timeout=5) for _ in range(3)]
        client.ack(got[0])
        wait_until(lambda: not client._client._out_packet, what="the acknowledgement to leave")
    again: queue.Queue[Arrived] = queue.Queue()
    with session(again) as client:
        come = [again.get(timeout=5) for _ in range(2)]
        assert [message.payload for message in come] == [b"\1", b"\2"]
        client.ack(got[1])  # of an earlier connection: must not acknowledge anything here
        client.ack(*come)
        wait_until(lambda: not client._client._out_packet, what="the acknowledgements to leave")
    assert again.empty()
