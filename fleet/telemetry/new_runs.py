"""How many model runs that nobody knew one device may bring in a day.

An unknown run is no error: it is kept and shown. But each is a row for ever, and series and rollups of its
own, so one device whose names come from noise, or from somebody else, must not make them without end.
"""

import threading
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import connection

from fleet.mqtt.codec.telemetry import Batch

MOST: Final = 16
SPAN: Final = timedelta(days=1)
MAX_TRACKED: Final = 10_000
AT_ONCE: Final = 1_000
"""Runs, or devices, of one question."""
Run = tuple[str, str, str]  # mid, model, version


class NewRuns:
    """Lets MOST new runs of a device pass in SPAN. Safe for threads.

    What is stored says who brought a run first; what this process let pass and has not stored yet it
    remembers. Two gateways may let one or two more pass.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._known: set[Run] = set()
        self._passed: dict[str, dict[Run, datetime]] = {}

    def excess(self, sent: Sequence[tuple[str, Batch]], *, now: datetime) -> set[int]:
        """Places in `sent`, of (device id, batch), whose run is new and one too many of its device.

        Two questions for AT_ONCE runs and devices, none when all runs are known. Raises django.db.Error.
        """
        new = [
            (place, device_id, run)
            for place, (device_id, batch) in enumerate(sent)
            if (run := (batch.mid, batch.model, batch.version)) not in self._known
        ]
        if not new:
            return set()
        with self._lock:
            stored = _stored({run for _, _, run in new})
            if len(self._known) + len(stored) > MAX_TRACKED:
                self._known.clear()
            self._known |= stored
            new = [one for one in new if one[2] not in stored]
            brought = _brought({device_id for _, device_id, _ in new}, since=now - SPAN)
            return {place for place, device_id, run in new if not self._passes(device_id, run, brought, now)}

    def _passes(self, device_id: str, run: Run, brought: dict[str, set[Run]], now: datetime) -> bool:
        if device_id not in self._passed and len(self._passed) >= MAX_TRACKED:
            self._passed.clear()
        passed = self._passed.setdefault(device_id, {})
        for old in [one for one, at in passed.items() if at <= now - SPAN]:
            del passed[old]
        if len({*brought.get(device_id, ()), *passed} - {run}) >= self.most:
            return False
        passed[run] = now
        return True


def _stored(runs: Collection[Run]) -> set[Run]:
    """Those of the runs that are stored."""
    found: set[Run] = set()
    wanted = sorted(runs)
    for start in range(0, len(wanted), AT_ONCE):
        columns = [list(column) for column in zip(*wanted[start : start + AT_ONCE], strict=True)]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT v.mid, v.model, v.version FROM tele_version v"
                " JOIN unnest(%s::text[], %s::text[], %s::text[]) AS w(mid, model, version)"
                " ON v.mid = w.mid AND v.model = w.model AND v.version = w.version",
                columns,
            )
            found.update(cursor.fetchall())
    return found


def _brought(device_ids: Collection[str], *, since: datetime) -> dict[str, set[Run]]:
    """Runs that each of these devices brought first, after `since`."""
    found: dict[str, set[Run]] = {}
    wanted = sorted(device_ids)
    for start in range(0, len(wanted), AT_ONCE):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT first_device, mid, model, version FROM tele_version"
                " WHERE first_device = ANY(%s) AND first_seen_at > %s",
                [wanted[start : start + AT_ONCE], since],
            )
            for device_id, *run in cursor.fetchall():
                found.setdefault(device_id, set()).add((run[0], run[1], run[2]))
    return found
