"""A gateway's word of itself, for the rule that watches how far ingest is behind (`telemetry.ingesters`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from django.db import Error, connection, transaction

from fleet.gateway.pump import Pump
from fleet.telemetry import ingesters
from fleet.telemetry.ingesters import Told

logger = logging.getLogger(__name__)

BEAT_S: Final = 5.0
WAIT_S: Final = 2
"""Seconds that saying it may take: whoever says it also holds the slot's lease and hears SIGTERM."""


def tell(pumps: Sequence[tuple[str, Pump]], *, now: datetime) -> bool:
    """Say what each named pump holds; False when the database does not take it, which is no error here: the
    row it has then grows old, and that is the word. Call it from one thread, which has this connection alone.
    """
    told = []
    for name, pump in pumps:
        held = pump.held
        told.append(Told(name, held.since if held else None, held.messages if held else 0))
    return _say(lambda: ingesters.tell(told, now=now))


def leave(pumps: Sequence[tuple[str, Pump]]) -> bool:
    """Say that these end as asked; False when the database is away: they then count as silent."""
    return _say(lambda: ingesters.forget([name for name, _ in pumps]))


def _say(what: Callable[[], None]) -> bool:
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
                    [f"{WAIT_S}s", f"{WAIT_S}s"],
                )
            what()
    except Error as error:
        logger.debug("the gateway's state is not stored: %s", error)
        connection.close()
        return False
    return True
