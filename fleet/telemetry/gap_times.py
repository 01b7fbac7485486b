"""When missing records were measured, and so which answers they are missing from.

A record that never came has no time of its own. The windows before and after it by counter did come, and it
lies between them: a gap touches every range that this span touches. Counters rise over boots too, so the
window before may be of an earlier boot. Kept in the gap's row, because raw windows leave earlier than gaps.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.db import connection

from fleet.telemetry.gap_models import GapState
from fleet.telemetry.rows import rows_of

STEP: Final = 500
"""Gaps that one step places."""
_IS_MISSING: Final = f"g.state <> '{GapState.REPAIRED}'"
_PLACE: Final = """
    UPDATE tele_gap t SET since_at = least(coalesce(p.since, u.until), u.until), until_at = u.until
    FROM (SELECT * FROM tele_gap WHERE until_at IS NULL ORDER BY id LIMIT %(limit)s) g
    LEFT JOIN LATERAL (
        SELECT w.ts AS since FROM tele_window w
        WHERE w.device_id = g.device_id AND w.seq < (g.boot << 32) + g.first ORDER BY w.ts DESC LIMIT 1
    ) p ON true
    LEFT JOIN LATERAL (
        SELECT w.ts AS until FROM tele_window w
        WHERE w.device_id = g.device_id AND w.seq > (g.boot << 32) + g.last
            AND w.ts >= coalesce(p.since, g.found_at - interval '30 days') ORDER BY w.ts LIMIT 1
    ) n ON true
    CROSS JOIN LATERAL (SELECT coalesce(n.until, g.found_at) AS until) u
    WHERE t.id = g.id
"""
_DEVICE_RUNS: Final = """
    SELECT 1 FROM (
        SELECT g.device_id, o.version_id FROM (SELECT 1) one LEFT JOIN tele_device_day o
            ON o.device_id = g.device_id AND o.day >= date_trunc('day', g.since_at, 'UTC')
            AND o.day <= g.until_at
    ) w LEFT JOIN tele_version v ON v.id = w.version_id LEFT JOIN devices_device d ON d.id = w.device_id
"""


def place(limit: int = STEP) -> int:
    """Give gaps that have none their span of time; returns how many. Raises django.db.Error.

    Without a window after it a gap ends where it was found, without one before it begins where it ends.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PLACE, {"limit": limit})
        return int(cursor.rowcount)


def touching(
    start: datetime, end: datetime, *, where: str = "", parameters: Mapping[str, Any] | None = None
) -> int:
    """Open and lost gaps whose span touches [start, end); a repaired one is none any more.

    where, parameters: a condition over `w` (device_id, version_id), its run `v` and its device `d`. A gap
    does not say which run its records were of: it counts for every run of its device on the days it touches.
    Gaps that `place` has not seen yet, which is a moment, are not counted. Raises QueryError `query_timeout`.
    """
    scope = f" AND EXISTS ({_DEVICE_RUNS} WHERE {where})" if where else ""
    rows = rows_of(
        f"SELECT count(*) FROM tele_gap g WHERE {_IS_MISSING} AND g.until_at >= %(gaps_from)s"
        f" AND g.since_at < %(gaps_to)s{scope}",
        {**(parameters or {}), "gaps_from": start, "gaps_to": end},
    )
    return int(rows[0][0])


def of_boot(device_id: str, boot: int) -> int:
    """Open and lost gaps of one boot of a device."""
    rows = rows_of(
        f"SELECT count(*) FROM tele_gap g WHERE {_IS_MISSING} AND device_id = %(device)s AND boot = %(boot)s",
        {"device": device_id, "boot": boot},
    )
    return int(rows[0][0])
