"""Gateways for tests: on threads of this process or as processes that can be killed, and their devices."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import connection

from fleet.gateway import service
from fleet.mqtt.client import BackendClient, take_named
from fleet.stack.mosquitto import accepts
from fleet.stack.paths import PROJECT_ROOT
from tests.devices.makers import Board, make_board
from tests.stack.services import Broker, Client
from tests.stack.services import wait_until as wait_until_within
from tests.telemetry.batches import make_batch

# A condition that holds ends the wait at once; a machine that many share may take long to start a process.
wait_until = partial(wait_until_within, deadline_s=90)


@contextmanager
def running(**options: Any) -> Iterator[threading.Event]:
    """A gateway on threads of this process."""
    stop, ready, results = threading.Event(), threading.Event(), []
    more = {"slot": 0, "stop": stop, "on_ready": ready.set, **options}
    thread = threading.Thread(target=lambda: results.append(service.run(**more)))
    thread.start()
    try:
        assert ready.wait(90)
        yield stop
    finally:
        stop.set()
        thread.join(timeout=90)
    assert results == [True]


@contextmanager
def process(
    broker_env: dict[str, str], folder: Path, *arguments: str, dying_at: int = 0
) -> Iterator["Gateway"]:
    """`manage.py gateway` as a process of its own. dying_at: see `tests.gateway.dying`; 0: it does not."""
    gateway = Gateway(broker_env, folder, arguments, dying_at)
    try:
        yield gateway
    finally:
        gateway.child.kill()
        gateway.child.wait(timeout=10)


class Gateway:
    """The process; its log grows over all its lives."""

    def __init__(
        self, broker_env: dict[str, str], folder: Path, arguments: tuple[str, ...], dying_at: int = 0
    ) -> None:
        database = connection.settings_dict
        url = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**database)
        self.env = {
            **os.environ,
            "DATABASE_URL": url,
            "FLEET_RUN_DIR": str(folder),
            "FLEET_KEY_PASSPHRASE": django_settings.KEY_PASSPHRASE,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            **broker_env,
        }
        self.log = folder / "gateway.log"
        program = [str(PROJECT_ROOT / "manage.py"), "gateway"]
        self.command = [sys.executable, *program, *arguments]
        if dying_at:
            self.command = [sys.executable, "-m", "tests.gateway.dying", str(dying_at), *arguments]
        self.child = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=self.env, stdout=log, stderr=log, cwd=PROJECT_ROOT)

    def says(self, words: str) -> None:
        """Wait until the log has these words; a process that ends without them has failed."""
        wait_until(lambda: words in self.log.read_text() or self.child.poll() is not None, what=words)
        assert words in self.log.read_text(), self.log.read_text()[-2000:]

    def kill_and_restart(self) -> None:
        """kill -9, and a successor at once."""
        self.child.kill()
        self.child.wait(timeout=10)
        self.child = self._start()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.child.terminate()
        return self.child.wait(timeout=90)


def enrolled(broker: Broker, moment: datetime, count: int) -> list[Board]:
    """Enrolled devices that the broker lets in."""
    found = [make_board(f"dev-{i}", moment) for i in range(count)]
    for board in found:
        wait_until(
            lambda board=board: accepts(broker.port, broker.tls.ca, board.id, board.secret),
            what="the broker to let a device in",
        )
    return found


def send(client: Client, board: Board, kind: str, payload: bytes) -> None:
    """Publish an uplink and wait for the broker."""
    client.publish(f"f1/dev/{board.id}/{kind}", payload, retain=kind in ("reported", "online"))


def left_at_broker(broker: Broker) -> int:
    """Messages that the telemetry session still holds un-acknowledged, once the broker has seen its end."""
    log = broker.run.logs / "mosquitto.log"
    end = "Client svc.gateway-1 disconnected."
    wait_until(
        lambda: log.read_text().rpartition("as svc.gateway-1")[2].count(end), what="the session to end"
    )
    inbox: list[Any] = []
    user = take_named("svc.gateway-1")
    with BackendClient(user, clean=False, manual_ack=True, on_message=inbox.append) as client:
        client.connect()
        client.read_retained("f1/svc/nothing", expect=None, timeout_s=5)  # a round trip behind what is queued
    user.release()
    return len(inbox)


class Stream:
    """Batches of four windows that devices send, one after the other, until `end`."""

    def __init__(self, broker: Broker, boards: list[Board], moment: datetime) -> None:
        self._done = threading.Event()
        self._sent = [0] * len(boards)

        def work(index: int, board: Board) -> None:
            with Client(broker, board.id, board.secret) as client:
                while not self._done.is_set():
                    first = 4 * self._sent[index]
                    batch = make_batch(moment - timedelta(hours=1), 4, first=first, dt_ms=20)
                    send(client, board, "telemetry", board.telemetry(batch).payload)
                    self._sent[index] += 1

        self._threads = [threading.Thread(target=work, args=entry) for entry in enumerate(boards)]
        for thread in self._threads:
            thread.start()

    @property
    def windows(self) -> int:
        """Windows that the broker has acknowledged; what it is until `end` is still rising."""
        return 4 * sum(self._sent)

    def end(self) -> None:
        """Send no more. Safe to call twice."""
        self._done.set()
        for thread in self._threads:
            thread.join(timeout=90)


@contextmanager
def streaming(broker: Broker, boards: list[Board], moment: datetime) -> Iterator[Stream]:
    """Devices that send all the time."""
    stream = Stream(broker, boards, moment)
    try:
        yield stream
    finally:
        stream.end()
