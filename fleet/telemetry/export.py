"""Raw rows as NDJSON or CSV, from a cursor of the server: memory is that of one batch, however many come.

An export has its own connection and one snapshot, so that what it gives fits together. It holds that snapshot
while the client reads: a slow client may take MOST_S and at most SLOTS exports run, since old rows cannot be
vacuumed and partitions cannot be dropped meanwhile.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections

from fleet.telemetry import partitions
from fleet.telemetry.catalogue import MAX_RANGE
from fleet.telemetry.errors import QueryError
from fleet.telemetry.rows import TIMEOUT_S
from fleet.telemetry.selection import Condition, condition

FORMATS: Final = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
MOST_ROWS: Final = 1_000_000
SLOTS: Final = 4
FETCH: Final = 2_000
FETCH_S: Final = 30
IDLE_S: Final = 60
MOST_S: Final = 15 * 60
CONNECT_S: Final = 5
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
        self, opened: psycopg.Connection[Any], cursor: Any, wanted: Wanted, until: Callable[[], bool]
    ) -> None:
        self._connection = opened
        self._cursor = cursor
        self._wanted = wanted
        self._is_late = until
        self._is_begun = False

    def chunk(self) -> bytes:
        """The next rows, b"" after the last one. Raises psycopg.Error and TimeoutError in the midst: what a
        client has then is cut, and the transfer must not end as if it were whole.
        """
        if self._is_late():
            raise TimeoutError(f"an export takes at most {MOST_S} s")
        rows = self._cursor.fetchmany(FETCH)
        text = _HEADS[self._wanted.form](self._wanted.kind) if not self._is_begun else ""
        self._is_begun = True
        return (text + _WRITERS[self._wanted.form](self._wanted.kind, rows)).encode()

    def __iter__(self) -> Iterator[bytes]:
        try:
            while part := self.chunk():
                yield part
        finally:
            self.close()

    def close(self) -> None:
        """End the transaction; safe to call again."""
        self._connection.close()


class AsyncExport:
    """An export for an event loop: the database is read in a thread."""

    def __init__(self, export: Export) -> None:
        self._export = export

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while part := await asyncio.to_thread(self._export.chunk):
                yield part
        finally:
            self.close()

    def close(self) -> None:
        """As of `Export`."""
        self._export.close()


def open_export(wanted: Wanted, *, now: datetime, clock: Callable[[], float] = time.monotonic) -> Export:
    """Check what is wanted, count it and open the cursor. clock: seconds, for the longest time.

    Rows come in no particular order. Raises QueryError `unknown_kind`, `format_unknown`, `range_invalid`,
    `range_too_wide`, `raw_expired`, `too_many_rows`, `contended` while SLOTS exports run, `query_timeout`,
    and what `selection.condition` raises.
    """
    _check(wanted, now)
    selected = condition(wanted.q, now=now)
    parameters = connections.create_connection(DEFAULT_DB_ALIAS).get_connection_params()
    opened = psycopg.connect(**{**parameters, "connect_timeout": CONNECT_S})
    try:
        return _opened(opened, wanted, selected, clock() + MOST_S, clock)
    except BaseException:
        opened.close()
        raise


def _opened(
    opened: psycopg.Connection[Any],
    wanted: Wanted,
    selected: Condition,
    until: float,
    clock: Callable[[], float],
) -> Export:
    table, names = _KINDS[wanted.kind]
    source = (
        f"FROM {table} w JOIN tele_version v ON v.id = w.version_id"
        f" WHERE w.ts >= %(start)s AND w.ts < %(end)s AND {selected.sql}"
    )
    bound = {**selected.parameters, "start": wanted.start, "end": wanted.end}
    opened.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    opened.read_only = True
    plain = psycopg.ClientCursor(opened)
    plain.execute(
        f"SET LOCAL statement_timeout = '{TIMEOUT_S}s';"
        f" SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'"
    )
    plain.execute(
        "SELECT n FROM generate_series(0, %s) n WHERE pg_try_advisory_xact_lock(%s + n) LIMIT 1",
        [SLOTS - 1, _LOCK],
    )
    if plain.fetchone() is None:
        raise QueryError("contended", f"{SLOTS} exports are under way, at most as many can be: ask later")
    try:
        count = f"SELECT count(*) FROM (SELECT 1 {source} LIMIT {MOST_ROWS + 1}) x"
        plain.execute(count, bound)
    except psycopg.errors.QueryCanceled as error:
        raise QueryError("query_timeout", f"not counted within {TIMEOUT_S} s: ask for less") from error
    found = plain.fetchone()
    if found is not None and found[0] > MOST_ROWS:
        raise QueryError(
            "too_many_rows", f"more than {MOST_ROWS:,} rows; ask for a shorter range or fewer devices"
        )
    plain.execute(f"SET LOCAL statement_timeout = '{FETCH_S}s'")
    chosen = ", ".join(names.values())
    cursor = opened.cursor(name="export")
    cursor.execute(plain.mogrify(f"SELECT {chosen} {source}", bound).encode())
    return Export(opened, cursor, wanted, lambda: clock() > until)


def _check(wanted: Wanted, now: datetime) -> None:
    if wanted.kind not in _KINDS:
        raise QueryError("unknown_kind", f"{wanted.kind[:40]!r} is none of {', '.join(_KINDS)}")
    if wanted.form not in FORMATS:
        raise QueryError("format_unknown", f"{wanted.form[:40]!r} is none of {', '.join(FORMATS)}")
    if wanted.start.tzinfo is None or wanted.end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if wanted.start >= wanted.end:
        raise QueryError("range_invalid", "from is not before to")
    if wanted.end - wanted.start > MAX_RANGE:
        raise QueryError("range_too_wide", "at most 13 months")
    days = partitions.TABLES[_KINDS[wanted.kind][0]].keep_days
    oldest = datetime.combine(partitions.day_of(now - timedelta(days=days)), datetime.min.time(), UTC)
    if wanted.start < oldest:
        raise QueryError(
            "raw_expired", f"these are kept {days} days, from {oldest:%Y-%m-%dT%H:%M:%SZ} on",
            available_from=oldest,
        )  # fmt: skip


def _ndjson(kind: str, rows: list[tuple[Any, ...]]) -> str:
    names = columns(kind)
    lines = []
    for row in rows:
        told = dict(zip(names, row, strict=True))
        told["at"] = _stamp(told["at"])
        if "body" in told:
            told["body"] = json.loads(told["body"])
        lines.append(json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n")
    return "".join(lines)


def _csv(kind: str, rows: list[tuple[Any, ...]]) -> str:
    at = columns(kind).index("at")
    text = io.StringIO()
    csv.writer(text).writerows([*row[:at], _stamp(row[at]), *row[at + 1 :]] for row in rows)
    return text.getvalue()


def _csv_head(kind: str) -> str:
    return ",".join(columns(kind)) + "\r\n"


def _stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


_WRITERS: Final = {"ndjson": _ndjson, "csv": _csv}
_HEADS: Final[dict[str, Callable[[str], str]]] = {"ndjson": lambda kind: "", "csv": _csv_head}
