"""How much of what devices sent has arrived: by device, or by the model run that devices send now."""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from fleet.telemetry.catalogue import MAX_RANGE
from fleet.telemetry.errors import QueryError
from fleet.telemetry.rows import rows_of
from fleet.telemetry.selection import condition

MOST: Final = 500
DEFAULT_RANGE: Final = timedelta(hours=24)
BY: Final = ("device", "version")


@dataclass(frozen=True)
class Covered:
    """Records of one device or model run. expected = received + missing.

    missing: open (pending gaps), lost (closed with a cause) and what is not a gap yet. repaired: received
    after it had been found missing. device_id, or model, version and digest, are "" where they do not apply.
    """

    device_id: str
    model: str
    version: str
    digest: str
    boots: int
    expected: int
    received: int
    open: int
    lost: int
    repaired: int

    @property
    def missing(self) -> int:
        """Records that have not arrived."""
        return self.expected - self.received


@dataclass(frozen=True)
class Coverage:
    """An answer. total: over everything selected, whatever `limit` left out. gaps: open and lost ones."""

    start: datetime
    end: datetime
    total: Covered
    items: list[Covered]
    gaps: int


def coverage(
    *,
    now: datetime,
    start: datetime | None = None,
    end: datetime | None = None,
    by: str = "device",
    q: str = "",
    limit: int = 50,
) -> Coverage:
    """Records expected, received and missing of whole boots that were heard in [start, end), worst first.

    start, end: by default the last 24 h. by: `device`, or `version`, the run of each device's newest window:
    a record that is missing does not say which run it belonged to. q: as in a telemetry query. limit: 1..500.
    Raises QueryError `limit`, `range_invalid`, `range_too_wide`, `group_by_not_supported`, `query_timeout`,
    and what `selection.condition` raises.
    """
    selected = condition(q, now=now) if q else None
    end = end or now
    start = start or end - DEFAULT_RANGE
    if not 1 <= limit <= MOST:
        raise QueryError("limit", f"limit is 1..{MOST}, not {limit}")
    if by not in BY:
        raise QueryError("group_by_not_supported", f"coverage is by {' or '.join(BY)}, not {by[:32]!r}")
    if start.tzinfo is None or end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if start >= end:
        raise QueryError("range_invalid", "from is not before to")
    if end - start > MAX_RANGE:
        raise QueryError("range_too_wide", "at most 13 months")
    parameters: dict[str, Any] = {"start": start, "end": end, "limit": limit}
    where = "true"
    if selected is not None:
        where, parameters = selected.sql, parameters | dict(selected.parameters)
    keys = "w.device_id, '', '', ''" if by == "device" else "'', v.model, v.version, v.mid"
    sums = (
        "count(*) AS boots, sum(w.highest + 1) AS expected, sum(w.received) AS received,"
        " sum(w.open) AS open, sum(w.lost) AS lost, sum(w.repaired) AS repaired, sum(w.gaps) AS gaps"
    )
    rows = rows_of(
        f"""
        WITH w AS (
            SELECT b.device_id, coalesce(l.version_id, 0) AS version_id, b.highest, b.received, g.*
            FROM tele_boot b LEFT JOIN tele_device_last l ON l.device_id = b.device_id
            CROSS JOIN LATERAL (
                SELECT coalesce(sum(records) FILTER (WHERE state IN ('open', 'asked')), 0) AS open,
                    coalesce(sum(records) FILTER (WHERE state = 'lost'), 0) AS lost,
                    coalesce(sum(records) FILTER (WHERE state = 'repaired'), 0) AS repaired,
                    count(*) FILTER (WHERE state <> 'repaired') AS gaps
                FROM tele_gap t WHERE t.device_id = b.device_id AND t.boot = b.boot
            ) g
            WHERE b.heard_at >= %(start)s AND b.heard_at < %(end)s
        )
        (SELECT '', '', '', '', {sums} FROM w WHERE {where})
        UNION ALL
        (SELECT {keys}, {sums} FROM w LEFT JOIN tele_version v ON v.id = w.version_id WHERE {where}
        GROUP BY 1, 2, 3, 4 ORDER BY sum(w.highest + 1) - sum(w.received) DESC, 1, 2, 3, 4 LIMIT %(limit)s)
        """,
        parameters,
    )
    return _answer(start, end, rows)


def _answer(start: datetime, end: datetime, rows: list[tuple[Any, ...]]) -> Coverage:
    covered = [
        Covered(row[0], row[1] or "", row[2] or "", row[3] or "", *(int(n or 0) for n in row[4:10]))
        for row in rows
    ]
    return Coverage(start, end, covered[0], covered[1:], int(rows[0][10] or 0))
