"""The part of an export that is in the cold tier: which days that is, and of whom.

A day is read from its file when the cold tier has it, and otherwise from its partition, never from both: it
is decided inside the snapshot of the export, and a partition leaves only after its file is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Protocol

from django.db import connection

from fleet.telemetry import cold, cold_query, partitions
from fleet.telemetry.cold_query import Pairs
from fleet.telemetry.selection import Condition

_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_SELECTED: Final = """
    SELECT w.device_id, w.version_id
    FROM unnest(%(cold_devices)s::text[], %(cold_runs)s::bigint[]) AS w(device_id, version_id) WHERE
"""


def span(start: datetime, end: datetime) -> list[date]:
    """UTC days that [start, end) touches."""
    first = start.astimezone(UTC).date()
    return [first + n * _DAY for n in range((_last(end) - first).days + 1)]


def days(kind: str, start: datetime, end: datetime) -> list[date]:
    """UTC days of [start, end) that are read from the cold tier; none when it is off."""
    if not cold.is_on():
        return []
    return cold.days(kind, start.astimezone(UTC).date(), _last(end))


def missing(kind: str, table: str, start: datetime, end: datetime, *, oldest: date) -> list[date]:
    """UTC days of [start, end) before `oldest` that neither the cold tier nor the database has any more."""
    kept = set(days(kind, start, end))
    if cold.is_on():  # without it a partition past retention may go at any moment
        kept |= set(partitions.existing(table))
    return [day for day in span(start, end) if day < oldest and day not in kept]


def allowed(
    kind: str, found: Sequence[date], start: datetime, end: datetime, selected: Condition, *, timeout_s: int
) -> Pairs | None:
    """Which (device, version id) of these files the query selects; None when it selects everything.

    The query is PostgreSQL's to understand: files know neither classes nor tags nor groups. Raises QueryError
    `query_timeout`, as `cold_query.windows`.
    """
    if selected.sql == "true":
        return None
    there = cold_query.pairs(kind, found, start, end, timeout_s=timeout_s)
    devices, versions = [one for one, _ in there], [one for _, one in there]
    with connection.cursor() as cursor:
        cursor.execute(
            _SELECTED + selected.sql,
            {**selected.parameters, "cold_devices": devices, "cold_runs": versions},
        )
        return list(cursor.fetchall())


class Cursor(Protocol):
    """Where rows come from."""

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        """The next rows, [] after the last one."""

    def close(self) -> None:
        """Give back what is held; safe to call again."""


class Chained:
    """Rows of several cursors, one after the other."""

    def __init__(self, *cursors: Cursor) -> None:
        self._waiting = list(cursors)
        self._all = cursors

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        """The next rows, [] after the last one of the last cursor. Raises what they raise."""
        while self._waiting:
            if rows := self._waiting[0].fetchmany(size):
                return rows
            self._waiting.pop(0)
        return []

    def close(self) -> None:
        """Close all of them; safe to call again."""
        for one in self._all:
            one.close()


def _last(end: datetime) -> date:
    return (end - _MICROSECOND).astimezone(UTC).date()
