"""A private Mosquitto of the run folder: one TLS listener, a generated password file, pattern ACLs, bounded
everything. Only a test may ask for a second listener without TLS, on loopback like the first.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from fleet.mqtt import broker_files
from fleet.stack.children import ChildSpec, find_binary
from fleet.stack.errors import StackError
from fleet.stack.paths import RunDir, write_private
from fleet.stack.ports import LOOPBACK
from fleet.stack.tls import TlsFiles

# `message_size_limit` bounds a payload; the packet limit ends the connection of a client that sends far more
# than that.
LIMITS: Mapping[str, str] = {
    "message_size_limit": "16384",
    "max_packet_size": "65536",
    "max_inflight_messages": "200",
    "max_inflight_bytes": "0",
    "max_queued_messages": "200000",
    "max_queued_bytes": "268435456",
    "max_keepalive": "600",
    "memory_limit": "2147483648",
    "persistent_client_expiration": "7d",
}
EACH_CHANGE = "change"
PROBE_USER = f"{broker_files.SERVICE_PREFIX}probe-0"


def users_file(run: RunDir) -> Path:
    """JSON, 0600: name to secret of every backend user (`FLEET_MQTT_USERS_FILE`)."""
    return run.mosquitto / "users.json"


def password_file(run: RunDir) -> Path:
    """Mosquitto's password file: backend users, and devices as enrolment adds them
    (`FLEET_MQTT_PASSWORD_FILE`).
    """
    return run.mosquitto / "passwords"


def pid_file(run: RunDir) -> Path:
    """Process id of the running broker, for SIGHUP (`FLEET_MQTT_PID_FILE`)."""
    return run.mosquitto / "mosquitto.pid"


def reload(run: RunDir) -> bool:
    """Make the running broker read its password and ACL files again. False when none runs."""
    return broker_files.reload_broker(pid_file(run))


def spec(
    run: RunDir, port: int, tls: TlsFiles, *, plain_port: int | None = None, saves: str = EACH_CHANGE
) -> ChildSpec:
    """Write users, passwords (devices already there are kept), ACL and configuration; describe the broker
    process.

    plain_port: a listener without TLS besides, on loopback, with the same passwords and rules. It is for
    emulated devices, which have a serial line and no TLS; None, as everywhere else, means no such listener.
    saves: when the store goes to disk, `change` or seconds (1..3600) between two times.
    Raises StackError `binary_missing` when mosquitto is not installed, `state` for a damaged file of an
    earlier run, `setting` for another value of `saves`.
    """
    users = _ensure_users(users_file(run))
    try:
        broker_files.sync_services(password_file(run), users)
    except broker_files.BrokerFilesError as error:
        raise StackError("state", f"{password_file(run)} is damaged: {error}") from error
    write_private(run.mosquitto / "acl", broker_files.acl_text(users))
    config = run.mosquitto / "mosquitto.conf"
    write_private(config, _config(run, port, tls, plain_port, saving_lines(saves)))
    return ChildSpec(
        name="mosquitto",
        argv=(find_binary("mosquitto", package="mosquitto"), "-c", str(config)),
        is_restarted=True,
        ready=lambda _child: accepts(port, tls.ca, PROBE_USER, users[PROBE_USER]),
        tier=0,
        pid_file=pid_file(run),
    )


def _ensure_users(path: Path) -> dict[str, str]:
    """The backend users of this run folder; names that a newer version needs are added, known secrets are
    kept.
    """
    known = broker_files.read_users(path) if path.exists() else {}
    users = {name: known.get(name) or secrets.token_hex(32) for name in broker_files.service_users()}
    if users != known:
        write_private(path, json.dumps(users, indent=1) + "\n")
    return users


def saving_lines(saves: str) -> list[str]:
    """When Mosquitto writes its store, as lines of its configuration. Raises StackError `setting`.

    At Mosquitto's default of 30 minutes a kill -9 loses every retained message. What the backend published it
    publishes again from the database, but telemetry that the broker acknowledged and still queues for a
    gateway is nowhere else: only saving after every change keeps that. Each save writes the whole store, so
    its price grows with the fleet: 2.7 times the broker's CPU in an update of 300 devices, 70 instead of
    3,400 documents a second with 1,000 retained (python -m tests.bench.delivery), 3.2 GB written while 2,000
    devices connect. Beyond a thousand devices save every few seconds, and a kill loses what was queued since.
    """
    if saves == EACH_CHANGE:
        return ["autosave_interval 1", "autosave_on_changes true"]
    if not saves.isascii() or not saves.isdecimal() or not 1 <= int(saves) <= 3600:
        raise StackError("setting", f"FLEET_BROKER_SAVES is {saves!r}: `{EACH_CHANGE}`, or 1 to 3600 seconds")
    return [f"autosave_interval {int(saves)}", "autosave_on_changes false"]


def _config(run: RunDir, port: int, tls: TlsFiles, plain_port: int | None, saving: list[str]) -> str:
    lines = [
        f"listener {port} {LOOPBACK}",
        f"certfile {tls.certificate}",
        f"keyfile {tls.key}",
        "tls_version tlsv1.2",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"password_file {password_file(run)}",
        f"acl_file {run.mosquitto / 'acl'}",
        "persistence true",
        f"persistence_location {run.mosquitto}/",
        *saving,
        "sys_interval 10",
        "log_dest stderr",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        *(f"log_type {kind}" for kind in ("error", "warning", "notice")),
        *(f"{name} {value}" for name, value in LIMITS.items()),
    ]
    if plain_port is not None:
        lines += [f"listener {plain_port} {LOOPBACK}", "use_username_as_clientid true"]
    if os.geteuid() == 0:
        lines.append("user root")  # else it drops to its own user, which cannot read 0600 files
    return "\n".join(lines) + "\n"


def accepts(port: int, ca: Path, username: str, secret: str, *, timeout_s: float = 3.0) -> bool:
    """True when the broker completes TLS under `ca` and answers CONNECT with code 0 for this user.

    Plain MQTT 3.1.1 by hand, so that starting the stack needs no client library. The client id is empty: the
    broker puts the username in its place.
    """
    context = ssl.create_default_context(cafile=str(ca))
    fields = b"".join(
        len(part).to_bytes(2, "big") + part for part in (b"", username.encode(), secret.encode())
    )
    body = b"\x00\x04MQTT\x04\xc2\x00\x0a" + fields
    if len(body) > 127:
        packet = bytes([0x10, 0x80 | len(body) % 128, len(body) // 128]) + body
    else:
        packet = bytes([0x10, len(body)]) + body
    try:
        with (
            socket.create_connection((LOOPBACK, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=LOOPBACK) as connection,
        ):
            connection.sendall(packet)
            answer = connection.recv(4)
            connection.sendall(b"\xe0\x00")
    except OSError:  # ssl.SSLError is one
        return False
    return answer == b"\x20\x02\x00\x00"
