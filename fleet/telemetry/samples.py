"""Sampled inferences and sketches: rows of their own, each once, however often its batch arrives.

Sketches feed histograms and accuracy (`rollups.py`), from the rows that were really inserted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection
from psycopg.types.json import Jsonb

from fleet.mqtt.codec.sketch import Sketch
from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry import rollups

_INFERENCE: Final = (
    ("sample", "int8"), ("ts", "timestamptz"), ("seq", "int8"), ("version_id", "int8"),
    ("device_id", "varchar"), ("anom", "int4"), ("us", "int4"), ("lag_s", "int4"), ("top", "int2"),
    ("score", "int2"), ("margin", "int2"), ("why", "int2"), ("slot", "int2"), ("clock", "int2"),
)  # fmt: skip
_SKETCH: Final = (
    ("ts", "timestamptz"), ("seq", "int8"), ("version_id", "int8"), ("device_id", "varchar"),
    ("duration_s", "int8"), ("n", "int4"), ("lag_s", "int4"), ("slot", "int2"), ("clock", "int2"),
    ("body", "jsonb"),
)  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INT4: Final = 2**31 - 1
_HEAD: Final = frozenset({"seq", "ts_ms", "dt_ms", "duration_s", "n"})


def store_inferences(
    batches: Sequence[tuple[str, Batch]], versions: Mapping[tuple[str, str, str], int], *, now: datetime
) -> int:
    """Keep sampled inferences that are not kept yet, inside the caller's transaction; returns how many.

    batches: device id and batch. versions: the id of each (mid, model, version). Raises django.db.Error.
    """
    _copy("tele_inference", _INFERENCE, _inference_rows(batches, versions, now))
    return _insert("tele_inference", _INFERENCE)


def store_sketches(
    batches: Sequence[tuple[str, Batch]],
    versions: Mapping[tuple[str, str, str], int],
    *,
    slot: int,
    now: datetime,
) -> int:
    """Keep sketches that are not kept yet with their rollups, as `store_inferences`. slot: the gateway's."""
    _copy("tele_sketch", _SKETCH, _sketch_rows(batches, versions, now))
    return _insert("tele_sketch", _SKETCH, rollups.FROM_SKETCHES, {"slot": slot, "now": now})


def _copy(table: str, columns: Sequence[tuple[str, str]], rows: Iterator[tuple[Any, ...]]) -> None:
    names, stage = ", ".join(name for name, _ in columns), f"{table}_stage"
    with connection.cursor() as wrapped:
        wrapped.execute(f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {table}) ON COMMIT DELETE ROWS")
        wrapped.execute(f"DELETE FROM {stage}")  # noqa: S608 - constants; an outer transaction may have stored
    with (
        connection.wrap_database_errors,
        connection.connection.cursor() as cursor,
        cursor.copy(f"COPY {stage} ({names}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types([kind for _, kind in columns])
        for row in rows:
            copy.write_row(row)


def _insert(
    table: str,
    columns: Sequence[tuple[str, str]],
    then: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Move what was copied into the table; `then`: parts of the statement that read the new rows."""
    names = ", ".join(name for name, _ in columns)
    with connection.cursor() as cursor:
        # Keys are taken in order, so that two ingesting slots cannot lock each other out.
        cursor.execute(
            f"WITH fresh AS (INSERT INTO {table} ({names}) SELECT {names} FROM {table}_stage"  # noqa: S608
            f" ORDER BY device_id, ts, seq ON CONFLICT DO NOTHING RETURNING {names})"
            f"{f', {then}' if then else ''} SELECT count(*) FROM fresh",
            parameters,
        )
        return int(cursor.fetchone()[0])


def _inference_rows(
    batches: Sequence[tuple[str, Batch]], versions: Mapping[tuple[str, str, str], int], now: datetime
) -> Iterator[tuple[Any, ...]]:
    for device_id, batch in batches:
        version_id = versions[batch.mid, batch.model, batch.version]
        for one in batch.inferences:
            ts = _EPOCH + timedelta(milliseconds=one.ts_ms)
            yield (
                batch.boot << 32 | one.k, ts, one.seq, version_id, device_id, one.anom_e3, one.us,
                _lag_s(ts, now), one.top, one.score_e4, one.margin_e4, one.why, batch.slot, int(batch.clock),
            )  # fmt: skip


def _sketch_rows(
    batches: Sequence[tuple[str, Batch]], versions: Mapping[tuple[str, str, str], int], now: datetime
) -> Iterator[tuple[Any, ...]]:
    for device_id, batch in batches:
        version_id = versions[batch.mid, batch.model, batch.version]
        for one in batch.sketches:
            ts = _EPOCH + timedelta(milliseconds=one.ts_ms)
            yield (
                ts, one.seq, version_id, device_id, one.duration_s, one.n, _lag_s(ts, now), batch.slot,
                int(batch.clock), Jsonb(sketch_body(one)),
            )  # fmt: skip


def sketch_body(sketch: Sketch) -> dict[str, Any]:
    """What a row keeps of a sketch beside its own columns: the names of `Sketch`, absent parts left out."""
    return {
        name: value for name, value in asdict(sketch).items() if name not in _HEAD and value not in (None, ())
    }


def _lag_s(ts: datetime, now: datetime) -> int:
    return max(-_INT4, min(_INT4, int((now - ts).total_seconds())))
