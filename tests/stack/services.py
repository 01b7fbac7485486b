"""Real servers for tests: each of these context managers starts one privately below a folder and stops it
again.

Starting one takes well under a second, so every xdist worker can own its database, its Redis and its broker.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleet.mqtt import broker_files
from fleet.stack import mosquitto, postgres, redis
from fleet.stack.paths import RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.processes import Supervisor
from fleet.stack.tls import TlsFiles, ensure_tls

T = TypeVar("T")


def _quiet(_line: str) -> None:
    """What the supervisor says is in the child's log, which every failure quotes."""


def wait_until(probe: Callable[[], T], *, deadline_s: float = 10.0, what: str = "condition") -> T:
    """The first true value of `probe`; fails with the last value seen when the deadline passes."""
    give_up_s = time.monotonic() + deadline_s
    while not (seen := probe()):
        assert time.monotonic() < give_up_s, f"{what}: not within {deadline_s} s, last seen {seen!r}"
        time.sleep(0.02)
    return seen


@contextlib.contextmanager
def private_postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL without fsync below `folder`; yields its `DATABASE_URL`."""
    run = RunDir(folder).ensure()
    port = free_port()
    with Supervisor(run.logs, say=_quiet) as supervisor:
        supervisor.start(postgres.spec(run, port, is_durable=False))
        postgres.ensure_database(run, port)
        yield postgres.url(run, port)


@contextlib.contextmanager
def private_redis(folder: Path) -> Iterator[str]:
    """A Redis below `folder`; yields its `REDIS_URL`."""
    run = RunDir(folder).ensure()
    port = free_port()
    with Supervisor(run.logs, say=_quiet) as supervisor:
        supervisor.start(redis.spec(run, port))
        yield redis.url(run, port)


@dataclass(frozen=True)
class Broker:
    """A running private Mosquitto and what a test needs to speak to it."""

    run: RunDir
    port: int
    tls: TlsFiles
    supervisor: Supervisor

    def env(self) -> dict[str, str]:
        """The `FLEET_MQTT_*` values by which `fleet.settings` finds this broker."""
        return {
            "FLEET_MQTT_HOST": LOOPBACK,
            "FLEET_MQTT_PORT": str(self.port),
            "FLEET_MQTT_CA": str(self.tls.ca),
            "FLEET_MQTT_USERS_FILE": str(mosquitto.users_file(self.run)),
            "FLEET_MQTT_PASSWORD_FILE": str(mosquitto.password_file(self.run)),
            "FLEET_MQTT_PID_FILE": str(mosquitto.pid_file(self.run)),
        }

    def secret(self, user: str) -> str:
        """The secret of a backend user such as `svc.test-0`."""
        return broker_files.read_users(mosquitto.users_file(self.run))[user]

    def add_device(self, device_id: str, secret: str) -> None:
        """Let `device_id` connect with `secret`; returns once the broker lets it in."""
        path, pid_file = mosquitto.password_file(self.run), mosquitto.pid_file(self.run)
        broker_files.change(path, add={device_id: broker_files.hash_secret(secret)}, pid_file=pid_file)
        wait_until(
            lambda: mosquitto.accepts(self.port, self.tls.ca, device_id, secret),
            what=f"the broker to accept {device_id}",
        )

    def remove_device(self, device_id: str) -> None:
        """Take the device's password line away and tell the broker, which ends its live session."""
        path, pid_file = mosquitto.password_file(self.run), mosquitto.pid_file(self.run)
        broker_files.change(path, remove=[device_id], pid_file=pid_file)


@contextlib.contextmanager
def private_mosquitto(folder: Path, *, saves: str = mosquitto.EACH_CHANGE) -> Iterator[Broker]:
    """A Mosquitto with TLS, passwords and ACL below `folder`; its supervisor restarts it when killed."""
    run = RunDir(folder).ensure()
    port, tls = free_port(), ensure_tls(run)
    with Supervisor(run.logs, say=_quiet) as supervisor:
        supervisor.start(mosquitto.spec(run, port, tls, saves=saves))
        yield Broker(run, port, tls, supervisor)


class Client:
    """A paho client that remembers what arrived. Leaving the `with` block disconnects it."""

    def __init__(self, broker: Broker, user: str, secret: str, *, client_id: str = "") -> None:
        """Connect with TLS and wait for the answer; `reason` holds it, also when it is a refusal."""
        self.messages: list[tuple[str, bytes]] = []
        self.reason = ""
        self.is_connected = False
        self._acknowledged: set[int] = set()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id or user, reconnect_on_failure=False
        )
        client.username_pw_set(user, secret)
        client.tls_set_context(ssl.create_default_context(cafile=str(broker.tls.ca)))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _client, _data, message: self.messages.append(
            (message.topic, bytes(message.payload))
        )
        client.on_subscribe = lambda _client, _data, mid, _codes, _properties: self._acknowledged.add(mid)
        client.on_publish = lambda _client, _data, mid, _code, _properties: self._acknowledged.add(mid)
        self._client = client
        client.connect(LOOPBACK, broker.port, keepalive=30)
        client.loop_start()
        wait_until(lambda: self.reason, what=f"an answer to CONNECT of {user}")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(
        self, _client: object, _data: object, _flags: object, reason: object, _properties: object
    ) -> None:
        self.reason = str(reason)
        self.is_connected = self.reason == "Success"

    def _on_disconnect(
        self, _client: object, _data: object, _flags: object, reason: object, _properties: object
    ) -> None:
        self.is_connected = False
        self.reason = self.reason or str(reason)

    def subscribe(self, topic: str) -> None:
        """SUBSCRIBE and wait for the broker's answer (which says granted even where the ACL filters
        delivery).
        """
        _, mid = self._client.subscribe(topic, qos=1)
        wait_until(lambda: mid in self._acknowledged, what=f"SUBACK for {topic}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1 and wait for the acknowledgement (which a denied publish gets as well)."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        wait_until(lambda: info.mid in self._acknowledged, what=f"PUBACK for {topic}")

    def topics(self) -> list[str]:
        """Topics of the messages that arrived, in order."""
        return [topic for topic, _ in self.messages]
