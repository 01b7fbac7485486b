"""Raw windows from the cold tier, read by a child process with limits (`cold_reader`)."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import structlog
from django.conf import settings

from fleet.telemetry import cold
from fleet.telemetry.errors import QueryError

log = structlog.get_logger(__name__)

TIMEOUT_S: Final = 15
MOST_DAYS: Final = 31
"""Days that one question opens; each is a file."""
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def reaches(day: date) -> bool:
    """Whether the cold tier is on and has windows of this UTC day or of one before it."""
    first = cold.first_day("window") if cold.is_on() else None
    return first is not None and first <= day


def windows(device_id: str, start: datetime, end: datetime, *, limit: int) -> list[tuple[Any, ...]]:
    """Rows of `cold_reader.WINDOWS` of one device that end in [start, end), newest first, `limit` at most.

    Raises QueryError `range_too_wide` for more than MOST_DAYS days of files, `query_timeout` when the child
    does not answer within TIMEOUT_S or is ended by a limit, or cannot read a file.
    """
    last = (end - _MICROSECOND).astimezone(UTC).date()
    days = cold.days("window", start.astimezone(UTC).date(), last)
    if len(days) > MOST_DAYS:
        raise QueryError(
            "range_too_wide", f"at most {MOST_DAYS} days of the cold tier at once, got {len(days)}"
        )
    if not days:
        return []
    asked = {
        "files": [str(cold.path_of("window", day)) for day in days],
        "device": device_id,
        "start": (start - _EPOCH) // _MICROSECOND,
        "end": (end - _EPOCH) // _MICROSECOND,
        "limit": limit,
    }
    return [tuple(row) for row in _ask(asked)["rows"]]


def _ask(asked: dict[str, Any]) -> Any:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fleet.telemetry.cold_reader"],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            cwd=settings.BASE_DIR,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise QueryError("query_timeout", f"the cold tier has no answer within {TIMEOUT_S} s") from error
    if done.returncode == 0:
        return json.loads(done.stdout)
    try:
        problem = str(json.loads(done.stdout)["problem"])
    except (ValueError, KeyError, TypeError):
        problem = f"it ended with {done.returncode}"
    log.error("cold_read_failed", reason=problem, stderr=done.stderr[-500:].decode(errors="replace"))
    raise QueryError("query_timeout", "the cold tier cannot be read now; the log says why")
