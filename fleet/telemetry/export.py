"""Raw rows as NDJSON, CSV or Parquet, from a cursor of the server: memory is that of one batch, however many
come (`export_forms`). Days past retention come from the cold tier, where there is one (`cold_export`).

An export has its own connection and one snapshot, so that what it gives fits together. With the snapshot it
locks the partitions (ACCESS SHARE): a snapshot keeps rows, but not the table that they are in. What retention
took before that is refused, not left out. It holds both while the client reads: a slow client may take MOST_S
and at most SLOTS exports run, since old rows cannot be vacuumed and partitions cannot be dropped meanwhile.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Protocol

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections

from fleet.long_answers import give_back
from fleet.telemetry import cold, cold_export, cold_query, export_forms, partitions
from fleet.telemetry.catalogue import MAX_RANGE
from fleet.telemetry.cold_export import Chained, Cursor
from fleet.telemetry.cold_query import Pairs
from fleet.telemetry.errors import QueryError
from fleet.telemetry.rows import TIMEOUT_S
from fleet.telemetry.selection import condition

MOST_ROWS: Final = 1_000_000
SLOTS: Final = 4
FETCH: Final = 2_000
FETCH_S: Final = 30
IDLE_S: Final = 60
MOST_S: Final = 15 * 60
CONNECT_S: Final = 5
COLD_S: Final = 30
"""Within IDLE_S: the snapshot waits while the cold tier is asked."""
_LOCK: Final = 0x7E1E_0010
_RUN: Final = {"model": "v.model", "version": "v.version", "mid": "v.mid", "slot": "w.slot"}
_KINDS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "window": (
        "tele_window",
        {
            "device_id": "w.device_id", "at": "w.ts", "seq": "w.seq", **_RUN, "inferences": "w.n",
            "latency_mean_us": "w.us_mean", "latency_max_us": "w.us_max", "score": "w.score / 1e4::float8",
            "top_class": "w.top", "anomaly_max": "w.anom_max / 1e3::float8", "anomalies": "w.anom_n",
            "labels": "w.lab_n", "labels_ok": "w.lab_ok", "heap_min_bytes": "w.heap_min * 64",
            "rssi_dbm": "w.rssi", "flags": "w.flags", "dt_ms": "w.dt_ms", "lag_s": "w.lag_s",
        },
    ),
    "inference": (
        "tele_inference",
        {
            "device_id": "w.device_id", "at": "w.ts", "seq": "w.seq",
            "sample_id": "w.device_id || ':' || (w.sample >> 32) || ':' || (w.sample & 4294967295)", **_RUN,
            "top_class": "w.top", "score": "w.score / 1e4::float8", "margin": "w.margin / 1e4::float8",
            "anomaly": "w.anom / 1e3::float8", "latency_us": "w.us", "why": "w.why", "lag_s": "w.lag_s",
        },
    ),
    "sketch": (
        "tele_sketch",
        {
            "device_id": "w.device_id", "at": "w.ts", "seq": "w.seq", **_RUN, "duration_s": "w.duration_s",
            "inferences": "w.n", "lag_s": "w.lag_s", "body": "w.body::text",
        },
    ),
}  # fmt: skip
KINDS: Final = tuple(_KINDS)


@dataclass(frozen=True)
class Wanted:
    """What to export: rows of a kind that end in [start, end). q: as in a telemetry query."""

    kind: str
    form: str
    start: datetime
    end: datetime
    q: str = ""


def columns(kind: str) -> tuple[str, ...]:
    """Names of a row of KINDS, in their order."""
    return tuple(_KINDS[kind][1])


class Export:
    """Bytes of an export under way, in chunks. Close it: it holds a connection and a snapshot."""

    def __init__(
        self,
        opened: psycopg.Connection[Any],
        cursor: Any,
        wanted: Wanted,
        until: Callable[[], bool],
        *,
        has_head: bool = True,
        files: Cursor | None = None,
    ) -> None:
        self.rows = 0  # read so far
        self._connection = opened
        self._files = files
        self._cursor = Chained(files, cursor) if files is not None else cursor
        self._wanted = wanted
        self._is_late = until
        self._writer: export_forms.Writer | None = export_forms.writer(
            wanted.form, columns(wanted.kind), has_head=has_head
        )

    def chunk(self) -> bytes:
        """The next rows, b"" after the last one. Raises psycopg.Error, TimeoutError and QueryError
        `query_timeout` in the midst: what a client has then is cut, and the transfer must not end as if it
        were whole.
        """
        if self._is_late():
            raise TimeoutError(f"an export takes at most {MOST_S} s")
        if self._files is not None:
            self._connection.execute("SELECT 1")  # while files are read the snapshot must not look idle
        while self._writer is not None:
            rows = self._cursor.fetchmany(FETCH)
            self.rows += len(rows)
            if rows and (part := self._writer.write(rows)):
                return part
            if not rows:
                last, self._writer = self._writer.end(), None
                return last
        return b""

    def __iter__(self) -> Iterator[bytes]:
        return all_parts(self)

    def close(self) -> None:
        """End the transaction, and whoever reads the cold tier; safe to call again."""
        if self._files is not None:
            self._files.close()
        self._connection.close()


class Parts(Protocol):
    """Bytes that come in parts."""

    def chunk(self) -> bytes:
        """The next part, b"" after the last one."""

    def close(self) -> None:
        """Give back what is held; safe to call again."""


def all_parts(parts: Parts) -> Iterator[bytes]:
    """Every part, and then it is closed, however that ends."""
    try:
        while part := parts.chunk():
            yield part
    finally:
        parts.close()


class AsyncParts:
    """Parts for an event loop: database or disk is read in a thread, one part ahead of nobody."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while part := await asyncio.to_thread(self._parts.chunk):
                yield part
        finally:
            self.close()

    def close(self) -> None:
        """As of what it reads."""
        self._parts.close()


def open_export(wanted: Wanted, *, now: datetime, clock: Callable[[], float] = time.monotonic) -> Export:
    """Check what is wanted, count it and open the cursor. clock: seconds, for the longest time.

    Rows come in no particular order. Raises QueryError `unknown_kind`, `format_unknown`, `range_invalid`,
    `range_too_wide`, `raw_expired`, `too_many_rows` (`export_jobs` takes those), `contended` while SLOTS
    exports run, `query_timeout`, and what `selection.condition` raises.
    """
    check(wanted, now=now)
    try:
        with _Opening(wanted, now, now, lock=_LOCK, places=SLOTS) as opening:
            if opening.exceeds(MOST_ROWS):
                raise QueryError(
                    "too_many_rows", f"more than {MOST_ROWS:,} rows; ask for a shorter range or fewer devices"
                )
            until = clock() + MOST_S
            return opening.export(lambda: clock() > until)
    except psycopg.errors.QueryCanceled as error:
        raise QueryError("query_timeout", f"not begun within {TIMEOUT_S} s: ask later") from error


def count(wanted: Wanted, most: int, *, asked_at: datetime, now: datetime, timeout_s: int) -> int:
    """Rows of an export that was asked for at `asked_at`, at most `most`. Raises psycopg.Error, QueryError
    `query_timeout`, `raw_expired` when retention took a day meanwhile, what `selection.condition` raises.
    """
    with _Opening(wanted, asked_at, now) as opening:
        return opening.count(most, timeout_s=timeout_s)


def open_part(
    wanted: Wanted, *, asked_at: datetime, now: datetime, lock: int, has_head: bool
) -> Export | None:
    """As `open_export`, of a part of what was checked and counted before, at `asked_at`; None when another
    session holds the lock `lock`, which the part holds until it is closed. has_head: as of
    `export_forms.writer`. Raises psycopg.Error, and QueryError `raw_expired` when retention took a day
    meanwhile.
    """
    try:
        with _Opening(wanted, asked_at, now, lock=lock, places=1) as opening:
            return opening.export(lambda: False, has_head=has_head)
    except QueryError as error:
        if error.code == "contended":
            return None
        raise


class _Opening:
    """A connection with one snapshot, on the way to an export: closed again unless that comes of it.

    asked_at: what the query selects, it selects as of then. now: what is past retention. lock: the first of
    so many `places`, of which one is taken before anything is read.
    """

    def __init__(
        self, wanted: Wanted, asked_at: datetime, now: datetime, *, lock: int | None = None, places: int = 0
    ) -> None:
        self._lock, self._places = lock, places
        self._wanted = wanted
        self._now = now
        self._table, self._names = _KINDS[wanted.kind]
        self._existed = set(partitions.existing(self._table))
        self._selected = condition(wanted.q, now=asked_at)
        self._source = (
            f"FROM {self._table} w JOIN tele_version v ON v.id = w.version_id"
            f" WHERE w.ts >= %(start)s AND w.ts < %(end)s AND {self._selected.sql}"
        )
        self._bound = {**self._selected.parameters, "start": wanted.start, "end": wanted.end}
        self._is_kept = False
        self._days: list[date] = []
        self._among: Pairs | None = None

    def __enter__(self) -> _Opening:
        give_back()  # those who ask for pages must not wait while this is counted
        parameters = connections.create_connection(DEFAULT_DB_ALIAS).get_connection_params()
        self._opened = psycopg.connect(**{**parameters, "connect_timeout": CONNECT_S})
        self._opened.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._opened.read_only = True
        self._plain = psycopg.ClientCursor(self._opened)
        self._plain.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'")
        try:
            self._take()
            held = self._hold()
            self._look_in_the_cold()  # now: what left before the lock is there
            self._miss_nothing(held)
            give_back()
        except BaseException:
            self._opened.close()
            raise
        return self

    def _hold(self) -> set[date]:
        """Take the snapshot and lock the partitions until the transaction ends; the days that they hold."""
        self._plain.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
        self._plain.execute(f"SELECT 1 FROM {self._table} LIMIT 0")
        self._plain.execute(
            "SELECT c.relname FROM pg_partition_tree(%s) p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf",
            [self._table],
        )
        names = [name for (name,) in self._plain.fetchall()]
        return {day for day, _ in partitions.dated(names, self._table)}

    def _miss_nothing(self, held: set[date]) -> None:
        oldest = _oldest(self._table, self._now)
        absent = set(cold_export.span(self._wanted.start, self._wanted.end)) - held - set(self._days)
        _refuse(self._wanted, sorted(day for day in absent if day in self._existed or day < oldest))

    def _look_in_the_cold(self) -> None:
        about = self._wanted
        self._days = cold_export.days(about.kind, about.start, about.end)
        if self._days:
            self._source += " AND (w.ts AT TIME ZONE 'UTC')::date <> ALL(%(cold_days)s::date[])"
            self._bound["cold_days"] = self._days
            self._among = cold_export.allowed(
                about.kind, self._days, about.start, about.end, self._selected, timeout_s=COLD_S
            )

    def __exit__(self, *problem: object) -> None:
        if not self._is_kept:
            self._opened.close()

    def _take(self) -> None:
        if self._lock is None:
            return
        self._plain.execute(
            "SELECT n FROM generate_series(0, %s) n WHERE pg_try_advisory_xact_lock(%s + n) LIMIT 1",
            [self._places - 1, self._lock],
        )
        if self._plain.fetchone() is None:
            raise QueryError(
                "contended", f"{self._places} exports are under way, at most as many can be: ask later"
            )

    def count(self, most: int, *, timeout_s: int) -> int:
        n = self._count(most, timeout_s)
        return n + self._cold(most - n)

    def _count(self, most: int, timeout_s: int) -> int:
        self._plain.execute(f"SET LOCAL statement_timeout = '{timeout_s}s'")
        try:
            self._plain.execute(f"SELECT count(*) FROM (SELECT 1 {self._source} LIMIT {most}) x", self._bound)
        except psycopg.errors.QueryCanceled as error:
            raise QueryError("query_timeout", f"not counted within {timeout_s} s: ask for less") from error
        found = self._plain.fetchone()
        return int(found[0]) if found else 0

    def exceeds(self, most: int) -> bool:
        """Whether there are more rows than this; files are read for it only when all of theirs are more."""
        n = self._count(most + 1, TIMEOUT_S)
        if n + cold.rows(self._wanted.kind, self._days) <= most:
            return False
        return n + self._cold(most + 1 - n) > most

    def _cold(self, most: int) -> int:
        if not self._days or most <= 0:
            return 0
        about = self._wanted
        return cold_query.count(
            about.kind, self._days, about.start, about.end, self._among, most, timeout_s=COLD_S
        )

    def export(self, is_late: Callable[[], bool], *, has_head: bool = True) -> Export:
        self._plain.execute(f"SET LOCAL statement_timeout = '{FETCH_S}s'")
        chosen = ", ".join(self._names.values())
        cursor = self._opened.cursor(name="export")
        cursor.execute(self._plain.mogrify(f"SELECT {chosen} {self._source}", self._bound).encode())
        files = None
        if self._days:
            about = self._wanted
            files = cold_query.Rows(about.kind, self._days, about.start, about.end, self._among)
        found = Export(self._opened, cursor, self._wanted, is_late, has_head=has_head, files=files)
        self._is_kept = True
        return found


def check(wanted: Wanted, *, now: datetime) -> None:
    """Refuse what cannot be exported, before the database is asked. Raises QueryError as `open_export`."""
    if wanted.kind not in _KINDS:
        raise QueryError("unknown_kind", f"{wanted.kind[:40]!r} is none of {', '.join(_KINDS)}")
    export_forms.check(wanted.form)
    if wanted.start.tzinfo is None or wanted.end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if wanted.start >= wanted.end:
        raise QueryError("range_invalid", "from is not before to")
    if wanted.end - wanted.start > MAX_RANGE:
        raise QueryError("range_too_wide", "at most 13 months")
    table = _KINDS[wanted.kind][0]
    oldest = _oldest(table, now)
    if wanted.start < datetime.combine(oldest, datetime.min.time(), UTC):
        _refuse(wanted, cold_export.missing(wanted.kind, table, wanted.start, wanted.end, oldest=oldest))


def _oldest(table: str, now: datetime) -> date:
    """The first UTC day that retention leaves alone."""
    return partitions.day_of(now - timedelta(days=partitions.TABLES[table].keep_days))


def _refuse(wanted: Wanted, lost: Sequence[date]) -> None:
    if not lost:
        return
    days = partitions.TABLES[_KINDS[wanted.kind][0]].keep_days
    where = " and in the cold tier" if cold.is_on() else ""
    raise QueryError(
        "raw_expired",
        f"kept are {days} days{where}; {len(lost)} of the days {lost[0]} to {lost[-1]} are not there",
        available_from=datetime.combine(lost[-1] + timedelta(days=1), datetime.min.time(), UTC),
    )
