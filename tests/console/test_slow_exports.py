"""Files that nobody reads fast, and pages beside them: the real web server with its pool of connections."""

from __future__ import annotations

import json
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from fleet import long_answers
from fleet.accounts import audit, tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.scopes import READ
from fleet.devices.classes import ensure_default_classes
from fleet.devices.models import Device
from fleet.stack.ports import LOOPBACK
from tests.live.viewers import Server, serving
from tests.stack.services import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
KEY = "a secret key that the test and its server share"
SLOW = 30
DEVICES = 30_000
POOL, OURS = 8, 1
FILES = ("/devices?format=json", "/api/v1/audit/export?format=ndjson")


@pytest.fixture(scope="module")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One web server for the tests of this file."""
    with serving(tmp_path_factory.mktemp("web"), secret_key=KEY) as running:
        yield running


@pytest.fixture
def headers(transactional_db: None, settings: Any, make_user: Callable[..., Any]) -> dict[str, str]:
    """Of an administrator, for pages and REST. There are more devices and audit rows than sockets hold."""
    settings.SECRET_KEY = KEY
    now = timezone.now()
    ensure_default_classes(now)
    Device.objects.create(id="dev-0", device_class_id="host-a", enrolled_at=now)
    audit.record(actor=SYSTEM, verb="device.release", subject_kind="device", subject_id="dev-0", at=now)
    for table, changed in (("devices_device", {"id": "'many-' || i"}),
                           ("accounts_auditevent", {"id": "gen_random_uuid()"})):  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table} LIMIT 0")
            chosen = ", ".join(changed.get(one.name, f'"{one.name}"') for one in cursor.description)
            cursor.execute(
                f"INSERT INTO {table} SELECT {chosen} FROM (SELECT * FROM {table} LIMIT 1) w,"
                f" generate_series(1, {DEVICES}) i"
            )
    user = make_user("admin")
    client = Client()
    client.force_login(user)
    _, token = tokens.issue(user, "files", READ | {"audit:read"}, actor=SYSTEM, now=now)
    return {"Cookie": f"sessionid={client.cookies['sessionid'].value}", "Authorization": f"Bearer {token}"}


def begun(server: Server, path: str, headers: dict[str, str]) -> socket.socket:
    """A client with room for little that has asked for a file, and has its head and no more."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    client.settimeout(30)
    client.connect((LOOPBACK, server.port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {LOOPBACK}", *(f"{k}: {v}" for k, v in headers.items())]
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    assert client.recv(12) == b"HTTP/1.1 200", path
    return client


def got(server: Server, path: str, headers: dict[str, str]) -> tuple[int, bytes, float]:
    """(status, body, seconds) of a page or an answer."""
    started = time.monotonic()
    request = urllib.request.Request(f"{server.url}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), time.monotonic() - started
    except urllib.error.HTTPError as error:
        return error.code, error.read(), time.monotonic() - started


def servers_connections() -> int:
    """Connections to the test's database without the one that asks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0]) - OURS


def test_thirty_slow_exports_do_not_starve_the_pages_beside_them(
    server: Server, headers: dict[str, str]
) -> None:
    with ExitStack() as open_files:
        for n in range(SLOW):
            open_files.enter_context(closing(begun(server, FILES[n % 2], headers)))
        for _ in range(5):
            for path in ("/devices", "/api/v1/devices?limit=50"):
                status, _body, took_s = got(server, path, headers)
                assert (status, took_s < 5) == (200, True), f"{path}: {status} after {took_s:.1f} s"
        most = POOL + long_answers.READERS
        assert servers_connections() <= most, "a file that waits for its reader holds no connection"


def test_an_export_too_many_is_refused_with_a_code_and_a_broken_client_frees_its_place(
    server: Server, headers: dict[str, str]
) -> None:
    files = [begun(server, FILES[1], headers) for _ in range(long_answers.MOST)]
    status, body, _ = got(server, "/api/v1/audit/export?format=csv", headers)
    assert (status, json.loads(body)["code"]) == (503, "contended")
    status, body, _ = got(server, "/devices?format=csv", headers)
    assert status == 503
    assert b"contended" in body
    for one in files:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()  # with a reset, as a client that died

    def has_place() -> bool:
        return got(server, "/api/v1/audit/export?format=csv&verb=none.such", headers)[0] == 200

    wait_until(has_place, deadline_s=20, what="a place after the clients have gone")
    wait_until(lambda: servers_connections() <= POOL, deadline_s=20, what="connections to come back")
    assert got(server, "/devices", headers)[0] == 200


def test_pages_go_on_when_the_database_has_cut_every_connection(
    server: Server, headers: dict[str, str]
) -> None:
    assert got(server, "/devices", headers)[0] == 200
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0] >= 1
    assert got(server, "/devices", headers)[0] == 200
