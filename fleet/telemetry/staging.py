"""Windows as the bytes of a binary COPY, into the temporary table that ingest merges from.

A row has twenty fixed-size columns but for the device's id, so all rows with ids of one length are one array
of records with a field for each column and each column's length, filled by column: a third of the time of
packing row by row, which was a third of psycopg's row writer (`tests.bench.telemetry.read_path`). Format:
PostgreSQL manual, COPY, Binary Format.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Final

import numpy as np
from django.db import connection

from fleet.mqtt.codec.telemetry import Batch

NAMES: Final = (
    "device_id, ts, seq, version_id, dt_ms, n, us_mean, us_max, anom_max, anom_n, heap_min, lag_s,"
    " score, top, lab_n, lab_ok, rssi, flags, slot, clock"
)
"""Columns of `tele_window` in the order of a packed row: text, timestamptz, 2 x int8, 8 x int4, 8 x int2."""
_TEXT: Final = "device_id"
_SIZES: Final = dict(zip(NAMES.split(", ")[1:], (*("i8",) * 3, *("i4",) * 8, *("i2",) * 8), strict=True))
"""numpy's names of the sizes of the other columns."""
_OF_WINDOW: Final = (
    *("seq", "ts", "dt_ms", "n", "us_mean", "us_max", "score", "top", "anom_max", "anom_n", "lab_n"),
    *("lab_ok", "heap_min", "rssi", "flags"),
)
"""Columns in the order of `Window`, whose time is unix milliseconds."""
_START: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_POSTGRES_EPOCH_MS: Final = 946_684_800_000
_INT4: Final = 2**31 - 1

Run = tuple[str, str, str]


def fill_stage(packed: bytes) -> None:
    """Make `tele_stage` hold these rows (`pack`) and nothing else, in the caller's transaction.

    Raises django.db.Error.
    """
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE IF NOT EXISTS tele_stage (LIKE tele_window) ON COMMIT DELETE ROWS")
        cursor.execute("DELETE FROM tele_stage")  # an outer transaction may have stored before
    copy_into("tele_stage", packed)


def copy_into(table: str, packed: bytes) -> None:
    """Add these rows (`pack`) to a table with the columns of `tele_window`.

    Raises django.db.Error; IntegrityError when a window is there already, or twice among these.
    """
    with (
        connection.wrap_database_errors,
        connection.connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({NAMES}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(packed)


def pack(batches: Iterable[tuple[str, Batch]], versions: Mapping[Run, int], *, now: datetime) -> bytes:
    """The bytes of a binary COPY of these windows, by device and time; lag_s is how far `now` is past the end
    of each.
    """
    now_us = (now - _POSTGRES_EPOCH) // timedelta(microseconds=1)
    alike: dict[int, list[tuple[bytes, Batch]]] = {}
    for device_id, batch in batches:
        raw = device_id.encode()
        if batch.windows:
            alike.setdefault(len(raw), []).append((raw, batch))
    for some in alike.values():
        some.sort(key=lambda one: (one[0], one[1].windows[0].ts_ms, one[1].windows[0].seq))
    rows = (_rows(size, some, versions, now_us) for size, some in sorted(alike.items()))
    return b"".join((_START, *rows, _END))


def _rows(size: int, some: Sequence[tuple[bytes, Batch]], versions: Mapping[Run, int], now_us: int) -> bytes:
    """Rows of devices whose ids have `size` bytes."""
    counts = np.array([len(batch.windows) for _, batch in some])
    rows = np.empty(counts.sum(), dtype=_row_type(size))
    rows["columns"] = len(_SIZES) + 1
    rows[f"{_TEXT} size"] = size
    for name in _SIZES:
        rows[f"{name} size"] = rows.dtype[name].itemsize
    flat = chain.from_iterable(chain.from_iterable(batch.windows for _, batch in some))
    columns = np.fromiter(flat, np.int64, rows.size * len(_OF_WINDOW)).reshape(-1, len(_OF_WINDOW)).T
    for name, values in zip(_OF_WINDOW, columns, strict=True):
        if name != "ts":
            rows[name] = values
    ts_us = (columns[1] - _POSTGRES_EPOCH_MS) * 1000
    rows["ts"] = ts_us
    rows["lag_s"] = np.clip((now_us - ts_us) / 1_000_000, -_INT4, _INT4)  # towards zero, as int() does
    of_batch = {
        _TEXT: np.array([raw for raw, _ in some], dtype=f"S{size}"),
        "version_id": np.array([versions[batch.mid, batch.model, batch.version] for _, batch in some]),
        "slot": np.array([batch.slot for _, batch in some]),
        "clock": np.array([int(batch.clock) for _, batch in some]),
    }
    for name, values in of_batch.items():
        rows[name] = np.repeat(values, counts)
    return rows.tobytes()


@lru_cache(maxsize=64)
def _row_type(size: int) -> np.dtype[np.void]:
    """A row as it is sent: the number of columns, then each column's size and value, in network order."""
    fields = [("columns", ">i2"), (f"{_TEXT} size", ">i4"), (_TEXT, f"S{size}")]
    for name, kind in _SIZES.items():
        fields += [(f"{name} size", ">i4"), (name, f">{kind}")]
    return np.dtype(fields)
