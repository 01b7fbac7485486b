"""How this process gets to the broker:

whose name it takes, what it trusts, and why it may not get through.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
from pathlib import Path

from django.conf import settings

from fleet.mqtt import broker_files
from fleet.mqtt.broker_files import BackendUser, BrokerFilesError


class MqttError(Exception):
    """The broker did not do its part.

    code: `broker_unreachable`, `broker_auth` (it refuses name or secret), `broker_tls` (its certificate is
    not signed by our authority), `broker_protocol` (it answers what is not MQTT, or not for us),
    `users_missing` and `no_free_user` (no broker user to connect as), `publish_timeout`, `publish_refused`,
    `read_timeout`. acknowledged: publishes that the broker had answered, counted in order from the first.
    refused: positions of those, from 0, that it answered with a refusal.
    """

    def __init__(
        self, code: str, text: str, *, acknowledged: int = 0, refused: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.acknowledged = acknowledged
        self.refused = refused


def take_user(role: str) -> BackendUser:
    """Lease a broker user of `role` (web, worker, stage, gateway, cli, ...) until `release` or the end of the
    process.

    Raises MqttError `users_missing` or `no_free_user`.
    """
    try:
        return broker_files.claim_user(_users_file(), role)
    except BrokerFilesError as error:
        raise MqttError(error.code, error.text) from error


def take_named(name: str) -> BackendUser:
    """Lease exactly this broker user: a persistent session belongs to a name, and only its holder may resume
    it.

    Raises MqttError `users_missing`, or `no_free_user` while another process of this machine holds it.
    """
    folder = _users_file().with_name("locks")
    folder.mkdir(mode=0o700, exist_ok=True)
    secret = secret_of(name)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MqttError("no_free_user", f"another process is connected as {name}") from None
    return BackendUser(name, secret, descriptor)


def _users_file() -> Path:
    path = str(settings.MQTT["users_file"])
    if not path:
        raise MqttError(
            "users_missing", "FLEET_MQTT_USERS_FILE is not set: start the stack, or name the file"
        )
    return Path(path)


def secret_of(name: str) -> str:
    """The secret of a backend user. Raises MqttError `users_missing`."""
    try:
        users = broker_files.read_users(_users_file())
    except BrokerFilesError as error:
        raise MqttError(error.code, error.text) from error
    if name not in users:
        raise MqttError("users_missing", f"the users file has no {name}")
    return users[name]


def ca_name() -> str:
    """What vouches for the broker, in words."""
    return str(settings.MQTT["ca"]) or "an authority of this system"


def tls_context() -> ssl.SSLContext:
    """TLS that trusts the broker's authority alone.

    Raises MqttError `broker_tls` when its file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=str(settings.MQTT["ca"]) or None)
    except OSError as error:
        raise MqttError("broker_tls", f"{ca_name()} cannot be read: {error}") from error


def connect_error(code: str, name: str, *, timeout_s: float = 0.0) -> MqttError:
    """The error for a connection as `name` that did not come about; code: one that begins with `broker_`."""
    where = f"{settings.MQTT['host']}:{settings.MQTT['port']}"
    if code == "broker_auth":
        return MqttError(code, f"the broker at {where} refuses {name}: users and passwords differ")
    if code == "broker_tls":
        return MqttError(code, f"the broker at {where} shows a certificate that {ca_name()} did not sign")
    return MqttError("broker_unreachable", f"no broker answered at {where} within {timeout_s:.0f} s")


def diagnose() -> tuple[str, str]:
    """Why the broker cannot be connected to: (code, text)."""
    host, port = str(settings.MQTT["host"]), int(settings.MQTT["port"])
    try:
        with (
            socket.create_connection((host, port), timeout=3) as plain,
            tls_context().wrap_socket(plain, server_hostname=host),
        ):
            return "broker_unreachable", f"the broker at {host}:{port} did not take the connection"
    except ssl.SSLCertVerificationError as error:
        return "broker_tls", f"the certificate of {host}:{port} is refused: {error.verify_message}"
    except OSError as error:
        return "broker_unreachable", f"no broker answers at {host}:{port}: {error.strerror or error}"
