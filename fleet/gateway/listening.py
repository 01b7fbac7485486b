"""Forget a device's keys as soon as it is retired, not when they have been kept for `keys.KEEP_S`.

PostgreSQL tells it with the commit (`keys.CHANGED`). While it cannot be heard, nothing is worse than without:
a keyring keeps what it read for half a minute at most. What was missed meanwhile is unknown, so a listener
that is connected again forgets everything.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import sql

from fleet.devices.keys import CHANGED, KEYRING, Keyring

logger = logging.getLogger(__name__)

CONNECT_S: Final = 5
LOOK_S: Final = 0.5
RETRY_S: Final = 5.0


class Listener:
    """A thread with a connection of its own, from `start` until `stop` is set."""

    def __init__(self, stop: threading.Event, keyring: Keyring = KEYRING) -> None:
        self._stop = stop
        self._keyring = keyring
        self._thread = threading.Thread(target=self._run, name="listen", daemon=True)
        self.is_listening = threading.Event()

    def start(self) -> None:
        """Begin to listen; a database that is away is waited for."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread, which comes soon after `stop` was set."""
        if self._thread.is_alive():
            self._thread.join(timeout=CONNECT_S + RETRY_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except psycopg.Error as error:
                self.is_listening.clear()
                logger.debug("no news of devices: %s", str(error).strip())
                self._stop.wait(RETRY_S)

    def _listen(self) -> None:
        parameters: dict[str, Any] = connections.create_connection(DEFAULT_DB_ALIAS).get_connection_params()
        with psycopg.connect(**{**parameters, "connect_timeout": CONNECT_S}, autocommit=True) as opened:
            opened.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANGED)))
            self._keyring.clear()
            self.is_listening.set()
            while not self._stop.is_set():
                for note in opened.notifies(timeout=LOOK_S):
                    self._keyring.forget(note.payload)
