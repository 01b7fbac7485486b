"""An export through the product's own web server, to a client that does not read: nothing piles up there."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.tls import ensure_tls
from fleet.telemetry import ingest, partitions
from fleet.telemetry.ingest import Delivery
from tests.api.conftest import Caller, clock
from tests.bench.telemetry.cells import rss_mib
from tests.stack.services import wait_until
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 60_000
MOST_MIB = 12


@pytest.fixture
def asked(transactional_db: None) -> Iterator[str]:
    """The path of an export of ROWS windows, about 20 MB."""
    start = clock() - timedelta(hours=1)
    ingest.store([Delivery("dev-1", make_batch(start, 1))], slot=0, now=clock())
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM tele_window LIMIT 0")
        given = {"seq": "i", "device_id": "'many'"}
        chosen = ", ".join(given.get(one.name, one.name) for one in cursor.description)
        cursor.execute(
            f"INSERT INTO tele_window SELECT {chosen}"
            " FROM (SELECT * FROM tele_window LIMIT 1) w, generate_series(1, %s) i",
            [ROWS - 1],
        )
    stamps = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (start - timedelta(minutes=1), clock()))
    yield "/api/v1/telemetry/export?from={}&to={}".format(*stamps)
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


@pytest.fixture
def server(tmp_path: Path, settings: Any) -> Iterator[tuple[int, int]]:
    """(process id, port) of the web server."""
    run, port = RunDir(tmp_path / "web").ensure(), free_port()
    tls = ensure_tls(run)
    url = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**connection.settings_dict)
    env = {
        **os.environ,
        "DATABASE_URL": url,
        "REDIS_URL": django_settings.REDIS_URL,
        "FLEET_RUN_DIR": str(tmp_path),
        "FLEET_SECRET_KEY": django_settings.SECRET_KEY,
        "FLEET_KEY_PASSPHRASE": django_settings.KEY_PASSPHRASE,
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
    }
    https = ("--https-port", str(free_port()), "--certificate", str(tls.certificate), "--key", str(tls.key))
    command = [sys.executable, "-m", "fleet.stack.serve", *https, "--http-port", str(port)]
    with (tmp_path / "web.log").open("wb") as log:
        child = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=PROJECT_ROOT)
    try:
        wait_until(lambda: _answers(port), deadline_s=60, what="the web server")
        yield child.pid, port
    finally:
        child.terminate()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()


def test_a_reader_that_stops_costs_the_server_no_more_than_a_batch(
    call: Caller, asked: str, server: tuple[int, int]
) -> None:
    pid, port = server
    get = f"GET {asked}&format=ndjson HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: Bearer {call.text}\r\n"
    request = f"{get}Connection: close\r\n\r\n".encode()
    whole = _all(_asked(port, request))  # once before: what it loads on the way is loaded
    before = rss_mib(pid)
    with _asked(port, request) as reader:
        start = reader.recv(1024)
        assert start.startswith(b"HTTP/1.1 200")
        most = before

        def is_waiting() -> bool:
            nonlocal most
            most = max(most, rss_mib(pid))
            return _waits()

        wait_until(is_waiting, deadline_s=30, what="the server to wait for its reader")
        got = len(start) + _all(reader)
    assert abs(got - whole) <= 64, "headers apart, it is the same"
    assert got > 20 * 2**20
    assert most - before < MOST_MIB, f"{most - before:.1f} MiB more while nobody read"


def _waits() -> bool:
    """Whether the export's connection has been idle between two batches for a while."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'FETCH%' AND datname = current_database()"
            " AND state = 'idle in transaction' AND state_change < clock_timestamp() - interval '500 ms'"
        )
        return bool(cursor.fetchone()[0])


def _asked(port: int, request: bytes) -> socket.socket:
    """A client with room for little, which has asked."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.settimeout(60)
    client.connect((LOOPBACK, port))
    client.sendall(request)
    return client


def _all(client: socket.socket) -> int:
    size = 0
    while part := client.recv(1 << 16):
        size += len(part)
    return size


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
