"""Each sketch's window is compared once with the reference of its model run and class, and the result kept.

Alerts and pages read what is kept: five rows of a device by its key, whatever the size of the fleet. A window
without a reference yet is left, and judged when there is one within BACK; one that comes later than that
says nothing of now. Judging twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from fleet.telemetry import partitions, psi, references, shifts
from fleet.telemetry.references import body_of
from fleet.telemetry.shifts import Reference

BACK: Final = timedelta(hours=2)
MOST: Final = 10_000
"""Windows of one call; the rest waits for the next, oldest first."""
MOST_RUNS: Final = 500
"""Model runs on classes of one call."""
_PENDING: Final = """
    FROM tele_sketch t JOIN devices_device d ON d.id = t.device_id
    WHERE t.ts > %(since)s AND t.ts <= %(now)s AND t.n >= %(least)s AND NOT EXISTS (
        SELECT 1 FROM tele_drift f WHERE f.device_id = t.device_id AND f.ts = t.ts AND f.seq = t.seq
    )
"""
_RUNS: Final = f"SELECT DISTINCT t.version_id, d.device_class_id {_PENDING} ORDER BY 1, 2 LIMIT %(most_runs)s"
_WINDOWS: Final = f"""
    SELECT t.device_id, t.ts, t.seq, t.version_id, d.device_class_id, t.n, t.body {_PENDING}
    AND (t.version_id, d.device_class_id) IN (
        SELECT * FROM unnest(%(versions)s::int8[], %(classes)s::varchar[])
    ) ORDER BY t.ts, t.device_id, t.seq LIMIT %(most)s
"""  # noqa: S608
_COLUMNS: Final = (
    ("device_id", "varchar"), ("ts", "timestamptz"), ("seq", "int8"), ("version_id", "int8"),
    ("device_class", "varchar"), ("reference", "varchar"), ("n", "int4"), ("worst", "float4"),
    ("input", "float4"), ("channel", "int2"), ("moment", "int2"), ("class_psi", "float4"),
    ("class_limit", "float4"), ("distance_psi", "float4"), ("distance_limit", "float4"),
    ("confidence", "float4"),
)  # fmt: skip
Group = tuple[int, str]  # version id, device class


def judge(now: datetime) -> int:
    """Judge the windows that are due, with references made where they can be; returns how many were kept."""
    asked: dict[str, Any] = {"since": now - BACK, "now": now, "least": psi.LEAST, "most_runs": MOST_RUNS}
    with connection.cursor() as cursor:
        cursor.execute(_RUNS, asked)
        runs: list[Group] = cursor.fetchall()
    found = {run: references.ensure_peers(*run, now=now) for run in runs}
    known = {run: reference for run, reference in found.items() if reference is not None}
    if not known:
        return 0
    asked |= {"versions": [run[0] for run in known], "classes": [run[1] for run in known], "most": MOST}
    with connection.cursor() as cursor:
        cursor.execute(_WINDOWS, asked)
        rows = cursor.fetchall()
    partitions.ensure({partitions.day_of(row[1]) for row in rows}, tables=["tele_drift"])
    return _keep(_judged(rows, known)) if rows else 0


def _judged(
    rows: list[tuple[Any, ...]], known: dict[Group, tuple[Reference, str]]
) -> Iterator[tuple[Any, ...]]:
    for device_id, ts, seq, version_id, device_class, n, body in rows:
        reference, kind = known[version_id, device_class]
        one = shifts.judge(shifts.seen_of(n, body_of(body)), reference)
        yield (
            device_id, ts, seq, version_id, device_class, kind, n, one.worst, one.input, one.channel,
            one.moment, one.class_psi, one.class_limit, one.distance_psi, one.distance_limit, one.confidence,
        )  # fmt: skip


def _keep(rows: Iterator[tuple[Any, ...]]) -> int:
    names = ", ".join(name for name, _ in _COLUMNS)
    with transaction.atomic(), connection.cursor() as wrapped:
        wrapped.execute("CREATE TEMP TABLE IF NOT EXISTS tele_drift_stage (LIKE tele_drift)")
        wrapped.execute("DELETE FROM tele_drift_stage")
        with (
            connection.wrap_database_errors,
            connection.connection.cursor() as cursor,
            cursor.copy(f"COPY tele_drift_stage ({names}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types([kind for _, kind in _COLUMNS])
            for row in rows:
                copy.write_row(row)
        # in the order of the key, so that two workers cannot lock each other out
        wrapped.execute(
            f"INSERT INTO tele_drift ({names}) SELECT {names} FROM tele_drift_stage"  # noqa: S608
            " ORDER BY device_id, ts, seq ON CONFLICT DO NOTHING"
        )
        return int(wrapped.rowcount)
