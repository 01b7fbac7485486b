"""A receiver that drips, never ends or takes the worker's last second costs one try and a bounded time."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded

from fleet.accounts.audit import SYSTEM
from fleet.alerts import calling, sending, webhooks
from fleet.alerts.models import Delivery, Webhook
from fleet.celery import app
from tests.alerts.test_webhooks import Receiver
from tests.alerts.test_webhooks import receiver as receiver

pytestmark = pytest.mark.django_db
RNG = random.Random(7)
Act = Callable[[socket.socket], None]


class Peer:
    """Takes one connection, reads the request and does what the test says with the socket."""

    def __init__(self, act: Act) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._act = act
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            taken, _ = self._listening.accept()
            with taken:
                taken.settimeout(20)
                request = b""
                while not request.endswith(b"}"):  # head and body may come apart
                    request += taken.recv(65536)
                self._act(taken)

    def close(self) -> None:
        self._listening.close()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the sender has closed the connection"


@pytest.fixture
def peer(settings: Any) -> Iterator[Callable[[Act], Peer]]:
    """Factory of peers, each the receiver of one message that waits."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    made: list[Peer] = []

    def make(act: Act) -> Peer:
        made.append(Peer(act))
        return made[-1]

    yield make
    for one in made:
        one.close()


def waiting(port: int, now: datetime, n: int = 1) -> Webhook:
    """A webhook with messages that are due."""
    url = f"http://127.0.0.1:{port}/"
    hook, _ = webhooks.create(f"hook-{port}", url=url, actor=SYSTEM, now=now)
    for _ in range(n):
        webhooks.send_test(hook, actor=SYSTEM, now=now)
    return hook


def drip(head: bytes) -> Act:
    """Sends something, then a byte of a header now and then, until the other side has had enough."""

    def act(taken: socket.socket) -> None:
        taken.sendall(head)
        gone = threading.Event()
        while not gone.wait(0.05):
            taken.sendall(b"x")

    return act


def listen(taken: socket.socket) -> None:
    """Says nothing, until the other side has had enough."""
    taken.recv(1)


def for_ever(begin: bytes, piece: bytes) -> Act:
    """Sends the same without end."""

    def act(taken: socket.socket) -> None:
        taken.sendall(begin)
        while True:
            taken.sendall(piece)

    return act


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nx-slow: "])
def test_a_receiver_that_drips_is_cut_off_at_the_deadline(
    head: bytes, peer: Callable[[Act], Peer], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "DEADLINE_S", 0.6)
    waiting(peer(drip(head)).port, now)
    begin = time.monotonic()
    assert sending.send_due(now, rng=RNG) == 0
    assert 0.5 < time.monotonic() - begin < 4, "well before a read of five seconds is over"
    row = Delivery.objects.get()
    assert (row.state, row.attempts, row.status) == ("pending", 1, None)
    assert row.error == "timeout: no whole answer within 0.6 s"
    assert timedelta(seconds=24) <= row.next_at - now <= timedelta(seconds=36)


def test_a_silent_receiver_has_no_more_than_what_is_left_of_the_deadline(
    peer: Callable[[Act], Peer], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "DEADLINE_S", 0.6)
    waiting(peer(listen).port, now)
    begin = time.monotonic()
    assert sending.send_due(now, rng=RNG) == 0
    assert time.monotonic() - begin < calling.SILENCE_S - 1
    assert Delivery.objects.get().error.startswith("timeout: ")


def test_answers_that_only_promise_one_are_cut_off_too(
    peer: Callable[[Act], Peer], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "DEADLINE_S", 0.6)
    waiting(peer(for_ever(b"", b"HTTP/1.1 102 Processing\r\n\r\n")).port, now)
    assert sending.send_due(now, rng=RNG) == 0
    assert Delivery.objects.get().error.startswith("timeout: ")


def test_a_head_without_end_is_no_answer(peer: Callable[[Act], Peer], now: datetime) -> None:
    waiting(peer(for_ever(b"HTTP/1.1 200 OK\r\n", b"x-more: " + b"y" * 1000 + b"\r\n")).port, now)
    assert sending.send_due(now, rng=RNG) == 0
    row = Delivery.objects.get()
    assert (row.attempts, row.status) == (1, None)
    assert row.error.startswith("unreachable: RemoteProtocolError: ")


def test_a_body_without_end_is_not_read(peer: Callable[[Act], Peer], now: datetime) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    waiting(peer(for_ever(head, b"400\r\n" + b"z" * 1024 + b"\r\n")).port, now)
    begin = time.monotonic()
    assert sending.send_due(now, rng=RNG) == 1
    assert time.monotonic() - begin < 4
    assert Delivery.objects.get().status == 200


@pytest.fixture
def interrupted(peer: Callable[[Act], Peer]) -> Iterator[Callable[[Any], Peer]]:
    """Factory of receivers in whose calls a signal comes to the worker, and what its handler does."""
    before = signal.getsignal(SIG_SOFT_TIMEOUT)

    def act(taken: socket.socket) -> None:
        os.kill(os.getpid(), SIG_SOFT_TIMEOUT)
        taken.recv(1)  # until the sender closes

    def make(handler: Any) -> Peer:
        signal.signal(SIG_SOFT_TIMEOUT, handler)
        return peer(act)

    yield make
    signal.signal(SIG_SOFT_TIMEOUT, before)


def test_a_try_in_which_the_task_runs_out_of_time_is_counted(
    interrupted: Callable[[Any], Peer], now: datetime
) -> None:
    waiting(interrupted(soft_timeout_sighandler).port, now)
    with pytest.raises(SoftTimeLimitExceeded):
        sending.send_due(now, rng=RNG)
    row = Delivery.objects.get()
    assert (row.state, row.attempts, row.status) == ("pending", 1, None)
    assert row.error == "timeout: the sender ran out of time"
    assert row.next_at - now <= timedelta(seconds=36), "as after any other failure, not after the lease"


def test_a_worker_that_is_killed_in_a_try_has_used_it_up(
    interrupted: Callable[[Any], Peer], receiver: Receiver, now: datetime
) -> None:
    def killed(*_: Any) -> None:
        raise SystemExit(1)

    waiting(interrupted(killed).port, now)
    with pytest.raises(SystemExit):
        sending.send_due(now, rng=RNG)
    row = Delivery.objects.get()
    assert (row.state, row.attempts, row.next_at) == ("pending", 1, now + sending.LEASE)
    Delivery.objects.update(attempts=sending.TRIES)  # and so on
    Webhook.objects.update(url="http://127.0.0.1:1/")
    assert sending.send_due(now + sending.LEASE, rng=RNG) == 0
    assert Delivery.objects.get().state == "failed"


def test_a_turn_ends_in_time_however_many_messages_wait(receiver: Receiver, now: datetime) -> None:
    waiting(receiver.server_port, now, n=4)
    clock = itertools.count(0.0, sending.TURN_S / 2.5)
    assert sending.send_due(now, rng=RNG, clock=lambda: next(clock)) == 2
    assert sending.send_due(now, rng=RNG) == 2, "the others are still due"
    assert len(receiver.got) == 4


def test_the_slowest_turn_fits_into_a_task_and_its_lease_outlives_it() -> None:
    assert app.conf.task_soft_time_limit > sending.TURN_S + calling.DEADLINE_S
    assert sending.LEASE.total_seconds() >= app.conf.task_time_limit
