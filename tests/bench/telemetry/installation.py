"""A private installation to load: durable PostgreSQL, Redis, the stack's Mosquitto, enrolled devices,
gateways.

Processes are the product's own, with the product's settings; only the devices come as rows instead of by
enrolment, and they reach the broker by a listener without TLS beside the usual one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fleet.mqtt import broker_files
from fleet.mqtt.codec.cose import mac_header, mac_kid
from fleet.stack import mosquitto, postgres, redis
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.processes import Supervisor
from fleet.stack.tls import ensure_tls
from tests.bench.saving import configure
from tests.bench.swarm import Person
from tests.stack.services import Broker, wait_until

MID = bytes(range(8))
"""Of the model run that every batch names; no registry knows it, as ingest allows."""


@dataclass
class Installation:
    """What runs. plain_port: of the broker's listener without TLS. environment: of a backend process."""

    run: RunDir
    broker: Broker
    supervisor: Supervisor
    plain_port: int
    environment: dict[str, str]
    people: list[Person] = field(default_factory=list)
    fleet_file: Path = Path()

    @property
    def broker_pid(self) -> int:
        """Process id of Mosquitto."""
        return int(mosquitto.pid_file(self.run).read_text())

    @property
    def postgres_pid(self) -> int:
        """Process id of PostgreSQL's first process."""
        return int((self.run.postgres / "data" / "postmaster.pid").read_text().split()[0])


@contextmanager
def installed(folder: Path, *, devices: int, saving: str, seed: int = 1) -> Iterator[Installation]:
    """Start everything but gateways, migrate and enrol. saving: of the broker, a key of SAVINGS.

    Django is set up in this process to reach it, so one process can do this once.
    """
    run = RunDir(folder).ensure()
    port, plain, tls = free_port(), free_port(), ensure_tls(run)
    people = [_person(number, seed) for number in range(devices)]
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        database_port, redis_port = free_port(), free_port()
        supervisor.start(postgres.spec(run, database_port))
        postgres.ensure_database(run, database_port)
        supervisor.start(redis.spec(run, redis_port))
        spec = mosquitto.spec(run, port, tls)
        hashes = {one.device_id: broker_files.hash_secret(one.secret) for one in people}
        broker_files.change(mosquitto.password_file(run), add=hashes)
        configure(run, saving, more=(f"listener {plain} {LOOPBACK}", "use_username_as_clientid true"))
        supervisor.start(spec)
        broker = Broker(run, port, tls, supervisor)
        environment = {
            **broker.env(),
            "DATABASE_URL": postgres.url(run, database_port),
            "REDIS_URL": redis.url(run, redis_port),
            "FLEET_RUN_DIR": str(folder),
            "FLEET_KEY_PASSPHRASE": secrets.token_hex(16),
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
        }
        os.environ.update(environment)
        made = Installation(run, broker, supervisor, plain, environment, people)
        made.fleet_file = folder / "fleet"
        _write_fleet(made.fleet_file, people, _enrol(people, hashes, datetime.now(UTC)))
        yield made


@contextmanager
def gateways(there: Installation, options: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """One `manage.py gateway` for each list of options; yields their process ids once all are ready."""
    children: list[subprocess.Popen[bytes]] = []
    logs = []
    try:
        for number, arguments in enumerate(options):
            log = there.run.logs / f"gateway-{number}.log"
            log.unlink(missing_ok=True)
            command = [sys.executable, str(PROJECT_ROOT / "manage.py"), "gateway", *arguments]
            with log.open("wb") as out:
                environment = {**os.environ, **there.environment}
                children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            logs.append(log)
        for child, log in zip(children, logs, strict=True):
            wait_until(partial(_has_begun, child, log), deadline_s=60, what="a gateway to be ready")
            if child.poll() is not None:
                raise RuntimeError(f"a gateway ended: {log.read_text()[-1000:]}")
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(timeout=60)
            finally:
                child.kill()


def _has_begun(child: subprocess.Popen[bytes], log: Path) -> bool:
    return "is ready" in log.read_text() or child.poll() is not None


def end_sessions(names: Sequence[str]) -> None:
    """Make the broker forget the sessions of these users, so that it queues nothing for them."""
    from fleet.mqtt.client import BackendClient

    for name in names:
        with BackendClient(name, clean=True) as client:
            client.connect()


def _person(number: int, seed: int) -> Person:
    def key(kind: str) -> bytes:
        return hashlib.sha256(f"ingest {seed} {kind} {number}".encode()).digest()

    return Person(f"in-{number:05d}", key("secret").hex(), key("mac"))


def _enrol(people: Sequence[Person], hashes: dict[str, str], now: datetime) -> bytes:
    """Devices and their credentials as rows; returns the id of the installation."""
    import django

    django.setup()
    from django.core.management import call_command

    from fleet.devices import keys
    from fleet.devices.classes import ensure_default_classes
    from fleet.devices.installation import ensure_installation
    from fleet.devices.models import Device, DeviceCredential
    from fleet.sealing import seal
    from fleet.telemetry import partitions

    call_command("migrate", verbosity=0)
    ensure_default_classes(now)
    partitions.make_ahead(now)
    identity = ensure_installation(now)
    passphrase = os.environ["FLEET_KEY_PASSPHRASE"]
    values: dict[str, Any] = {"device_class_id": "host-a", "enrolled_at": now, "presence": "online"}
    Device.objects.bulk_create([Device(id=one.device_id, **values) for one in people], batch_size=1000)
    DeviceCredential.objects.bulk_create(
        [
            DeviceCredential(
                device_id=one.device_id,
                mac_kid=mac_kid(one.mac_key).hex(),
                sealed_mac_key=seal(
                    one.mac_key, purpose=keys.mac_purpose(one.device_id), passphrase=passphrase
                ),
                sealed_broker_secret=seal(
                    one.secret.encode(), purpose=keys.broker_purpose(one.device_id), passphrase=passphrase
                ),
                broker_secret_hash=hashes[one.device_id],
                created_at=now,
            )
            for one in people
        ],
        batch_size=1000,
    )
    return identity


def _write_fleet(path: Path, people: Sequence[Person], identity: bytes) -> None:
    lines = [f"installation {identity.hex()}", f"mid {MID.hex()}"]
    for one in people:
        header = mac_header("telemetry", mac_kid(one.mac_key)).hex()
        lines.append(f"device {one.device_id} {one.secret} {one.mac_key.hex()} {header}")
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
