"""References of drift: what a model run looked like on a device class when it was new there.

The first week of a model run on a class becomes its reference by itself, once that week is over; a person may
take another range instead. Both leave an audit row. Until then drift of the fleet says `no_reference`. Both
also make what single devices are compared with (`references.py`); until then that is each other.
"""

from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.telemetry import drift, histograms, psi, references
from fleet.telemetry.errors import TelemetryError

WEEK: Final = timedelta(days=7)
MOST: Final = 50
"""References that one run makes at most."""


def ensure(now: datetime) -> int:
    """Make the references of runs whose first week is compacted; returns how many (run, class) got theirs."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT h.version_id, h.device_class, min(h.start) AS first FROM tele_hist h"
            " WHERE h.span_s = 3600 AND h.metric = ANY(%s) AND NOT EXISTS (SELECT 1 FROM tele_baseline b"
            " WHERE b.version_id = h.version_id AND b.device_class = h.device_class)"
            " GROUP BY 1, 2 HAVING min(h.start) + interval '7 days' <= coalesce("
            " (SELECT until FROM tele_compaction WHERE name = 'hour'), '-infinity') ORDER BY 3 LIMIT %s",
            [list(drift.NAMES), MOST],
        )
        due = cursor.fetchall()
    for version_id, device_class, first in due:
        take(version_id, device_class, first, first + WEEK, actor=SYSTEM, now=now)
    return len(due)


def take(
    version_id: int, device_class: str, start: datetime, end: datetime, *, actor: Actor, now: datetime
) -> int:
    """Make [start, end) of a run on a class its reference, in place of the one before; returns inferences.

    start, end: whole hours. Raises TelemetryError `no_baseline` when fewer than 200 inferences are known of
    that time; the reference then stays.
    """
    parameters = {"version_id": version_id, "device_class": device_class}
    where = " AND w.version_id = %(version_id)s AND w.device_class = %(device_class)s"
    with transaction.atomic():
        found = drift.windows(start, end, histograms.HOUR_S, where, parameters)
        total = 0
        for (_, _, metric), hours in found.items():
            counts = sum(hours.values(), histograms.empty(metric))
            n = int(counts.sum())
            total = max(total, n)
            if n < psi.LEAST and actor is not SYSTEM:
                raise TelemetryError("no_baseline", f"{n} inferences in that time, at least {psi.LEAST}")
            first_bin, data = histograms.packed(counts)
            factor = psi.inflation(counts, list(hours.values()))
            _keep((version_id, device_class, metric, start, end, n, first_bin, data, factor, now))
        kind = references.WEEK if actor is SYSTEM else references.CHOSEN
        references.make(version_id, device_class, start, end, kind=kind, now=now)
        if not found:
            raise TelemetryError("no_baseline", "nothing is known of that time")
        after = {"from": start.isoformat(), "to": end.isoformat(), "n": total, "device_class": device_class}
        audit.record(
            actor=actor, verb="telemetry.baseline", subject_kind="telemetry", subject_id=f"run {version_id}",
            at=now, after=after,
        )  # fmt: skip
    return total


def _keep(row: tuple[object, ...]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tele_baseline (version_id, device_class, metric, started_at, ended_at, n, first_bin,"
            " counts, inflation, made_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (version_id, device_class, metric) DO UPDATE SET started_at = EXCLUDED.started_at,"
            " ended_at = EXCLUDED.ended_at, n = EXCLUDED.n, first_bin = EXCLUDED.first_bin,"
            " counts = EXCLUDED.counts, inflation = EXCLUDED.inflation, made_at = EXCLUDED.made_at",
            row,  # type: ignore[arg-type]
        )
