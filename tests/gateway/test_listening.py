"""A gateway hears that a device was retired, and hears it again after its connection was lost."""

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from fleet.devices import keys, retirement
from fleet.devices.keys import Keyring
from fleet.gateway import listening
from fleet.gateway.listening import Listener
from tests.devices.makers import CONSOLE, make_board
from tests.stack.services import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def keyring() -> Keyring:
    """One that believes what it has read for longer than any test."""
    return Keyring(keep_s=3600.0)


@pytest.fixture
def listener(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setattr(listening, "RETRY_S", 0.1)
    stop = threading.Event()
    found = Listener(stop, keyring)
    found.start()
    assert found.is_listening.wait(30)
    yield found
    stop.set()
    found.join()


def is_retired(keyring: Keyring, device_id: str) -> bool:
    known = keyring.device(device_id)
    return known is not None and known.is_retired


@pytest.fixture
def retire(settings: Any, tmp_path: Path, now: datetime) -> Any:
    settings.MQTT = {**settings.MQTT, "password_file": ""}

    def run(device_id: str) -> None:
        retirement.retire(device_id, reason="broken", actor=CONSOLE, now=now)

    return run


def test_a_device_that_is_retired_is_known_as_such_at_once(
    listener: Listener, keyring: Keyring, retire: Any, now: datetime
) -> None:
    for name in ("dev-1", "dev-2"):
        make_board(name, now)
        assert not is_retired(keyring, name)
    retire("dev-1")
    wait_until(lambda: is_retired(keyring, "dev-1"), deadline_s=30, what="the news")
    assert not is_retired(keyring, "dev-2")


def test_without_a_listener_it_is_believed_as_long_as_it_is_kept(
    keyring: Keyring, retire: Any, now: datetime
) -> None:
    make_board("dev-1", now)
    assert not is_retired(keyring, "dev-1")
    retire("dev-1")
    assert not is_retired(keyring, "dev-1")


def test_nothing_is_told_of_what_is_rolled_back(listener: Listener, keyring: Keyring, now: datetime) -> None:
    make_board("dev-1", now)
    make_board("dev-2", now)
    kept = [keyring.device(name) for name in ("dev-1", "dev-2")]
    with transaction.atomic():
        keys.announce("dev-1")
        transaction.set_rollback(True)
    keys.announce("dev-2")
    wait_until(lambda: keyring.device("dev-2") is not kept[1], deadline_s=30, what="the news of the other")
    assert keyring.device("dev-1") is kept[0]


def test_what_was_missed_while_the_connection_was_lost_is_forgotten(
    listener: Listener, keyring: Keyring, now: datetime
) -> None:
    make_board("dev-1", now)
    before = keyring.device("dev-1")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN %%'"
            " AND datname = current_database()"
        )
        assert cursor.fetchone() == (1,)
    wait_until(lambda: keyring.device("dev-1") is not before, deadline_s=30, what="the keyring to be empty")
    wait_until(listener.is_listening.is_set, deadline_s=30, what="a new connection")
