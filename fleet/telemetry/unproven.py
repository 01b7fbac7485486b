"""Windows that nothing authenticates: JSON of debug mode, kept apart from everything that counts.

They have a table of their own. The design marks such rows in the raw tables; then every rollup, gate, alert,
export and check has to remember to leave them out, and one planted under the number of a genuine record would
make that one the duplicate. Here nobody counts them who does not ask for them.

What is kept is for looking at a board while it is brought up: KEEP, and of each device the newest MOST.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, models

from fleet.telemetry.ingest import Delivery

KEEP: Final = timedelta(days=2)
MOST: Final = 5_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES: Final = (
    "n", "us_mean", "us_max", "score", "top", "anom_max", "anom_n", "lab_n", "lab_ok", "heap_min", "rssi",
    "flags",
)  # fmt: skip
"""Columns of a window as `records.Window` has its fields after `dt_ms`, and as `tele_window` names them."""
_TRIM: Final = """
    WITH past AS MATERIALIZED (
        SELECT d.device_id, newest.ts, newest.seq FROM unnest(%s::text[]) AS d(device_id),
        LATERAL (
            SELECT o.ts, o.seq FROM tele_unproven o WHERE o.device_id = d.device_id
            ORDER BY o.ts DESC, o.seq DESC OFFSET %s LIMIT 1
        ) newest
    )
    DELETE FROM tele_unproven t USING past
    WHERE t.device_id = past.device_id AND (t.ts, t.seq) <= (past.ts, past.seq)
"""
"""Materialized: where a device's rows end is looked for once, not for each of its rows."""
_COLUMNS: Final = ("device_id", "ts", "seq", "model", "version", "mid", "slot", "received_at", *_NAMES)


class UnprovenWindow(models.Model):
    """A window without a MAC; once by (device, ts, seq). Columns as of `models.Window` and its run."""

    pk = models.CompositePrimaryKey("device_id", "ts", "seq")
    device_id = models.CharField(max_length=32)
    ts = models.DateTimeField()
    seq = models.BigIntegerField()
    received_at = models.DateTimeField(db_index=True)
    n = models.IntegerField()
    us_mean = models.IntegerField()
    us_max = models.IntegerField()
    anom_max = models.IntegerField()
    anom_n = models.IntegerField()
    heap_min = models.IntegerField()
    score = models.SmallIntegerField()
    top = models.SmallIntegerField()
    lab_n = models.SmallIntegerField()
    lab_ok = models.SmallIntegerField()
    rssi = models.SmallIntegerField()
    flags = models.SmallIntegerField()
    slot = models.SmallIntegerField()
    model = models.CharField(max_length=32)
    version = models.CharField(max_length=24)
    mid = models.CharField(max_length=16)

    class Meta:
        db_table = "tele_unproven"

    def __str__(self) -> str:
        return f"{self.device_id} {self.ts:%F %T} {self.seq}"


def store(deliveries: Sequence[Delivery], *, now: datetime) -> int:
    """Keep the windows of these batches that are not kept yet, in the caller's transaction; returns how many
    were new. Call `ingest.check_times` first. Raises django.db.Error.
    """
    rows = [
        (one.device_id, _EPOCH + timedelta(milliseconds=window.ts_ms), window.seq, one.batch.model,
         one.batch.version, one.batch.mid, one.batch.slot, now, *window[3:])
        for one in deliveries for window in one.batch.windows
    ]  # fmt: skip
    if not rows:
        return 0
    names = ", ".join(_COLUMNS)
    places = f"({', '.join(['%s'] * len(_COLUMNS))})"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO tele_unproven ({names}) VALUES {', '.join([places] * len(rows))}"  # noqa: S608 - constants
            " ON CONFLICT DO NOTHING",
            [value for row in sorted(rows) for value in row],
        )
        new = int(cursor.rowcount)
        cursor.execute(_TRIM, [sorted({one.device_id for one in deliveries}), MOST])
    return new


def forget(now: datetime) -> int:
    """Delete what came longer than KEEP ago; returns how many."""
    return UnprovenWindow.objects.filter(received_at__lt=now - KEEP).delete()[0]


def count(device_id: str, start: datetime, end: datetime) -> int:
    """Windows of a device that end in [start, end)."""
    return _of(device_id, start, end).count()


def newest(device_id: str, start: datetime, end: datetime, *, limit: int) -> list[tuple[Any, ...]]:
    """The newest `limit` of those, newest first: rows of (device_id, µs since 1970, seq, model, version, mid,
    slot, then the columns of a window), as `queries` reads them.
    """
    names = ("device_id", "ts", "seq", "model", "version", "mid", "slot", *_NAMES)
    rows = _of(device_id, start, end).order_by("-ts", "-seq").values_list(*names)[:limit]
    return [(row[0], (row[1] - _EPOCH) // timedelta(microseconds=1), *row[2:]) for row in rows]


def _of(device_id: str, start: datetime, end: datetime) -> "models.QuerySet[UnprovenWindow]":
    return UnprovenWindow.objects.filter(device_id=device_id, ts__gte=start, ts__lt=end)
