"""The broker's listener without TLS: off unless asked for, on loopback, and as strict as the other one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.mqtt import broker_files
from fleet.stack import mosquitto
from fleet.stack.paths import RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.processes import Supervisor
from fleet.stack.run import Stack
from fleet.stack.tls import ensure_tls

DEVICE, SECRET = "dev-plain", "p" * 64
ACCEPTED, NOT_AUTHORISED = b"\x20\x02\x00\x00", b"\x20\x02\x00\x05"


@pytest.fixture(scope="module")
def plain_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A broker that was asked for the listener and knows one device."""
    run = RunDir(tmp_path_factory.mktemp("broker")).ensure()
    port, plain, tls = free_port(), free_port(), ensure_tls(run)
    broker = mosquitto.spec(run, port, tls, plain_port=plain)
    hashed = {DEVICE: broker_files.hash_secret(SECRET)}
    broker_files.change(mosquitto.password_file(run), add=hashed)
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        supervisor.start(broker)
        yield plain


def connect(port: int, user: str | None, secret: str = "", *, client_id: str = "") -> socket.socket:
    """A connection that has sent CONNECT."""
    fields = [client_id] + ([user, secret] if user else [])
    body = b"\x00\x04MQTT\x04" + (b"\xc2" if user else b"\x02") + b"\x00\x0a"
    body += b"".join(len(text).to_bytes(2, "big") + text.encode() for text in fields)
    assert len(body) < 16_384
    head = (
        bytes((0x10, 0x80 | len(body) % 128, len(body) // 128))
        if len(body) > 127
        else bytes((0x10, len(body)))
    )
    connection = socket.create_connection((LOOPBACK, port), timeout=5)
    connection.sendall(head + body)
    return connection


def answer(port: int, user: str | None, secret: str = "", *, client_id: str = "") -> bytes:
    """What the broker says to CONNECT."""
    with connect(port, user, secret, client_id=client_id) as connection:
        return connection.recv(4)


def test_a_device_with_its_password_is_let_in(plain_port: int) -> None:
    assert answer(plain_port, DEVICE, SECRET) == ACCEPTED


def test_a_wrong_password_and_none_at_all_are_refused(plain_port: int) -> None:
    assert answer(plain_port, DEVICE, "q" * 64) == NOT_AUTHORISED
    assert answer(plain_port, None, client_id=DEVICE) == NOT_AUTHORISED


def test_a_client_id_is_the_username_here_too_so_nobody_takes_over_another_session(plain_port: int) -> None:
    with connect(plain_port, DEVICE, SECRET, client_id="one") as first:
        assert first.recv(4) == ACCEPTED
        with connect(plain_port, DEVICE, SECRET, client_id="another") as second:
            assert second.recv(4) == ACCEPTED
            assert first.recv(4) == b"", "both are the same client to the broker, so the older one ends"


def test_it_listens_on_loopback_only(plain_port: int) -> None:
    wanted = f"0100007F:{plain_port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{plain_port:04X}")}
    assert listening == {wanted}


def test_nobody_gets_it_without_asking(tmp_path: Path) -> None:
    run = RunDir(tmp_path).ensure()
    mosquitto.spec(run, free_port(), ensure_tls(run))
    lines = (run.mosquitto / "mosquitto.conf").read_text().splitlines()
    assert len([line for line in lines if line.startswith("listener ")]) == 1
    with Stack(run) as stack:
        assert stack.plain_mqtt_port is None
