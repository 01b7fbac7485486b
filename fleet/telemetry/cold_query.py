"""Raw rows from the cold tier, read by a child process with limits (`cold_reader`)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import structlog
from django.conf import settings

from fleet.long_answers import give_back
from fleet.telemetry import cold
from fleet.telemetry.errors import QueryError

log = structlog.get_logger(__name__)

TIMEOUT_S: Final = 15
MOST_DAYS: Final = 31
"""Days that one question opens; each is a file. An export opens what its range has."""
READERS: Final = 4
"""Questions of a process that are read at once; each child may take `cold_reader.MEMORY`."""
WAIT_S: Final = 5
STALL_S: Final = 30
"""How long rows of an export may be waited for."""
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COMMAND: Final = (sys.executable, "-m", "fleet.telemetry.cold_reader")
_READ_BYTES: Final = 1 << 18
Pairs = Sequence[tuple[str, int]]  # device id, version id
_reading = threading.BoundedSemaphore(READERS)


def reaches(day: date) -> bool:
    """Whether the cold tier is on and has windows of this UTC day or of one before it."""
    first = cold.first_day("window") if cold.is_on() else None
    return first is not None and first <= day


def windows(device_id: str, start: datetime, end: datetime, *, limit: int) -> list[tuple[Any, ...]]:
    """Rows of `cold_reader.WINDOWS` of one device that end in [start, end), newest first, `limit` at most.

    Raises QueryError `range_too_wide` for more than MOST_DAYS days of files, `query_timeout` when the child
    does not answer within TIMEOUT_S or is ended by a limit, or cannot read a file, `contended` when READERS
    questions are being read and none of them ends within WAIT_S.
    """
    last = (end - _MICROSECOND).astimezone(UTC).date()
    days = cold.days("window", start.astimezone(UTC).date(), last)
    if len(days) > MOST_DAYS:
        raise QueryError(
            "range_too_wide", f"at most {MOST_DAYS} days of the cold tier at once, got {len(days)}"
        )
    if not days:
        return []
    asked = {**_about("windows", "window", days, start, end), "device": device_id, "limit": limit}
    return [tuple(row) for row in _ask(asked, TIMEOUT_S)]


def pairs(
    kind: str, days: Sequence[date], start: datetime, end: datetime, *, timeout_s: int
) -> list[tuple[str, int]]:
    """Which devices have rows of which model run in the files of these days. Raises QueryError
    `query_timeout` and `contended`, as `windows`.
    """
    found = _ask(_about("pairs", kind, days, start, end), timeout_s)
    return [(device, version_id) for device, version_id in found]


def count(
    kind: str, days: Sequence[date], start: datetime, end: datetime, among: Pairs | None, most: int, *,
    timeout_s: int,
) -> int:  # fmt: skip
    """Rows in the files of these days, at most `most`. among: of which alone, None for all. Raises QueryError
    `query_timeout` and `contended`, as `windows`.
    """
    asked = {**_about("count", kind, days, start, end), "pairs": among, "limit": most}
    return int(_ask(asked, timeout_s)[0][0])


class Rows:
    """Rows of an export as they are read, in the columns of `export`. Close it: it holds a process."""

    def __init__(
        self, kind: str, days: Sequence[date], start: datetime, end: datetime, among: Pairs | None
    ) -> None:
        asked = {**_about("rows", kind, days, start, end), "kind": kind, "pairs": among}
        self._at = 1  # of a row's time
        self._rows = 0
        self._buffer = b""
        self._is_over = False
        with tempfile.TemporaryFile() as question:
            question.write(json.dumps(asked).encode())
            question.seek(0)
            self._child = subprocess.Popen(
                _COMMAND, stdin=question, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd=settings.BASE_DIR,
            )  # fmt: skip

    def fetchmany(self, _size: int = 0) -> list[tuple[Any, ...]]:
        """The next rows, [] after the last one. Raises QueryError `query_timeout` when the child stalls, is
        ended by a limit, or cannot read a file: what was read so far is then not the whole.
        """
        if self._is_over:
            return []
        found = self._line()
        if isinstance(found, list):
            self._rows += len(found)
            return [(*row[:1], _EPOCH + timedelta(microseconds=row[1]), *row[2:]) for row in found]
        if not isinstance(found, dict) or found.get("rows") != self._rows:
            problem = found.get("problem") if isinstance(found, dict) else None
            raise self._failed(problem or f"it ended with {self._child.wait(STALL_S)}")
        self._is_over = True
        return []

    def _line(self) -> Any:
        assert self._child.stdout is not None
        handle = self._child.stdout.fileno()
        parts = [self._buffer]
        while b"\n" not in parts[-1]:
            if not select.select([handle], [], [], STALL_S)[0]:
                raise self._failed(f"no rows for {STALL_S} s")
            part = os.read(handle, _READ_BYTES)
            if not part:
                break
            parts.append(part)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            return None

    def _failed(self, problem: str) -> QueryError:
        log.error("cold_read_failed", reason=problem)
        return QueryError("query_timeout", "the cold tier cannot be read now; the log says why")

    def close(self) -> None:
        """End the child; safe to call again."""
        self._child.kill()
        self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


def _about(question: str, kind: str, days: Sequence[date], start: datetime, end: datetime) -> dict[str, Any]:
    return {
        "question": question,
        "files": [str(cold.path_of(kind, day)) for day in days],
        "start": (start - _EPOCH) // _MICROSECOND,
        "end": (end - _EPOCH) // _MICROSECOND,
    }


def _ask(asked: dict[str, Any], timeout_s: int) -> list[Any]:
    give_back()  # a page must not wait for a connection that waits for a file
    if not _reading.acquire(timeout=WAIT_S):
        raise QueryError("contended", f"{READERS} questions to the cold tier are under way: ask later")
    try:
        return _answer(asked, timeout_s)
    finally:
        _reading.release()


def _answer(asked: dict[str, Any], timeout_s: int) -> list[Any]:
    try:
        done = subprocess.run(
            _COMMAND,
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=timeout_s,
            cwd=settings.BASE_DIR,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise QueryError("query_timeout", f"the cold tier has no answer within {timeout_s} s") from error
    if done.returncode == 0:
        rows: list[Any] = json.loads(done.stdout)["rows"]
        return rows
    try:
        problem = str(json.loads(done.stdout)["problem"])
    except (ValueError, KeyError, TypeError):
        problem = f"it ended with {done.returncode}"
    log.error("cold_read_failed", reason=problem, stderr=done.stderr[-500:].decode(errors="replace"))
    raise QueryError("query_timeout", "the cold tier cannot be read now; the log says why")
