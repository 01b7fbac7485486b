"""Windows as the bytes of a binary COPY, into the temporary table that ingest merges from.

A row has twenty fixed-size columns but for the device's id, so one `struct` packs it; psycopg's row writer
looks up an adapter for each value, which took most of a row's time in the gateway. Format: PostgreSQL manual,
COPY, Binary Format.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final

from django.db import connection

from fleet.mqtt.codec.telemetry import Batch

NAMES: Final = (
    "device_id, ts, seq, version_id, dt_ms, n, us_mean, us_max, anom_max, anom_n, heap_min, lag_s,"
    " score, top, lab_n, lab_ok, rssi, flags, slot, clock"
)
"""Columns of `tele_window` in the order of a packed row: text, timestamptz, 2 x int8, 8 x int4, 8 x int2."""
_COUNT: Final = len(NAMES.split(","))
_START: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_HEAD: Final = Struct(">hi")
_TAIL: Final = Struct(">" + "iq" * 3 + "ii" * 8 + "ih" * 8)
_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_POSTGRES_EPOCH_MS: Final = 946_684_800_000
_INT4: Final = 2**31 - 1

Run = tuple[str, str, str]


def copy_windows(batches: Iterable[tuple[str, Batch]], versions: Mapping[Run, int], *, now: datetime) -> None:
    """Make `tele_stage` hold the windows of these batches and nothing else, in the caller's transaction.

    batches: device id and batch. versions: the id of each (mid, model, version). Raises django.db.Error.
    """
    with connection.cursor() as wrapped:
        wrapped.execute("CREATE TEMP TABLE IF NOT EXISTS tele_stage (LIKE tele_window) ON COMMIT DELETE ROWS")
        wrapped.execute("DELETE FROM tele_stage")  # an outer transaction may have stored before
    with (
        connection.connection.cursor() as cursor,
        cursor.copy(f"COPY tele_stage ({NAMES}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(pack(batches, versions, now=now))


def pack(batches: Iterable[tuple[str, Batch]], versions: Mapping[Run, int], *, now: datetime) -> bytes:
    """The bytes of a binary COPY of these windows; lag_s is how far `now` is past the end of each."""
    now_us = (now - _POSTGRES_EPOCH) // timedelta(microseconds=1)
    parts = [_START]
    tail = _TAIL.pack
    for device_id, batch in batches:
        version_id = versions[batch.mid, batch.model, batch.version]
        raw = device_id.encode()
        head = _HEAD.pack(_COUNT, len(raw)) + raw
        slot, clock = batch.slot, int(batch.clock)
        for window in batch.windows:
            (
                seq,
                ts_ms,
                dt,
                n,
                us_mean,
                us_max,
                score,
                top,
                anom_max,
                anom_n,
                lab_n,
                lab_ok,
                heap,
                rssi,
                flags,
            ) = window
            ts_us = (ts_ms - _POSTGRES_EPOCH_MS) * 1000
            lag_s = int((now_us - ts_us) / 1_000_000)
            lag_s = _INT4 if lag_s > _INT4 else max(-_INT4, lag_s)
            parts.append(head)
            parts.append(
                tail(
                    8, ts_us, 8, seq, 8, version_id,
                    4, dt, 4, n, 4, us_mean, 4, us_max, 4, anom_max, 4, anom_n, 4, heap, 4, lag_s,
                    2, score, 2, top, 2, lab_n, 2, lab_ok, 2, rssi, 2, flags, 2, slot, 2, clock,
                )
            )  # fmt: skip
    parts.append(_END)
    return b"".join(parts)
