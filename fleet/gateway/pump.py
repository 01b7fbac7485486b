"""Take a batch, commit it, acknowledge it.

Nothing is acknowledged before its commit, nothing is dropped without a code.

A database that is away or busy means the same batch again, later. A batch that it will not take is halved
until the one bad message is found, which becomes a dead letter.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone
from psycopg.errors import ReadOnlySqlTransaction

from fleet.gateway import metrics
from fleet.gateway.handlers import Handler
from fleet.gateway.source import Source
from fleet.mqtt.client import Arrived
from fleet.sealing import SealError

logger = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
IDLE_S: Final = 0.5


@dataclass(frozen=True)
class Held:
    """A batch in hand: taken then, so many messages, none of them acknowledged yet."""

    since: datetime
    messages: int


class Pump:
    """Moves the messages of a source through a handler until `stop` is set."""

    def __init__(
        self,
        source: Source,
        handler: Handler,
        stop: threading.Event,
        *,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """on_idle: called whenever nothing has come for a while, everything before being acknowledged."""
        self._source = source
        self._handler = handler
        self._stop = stop
        self._on_idle = on_idle
        self.held: Held | None = (
            None  # sources hand out in order, so nothing older waits; any thread reads it
        )

    def run(self) -> None:
        """Work until `stop`; the batch in hand is then committed and acknowledged, the rest left to the
        broker.
        """
        while not self._stop.is_set():
            batch = self._source.receive(self._handler.most_records, IDLE_S)
            if batch:
                started_s = time.monotonic()
                self.held = Held(timezone.now(), len(batch))
                self._finish(batch)
                self.held = None
                metrics.COMMIT_S.labels(self._source.name).observe(time.monotonic() - started_s)
            else:
                self._on_idle()

    def _finish(self, batch: Sequence[Arrived]) -> None:
        """Handle and acknowledge a batch, whatever that takes.

        Returns early only when stopping and the database is
        away: the broker then keeps the batch."""
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                self._handler.handle(batch, now=timezone.now())
            except Exception as error:
                if _will_pass(error):
                    self._later(error, pause_s)
                    if self._stop.wait(pause_s):
                        return
                    pause_s = min(BACKOFF_MAX_S, pause_s * 2)
                    continue
                if len(batch) > 1:
                    middle = len(batch) // 2
                    self._finish(batch[:middle])
                    self._finish(batch[middle:])
                    return
                if self._reject(batch[0], error):
                    self._source.ack(batch)
                    return
                if self._stop.wait(pause_s):
                    return
            else:
                if pause_s > BACKOFF_FIRST_S:
                    logger.info("%s: the database takes batches again", self._source.name)
                self._source.resume()
                self._source.ack(batch)
                return

    def _later(self, error: Exception, pause_s: float) -> None:
        metrics.RETRIES.labels(self._source.name).inc()
        self._source.pause()
        code = error.code if isinstance(error, SealError) else "database_unavailable"
        text = str(error).strip().partition("\n")[0]
        level = logging.WARNING if pause_s in (BACKOFF_FIRST_S, BACKOFF_MAX_S) else logging.DEBUG
        words = "the batch stays un-acknowledged and is tried again"
        logger.log(level, "%s: %s (%s); %s", self._source.name, code, text, words)
        connection.close()

    def _reject(self, message: Arrived, error: Exception) -> bool:
        """Make a dead letter of a message that cannot be handled; False when the database is away."""
        code = "db_reject" if isinstance(error, DatabaseError) else "internal"
        logger.error("%s: a message of %s is refused", self._source.name, message.topic, exc_info=error)
        try:
            self._handler.reject(message, code, f"{type(error).__name__}: {error}", now=timezone.now())
        except DatabaseError as again:
            if not _will_pass(again):
                raise
            connection.close()
            return False
        return True


def _will_pass(error: Exception) -> bool:
    """Whether the same batch may be taken later: the database is away, restarting, out of space or, after a
    failover, only reads; a deadlock, a lock not granted, a wrong passphrase.
    """
    if isinstance(error, (OperationalError, InterfaceError, SealError)):
        return True
    return isinstance(error.__cause__, ReadOnlySqlTransaction)
