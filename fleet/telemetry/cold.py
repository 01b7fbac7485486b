"""The cold tier: a raw partition past retention becomes Parquet before it is dropped.

`<kind>/day=YYYY-MM-DD/part.parquet` under FLEET_COLD_DIR, zstd, in order of device and time, with the
names of each row's model run, so that a file can be read without this database. It is written under a
temporary name, synced, read back and compared (rows, least, greatest and sum of `seq`), and only then
renamed. A partition that did not come out the same stays in the database, says why, and is tried again; the
rule `cold_export_failed` tells people.

Off unless FLEET_COLD_DIR is set. Needs the extra `cold`.
"""

# ruff: noqa: S608 - statements are put together from names of partitions that PostgreSQL listed

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Sum

from fleet.telemetry import export_forms
from fleet.telemetry.cold_models import ColdPart
from fleet.telemetry.errors import TelemetryError

log = structlog.get_logger(__name__)

KINDS: Final = {"tele_window": "window", "tele_inference": "inference", "tele_sketch": "sketch"}
GROUP_ROWS: Final = 100_000
FETCH: Final = 5_000
CONNECT_S: Final = 5
_TYPES: Final = {20: "int64", 21: "int16", 23: "int32", 25: "string", 1043: "string", 3802: "string"}
_TIMESTAMPTZ: Final = 1184


@dataclass(frozen=True)
class Sums:
    """What must be the same in a partition and in its file. least, greatest: None without rows."""

    rows: int
    least: int | None
    greatest: int | None
    total: int


def is_on() -> bool:
    """Whether partitions are to become Parquet before they are dropped."""
    return bool(settings.COLD_DIR)


def path_of(kind: str, day: date) -> Path:
    """Where the rows of a kind and UTC day are, or would be."""
    return Path(settings.COLD_DIR) / kind / f"day={day:%Y-%m-%d}" / "part.parquet"


def is_exported(name: str) -> bool:
    """Whether a partition is in the cold tier and its file still there: then it may be dropped."""
    part = ColdPart.objects.filter(pk=name, exported_at__isnull=False).first()
    return part is not None and path_of(part.kind, part.day).is_file()


def days(kind: str, start: date, end: date) -> list[date]:
    """UTC days of [start, end] that the cold tier has, oldest first."""
    rows = ColdPart.objects.filter(kind=kind, day__gte=start, day__lte=end, exported_at__isnull=False)
    return list(rows.order_by("day").values_list("day", flat=True))


def rows(kind: str, found: Iterable[date]) -> int:
    """Rows that the files of these days hold in all."""
    parts = ColdPart.objects.filter(kind=kind, day__in=list(found), exported_at__isnull=False)
    return int(parts.aggregate(n=Sum("rows"))["n"] or 0)


def first_day(kind: str) -> date | None:
    """The oldest UTC day that the cold tier has of a kind."""
    rows = ColdPart.objects.filter(kind=kind, exported_at__isnull=False)
    return rows.order_by("day").values_list("day", flat=True).first()


def export_partitions(partitions: Iterable[tuple[str, str, date]], *, now: datetime) -> list[str]:
    """Export those (table, partition, day) that are not in the cold tier yet; names of those that are new.

    One that fails is noted with its reason and holds up no other. Raises django.db.Error when the database is
    away. Two workers at one partition waste work and nothing else: both rename the same content.
    """
    made = []
    for table, name, day in partitions:
        if table not in KINDS or is_exported(name):
            continue
        about = {"kind": KINDS[table], "day": day, "tried_at": now}
        try:
            sums, size = _export(table, name, path_of(KINDS[table], day))
        except (TelemetryError, OSError, psycopg.Error, ValueError) as error:
            problem = error.text if isinstance(error, TelemetryError) else str(error).strip()
            log.error("cold_export_failed", partition=name, reason=problem)
            values = {**about, "problem": (problem or type(error).__name__)[:256], "exported_at": None}
            ColdPart.objects.update_or_create(pk=name, defaults=values)
            continue
        values = {
            **about, "rows": sums.rows, "seq_min": sums.least, "seq_max": sums.greatest,
            "seq_sum": sums.total, "size": size, "problem": "", "exported_at": now,
        }  # fmt: skip
        ColdPart.objects.update_or_create(pk=name, defaults=values)
        made.append(name)
    return made


def _export(table: str, name: str, place: Path) -> tuple[Sums, int]:
    """Write, read back, compare, rename; what is in it and its bytes."""
    arrow = export_forms.arrow()
    if arrow is None:
        raise TelemetryError(
            "cold_export_failed", "the extra `cold` is not installed: pip install 'tinyfleet[cold]'"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        with _snapshot() as opened:
            kept = _sums_of_partition(opened, name)
            _write(arrow, opened, name, temporary)
        found = _sums_of_file(arrow, temporary)
        if found != kept:
            raise TelemetryError(
                "cold_export_failed", f"the file does not hold what {name} holds: {found}, {kept}"
            )
        size = temporary.stat().st_size
        temporary.replace(place)
        _sync(place.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return kept, size


def _snapshot() -> psycopg.Connection[Any]:
    parameters = connections.create_connection(DEFAULT_DB_ALIAS).get_connection_params()
    opened = psycopg.connect(**{**parameters, "connect_timeout": CONNECT_S})
    opened.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    opened.read_only = True
    return opened


def _sums_of_partition(opened: psycopg.Connection[Any], name: str) -> Sums:
    row = opened.execute(
        f'SELECT count(*), min(seq), max(seq), coalesce(sum(seq::numeric), 0) FROM "{name}"'.encode()
    ).fetchone()
    assert row is not None
    return Sums(row[0], row[1], row[2], int(row[3]))


def _write(arrow: Any, opened: psycopg.Connection[Any], name: str, temporary: Path) -> None:
    """All columns of the partition, and model, version and mid of each row's run."""
    with opened.cursor() as look:
        look.execute(f'SELECT * FROM "{name}" LIMIT 0'.encode())
        columns = [(one.name, one.type_code) for one in look.description or ()]
    schema = arrow.schema(
        [(column, _type(arrow, code)) for column, code in columns]
        + [(column, arrow.string()) for column in ("model", "version", "mid")]
    )
    chosen = ", ".join(f"w.{column}::text" if code == 3802 else f"w.{column}" for column, code in columns)
    with opened.cursor(name="cold") as cursor, temporary.open("wb") as file:
        cursor.execute(
            f'SELECT {chosen}, v.model, v.version, v.mid FROM "{name}" w'
            " LEFT JOIN tele_version v ON v.id = w.version_id ORDER BY w.device_id, w.ts".encode()
        )
        with arrow.parquet.ParquetWriter(file, schema, compression=export_forms.COMPRESSION) as writer:
            for group in _groups(arrow, cursor, schema):
                writer.write_table(arrow.Table.from_batches(group, schema=schema), row_group_size=GROUP_ROWS)
        file.flush()
        os.fsync(file.fileno())


def _groups(arrow: Any, cursor: Any, schema: Any) -> Iterator[list[Any]]:
    """Record batches of about GROUP_ROWS rows in all: memory is that of one group, in columns."""
    group: list[Any] = []
    while rows := cursor.fetchmany(FETCH):
        arrays = [
            arrow.array(values, type=field.type)
            for values, field in zip(zip(*rows, strict=True), schema, strict=True)
        ]
        group.append(arrow.record_batch(arrays, schema=schema))
        if len(group) * FETCH >= GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _type(arrow: Any, code: int) -> Any:
    if code == _TIMESTAMPTZ:
        return arrow.timestamp("us", tz="UTC")
    if code not in _TYPES:
        raise TelemetryError("cold_export_failed", f"a column of type {code} cannot become Parquet")
    return getattr(arrow, _TYPES[code])()


def _sums_of_file(arrow: Any, path: Path) -> Sums:
    """Read every `seq` of a file. Halves are added apart: the sum of numbers of 63 bits has no room in 64."""
    rows, least, greatest, high, low = 0, None, None, 0, 0
    with arrow.parquet.ParquetFile(path) as opened:
        for batch in opened.iter_batches(columns=["seq"]):
            values = batch.column(0).to_numpy()
            if not len(values):
                continue
            rows += len(values)
            least = int(values.min()) if least is None else min(least, int(values.min()))
            greatest = int(values.max()) if greatest is None else max(greatest, int(values.max()))
            high += int((values >> 32).sum())
            low += int((values & 0xFFFF_FFFF).sum())
    return Sums(rows, least, greatest, (high << 32) + low)


def _sync(folder: Path) -> None:
    """The rename itself must survive a power cut: the partition is dropped next."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
