"""Who has which slot: an advisory lock of PostgreSQL, so that two gateways of two machines never share one.

The broker ends the older of two connections of one user, so two gateways of one slot would throw each other
out for ever. The lock ends with its connection: a gateway that is killed leaves its slot at once.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections

from fleet.gateway.errors import GatewayError

logger = logging.getLogger(__name__)

_CLASS: Final = 0x7E1E_0002  # first half of the lock's key; the second is the number of the broker user
CONNECT_S: Final = 5


class SlotLease:
    """Holds broker users, by number, against every other gateway of the installation. One thread."""

    def __init__(self, users: Sequence[int]) -> None:
        """users: numbers of `svc.gateway-<n>`."""
        self._users = tuple(users)
        self._connection: psycopg.Connection[Any] | None = None

    def take(self) -> None:
        """Take the slot, or see that it is still held; cheap, call it every few seconds.

        A lock that was lost with its connection (PostgreSQL restarted) is taken again. A database that is
        away changes nothing: nothing can be stored meanwhile. Raises GatewayError `slot_taken`.
        """
        try:
            if self._connection is not None:
                self._connection.execute("SELECT 1")
                return
        except psycopg.Error:
            self.release()
        try:
            self._lock()
        except psycopg.Error as error:
            logger.debug("the slot's lock waits for the database: %s", error)
            self.release()

    @property
    def is_held(self) -> bool:
        """True when the lock was held at the last `take`."""
        return self._connection is not None

    def release(self) -> None:
        """Give the slot back. Safe to call twice."""
        held, self._connection = self._connection, None
        if held is not None:
            held.close()

    def _lock(self) -> None:
        parameters = connections.create_connection(DEFAULT_DB_ALIAS).get_connection_params()
        opened = psycopg.connect(**{**parameters, "connect_timeout": CONNECT_S}, autocommit=True)
        for user in self._users:
            row = opened.execute("SELECT pg_try_advisory_lock(%s, %s)", [_CLASS, user]).fetchone()
            if row is None or not row[0]:
                opened.close()
                raise GatewayError("slot_taken", f"another gateway is connected as svc.gateway-{user}")
        self._connection = opened
