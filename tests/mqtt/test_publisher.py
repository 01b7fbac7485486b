"""The bulk publisher against a real broker: retained, sent again after a kill, refused by access rules."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.mqtt.access import take_user
from fleet.mqtt.client import BackendClient, MqttError
from fleet.mqtt.publisher import BulkPublisher
from tests.stack.services import Broker, private_mosquitto


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
    }


def retained(prefix: str) -> dict[str, bytes]:
    with BackendClient("doctor").connect() as client:
        return client.read_retained(f"{prefix}/#", expect=None, timeout_s=10)


def test_published_messages_are_retained_and_read_back() -> None:
    items = [(f"f1/svc/kept/{n}", os.urandom(n)) for n in range(450)]
    with BulkPublisher("test") as publisher:
        assert publisher.publish_all(items[:300], deadline_s=20, window=20) == 300
        assert publisher.publish_all(items[300:], deadline_s=20) == 150
        assert publisher.publish_all([], deadline_s=20) == 0
        assert publisher.publish_all([("f1/svc/kept/passing", b"x")], retain=False, deadline_s=20) == 1
    items[0] = ("", b"")  # an empty retained message is none
    assert retained("f1/svc/kept") == dict(items[1:])


def test_the_last_message_to_a_topic_is_the_one_that_stays() -> None:
    with BulkPublisher("test") as publisher:
        publisher.publish_all([("f1/svc/order", b"%d" % n) for n in range(100)], deadline_s=20)
    assert retained("f1/svc/order") == {"f1/svc/order": b"99"}


def test_a_killed_broker_gets_the_rest_of_a_running_publish(broker: Broker) -> None:
    def items() -> Iterator[tuple[str, bytes]]:
        for n in range(300):
            if n == 150:
                os.kill(broker.supervisor.pid("mosquitto"), signal.SIGKILL)
            yield f"f1/svc/killed/{n}", b"x" * (n + 1)

    with BulkPublisher("test") as publisher:
        assert publisher.publish_all(items(), deadline_s=30, window=20) == 300
    found, later = retained("f1/svc/killed"), range(150, 300)
    assert {n: found.get(f"f1/svc/killed/{n}") for n in later} == {n: b"x" * (n + 1) for n in later}


def test_what_access_rules_refuse_is_named_and_the_rest_is_published() -> None:
    items = [("f1/svc/allowed/0", b"0"), ("elsewhere/1", b"1"), ("f1/svc/allowed/2", b"2")]
    with BulkPublisher("test") as publisher:
        with pytest.raises(MqttError, match="elsewhere/1: reason 0x87") as caught:
            publisher.publish_all(items, deadline_s=10)
        refused = caught.value
        assert (refused.code, refused.acknowledged, refused.refused) == ("publish_refused", 3, frozenset({1}))
        assert publisher.publish_all(items[:1], deadline_s=10) == 1
    assert retained("f1/svc/allowed") == {"f1/svc/allowed/0": b"0", "f1/svc/allowed/2": b"2"}


def test_a_message_beyond_the_brokers_limit_is_refused_and_not_the_end_of_the_others() -> None:
    items = [("f1/svc/big/0", bytes(20_000)), ("f1/svc/big/1", bytes(70_000)), ("f1/svc/big/2", b"2")]
    with BulkPublisher("test") as publisher, pytest.raises(MqttError) as caught:
        publisher.publish_all(items, deadline_s=10)
    assert (caught.value.code, caught.value.refused) == ("publish_refused", frozenset({0, 1}))
    assert retained("f1/svc/big") == {"f1/svc/big/2": b"2"}


def test_packet_ids_begin_again_behind_the_last_one() -> None:
    with BulkPublisher("test").connect() as publisher:
        assert publisher._link is not None
        publisher._link._mid = 65_500
        items = [(f"f1/svc/wrapped/{n}", b"%d" % n) for n in range(200)]
        assert publisher.publish_all(items, deadline_s=20, window=50) == 200
        assert publisher._link._mid == 165
    assert retained("f1/svc/wrapped") == dict(items)


def test_no_broker_is_said_clearly_and_the_name_is_free_again(settings: Any) -> None:
    settings.MQTT = {**settings.MQTT, "port": 1}
    publisher = BulkPublisher("test")
    with pytest.raises(MqttError, match=r"no broker answered at 127\.0\.0\.1:1") as caught:
        publisher.connect(timeout_s=0.3)
    assert caught.value.code == "broker_unreachable"
    leases = [take_user("test") for _ in range(4)]
    with pytest.raises(MqttError, match="no_free_user"):
        BulkPublisher("test")
    for lease in leases:
        lease.release()


def test_a_broker_that_stays_away_is_a_publish_timeout(settings: Any) -> None:
    settings.MQTT = {**settings.MQTT, "port": 1}
    with BulkPublisher("test") as publisher, pytest.raises(MqttError) as caught:
        publisher.publish_all([("f1/svc/a", b"1")], deadline_s=0.3)
    assert (caught.value.code, caught.value.acknowledged) == ("publish_timeout", 0)


def test_a_wrong_secret_is_told_from_an_absent_broker(settings: Any, tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text('{"svc.test-0": "wrong"}')
    settings.MQTT = {**settings.MQTT, "users_file": str(users)}
    with pytest.raises(MqttError) as caught:
        BulkPublisher("test").connect(timeout_s=5)
    assert caught.value.code == "broker_auth"


def test_a_foreign_certificate_is_refused(settings: Any, tmp_path: Path) -> None:
    from fleet.stack.paths import RunDir
    from fleet.stack.tls import ensure_tls

    settings.MQTT = {**settings.MQTT, "ca": str(ensure_tls(RunDir(tmp_path).ensure()).ca)}
    with pytest.raises(MqttError) as caught:
        BulkPublisher("test").connect(timeout_s=5)
    assert caught.value.code == "broker_tls"
