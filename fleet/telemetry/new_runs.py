"""How many model runs that nobody knew one device may bring in a day.

An unknown run is no error: it is kept and shown. But each is a row for ever, and series and rollups of its
own, so one device whose names come from noise, or from somebody else, must not make them without end.
"""

import threading
from datetime import datetime, timedelta
from typing import Final

from django.db import connection

from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry.errors import TelemetryError

MOST: Final = 16
SPAN: Final = timedelta(days=1)
MAX_TRACKED: Final = 10_000
Run = tuple[str, str, str]  # mid, model, version


class NewRuns:
    """Lets MOST new runs of a device pass in SPAN. Safe for threads.

    What is stored says who brought a run first; what this process let pass and has not stored yet it
    remembers. Two gateways may let one or two more pass.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: set[Run] = set()
        self._passed: dict[str, dict[Run, datetime]] = {}

    def check(self, device_id: str, batch: Batch, *, now: datetime) -> None:
        """Refuse a batch of a run that is new and one too many of its device: TelemetryError
        `too_many_versions`. Raises django.db.Error. A run that is known costs no question.
        """
        run = (batch.mid, batch.model, batch.version)
        if run in self._known:
            return
        with self._lock, connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM tele_version WHERE mid = %s AND model = %s AND version = %s", list(run)
            )
            if cursor.fetchone() is not None:
                if len(self._known) >= MAX_TRACKED:
                    self._known.clear()
                self._known.add(run)
                return
            cursor.execute(
                "SELECT mid, model, version FROM tele_version WHERE first_device = %s AND first_seen_at > %s",
                [device_id, now - SPAN],
            )
            if len(self._passed) >= MAX_TRACKED:
                self._passed.clear()
            passed = self._passed.setdefault(device_id, {})
            for old in [one for one, at in passed.items() if at <= now - SPAN]:
                del passed[old]
            if len({*cursor.fetchall(), *passed} - {run}) >= self._most:
                raise TelemetryError(
                    "too_many_versions", f"more than {self._most} model runs that were not known, in a day"
                )
            passed[run] = now
