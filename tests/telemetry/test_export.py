"""Exports give every row once, in either format, with the memory of one batch."""

import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet
import pytest
from django.db import connection, transaction

from fleet.telemetry import export, export_forms, ingest, partitions, queries
from fleet.telemetry.errors import QueryError
from fleet.telemetry.export import Wanted, open_export
from fleet.telemetry.ingest import Delivery
from tests.conftest import NOW
from tests.telemetry.batches import make_batch, sketch_batch
from tests.telemetry.test_labels import sampled

pytestmark = pytest.mark.django_db(transaction=True)
START = NOW - timedelta(hours=1)
MANY = 80_000
MIB = 2**20


@pytest.fixture(autouse=True)
def _clean(transactional_db: None) -> Iterator[None]:
    """Partitions are no rows: flushing the database leaves them."""
    yield
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


@pytest.fixture
def sent() -> None:
    odd = {"version": '1,"0', "mid": "22" * 8}
    ingest.store(
        [
            Delivery("dev-1", make_batch(START, 5, lab_ok=7, score_e4=9_999)),
            Delivery("dev-2", make_batch(START, 3, **odd)),
            Delivery("dev-1", sampled("dev-1", START, {7: 1, 8: 2}, first=20).batch),
            Delivery("dev-2", sketch_batch(START, first=30)),
        ],
        slot=0,
        now=NOW,
    )


def wanted(**change: Any) -> Wanted:
    return Wanted(**{"kind": "window", "form": "ndjson", "start": START, "end": NOW, **change})


def read(**change: Any) -> list[dict[str, Any]]:
    asked = wanted(**change)
    text = b"".join(open_export(asked, now=NOW)).decode() if asked.form != "parquet" else ""
    if asked.form == "parquet":
        return list(table(asked).to_pylist())
    if asked.form == "csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.splitlines()]


def table(asked: Wanted) -> Any:
    return pyarrow.parquet.read_table(io.BytesIO(b"".join(open_export(asked, now=NOW))))


def test_windows_are_those_of_a_device_series(sent: None) -> None:
    found = sorted(read(), key=lambda row: (row["device_id"], row["at"]))
    series = [row for name in ("dev-1", "dev-2") for row in queries.device_series(name, START, NOW)]
    assert len(found) == len(series) >= 8
    for told, row in zip(found, series, strict=True):
        assert told["at"] == f"{row['at']:%Y-%m-%dT%H:%M:%S.000}Z"
        shared = (set(told) & set(row)) - {"at"}
        assert {"score", "heap_min_bytes", "labels_ok", "version"} <= shared
        assert {name: told[name] for name in shared} == {name: row[name] for name in shared}


@pytest.mark.parametrize("kind", export.KINDS)
def test_csv_holds_what_ndjson_holds(sent: None, kind: str) -> None:
    lines, rows = (read(kind=kind, form=form) for form in ("ndjson", "csv"))
    assert lines
    assert list(rows[0]) == list(lines[0]) == list(export.columns(kind))
    for told, row in zip(lines, rows, strict=True):
        body = told.pop("body", None)
        assert json.loads(row.pop("body", "null")) == body
        assert {name: str(value) for name, value in told.items()} == row


@pytest.mark.parametrize("kind", export.KINDS)
def test_parquet_holds_what_ndjson_holds_with_its_types(sent: None, kind: str) -> None:
    lines, rows = (read(kind=kind, form=form) for form in ("ndjson", "parquet"))
    assert lines
    for told, row in zip(lines, rows, strict=True):
        at, body = row.pop("at"), told.pop("body", None)
        assert told.pop("at") == f"{at:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
        assert json.loads(row.pop("body", "null")) == body
        assert row == told
    schema = table(wanted(kind=kind, form="parquet")).schema
    assert schema.names == list(export.columns(kind))
    assert (str(schema.field("at").type), str(schema.field("seq").type)) == ("timestamp[us, tz=UTC]", "int64")


def test_parquet_comes_in_groups_of_rows_while_it_is_read(
    sent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FETCH", 2)
    monkeypatch.setattr(export_forms, "GROUP_ROWS", 4)
    parts = list(open_export(wanted(form="parquet"), now=NOW))
    assert len(parts) >= 4
    assert pyarrow.parquet.ParquetFile(io.BytesIO(b"".join(parts))).num_row_groups == 2


def test_an_empty_parquet_has_its_columns(sent: None) -> None:
    found = table(wanted(form="parquet", q="version==9"))
    assert (found.num_rows, found.schema.names) == (0, list(export.columns("window")))


def test_parquet_without_the_extra_is_refused_and_the_extra_named(
    sent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as where it is not installed
    with pytest.raises(QueryError, match=r"tinyfleet\[cold\]") as caught:
        open_export(wanted(form="parquet"), now=NOW)
    assert caught.value.code == "format_unknown"
    assert read()


def test_sampled_inferences_carry_the_id_that_labels_use(sent: None) -> None:
    assert {row["sample_id"] for row in read(kind="inference")} == {"dev-1:1:7", "dev-1:1:8"}


def test_a_query_and_a_range_narrow_it(sent: None) -> None:
    assert {row["mid"] for row in read(q="digest==2222222222222222")} == {"22" * 8}
    assert read(q="version==9") == []
    assert (
        len(read(start=START + timedelta(seconds=10), end=START + timedelta(seconds=30), q="digest==2*")) == 2
    )


def test_an_empty_csv_has_its_head(sent: None) -> None:
    text = b"".join(open_export(wanted(form="csv", q="version==9"), now=NOW))
    assert text.decode() == ",".join(export.columns("window")) + "\r\n"


def test_a_large_export_needs_the_memory_of_one_batch(sent: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM tele_window LIMIT 0")
        given = {"seq": "i", "device_id": "'many'"}
        chosen = ", ".join(given.get(one.name, one.name) for one in cursor.description)
        cursor.execute(
            f"INSERT INTO tele_window SELECT {chosen}"
            " FROM (SELECT * FROM tele_window LIMIT 1) w, generate_series(1, %s) i",
            [MANY],
        )
    before, most, size, rows = resident(), 0, 0, 0
    for part in open_export(wanted(), now=NOW):
        size += len(part)
        rows += part.count(b"\n")
        assert part.count(b"\n") <= export.FETCH
        most = max(most, resident())
    assert rows == MANY + len(queries.device_series("dev-1", START, NOW)) + 3
    assert size > 20 * MIB
    assert most - before < 15 * MIB, f"{(most - before) / MIB:.0f} MiB for {size / MIB:.0f} MiB of rows"


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_it_is_one_snapshot(sent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FETCH", 2)
    parts = iter(open_export(wanted(q="digest==2*"), now=NOW))
    first = next(parts)
    ingest.store([Delivery("dev-3", make_batch(START, 9, version="x", mid="22" * 8))], slot=0, now=NOW)
    assert (first + b"".join(parts)).count(b"\n") == 3
    assert len(read(q="digest==2*")) == 12


def test_more_rows_than_allowed_are_refused_before_any_is_sent(
    sent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MOST_ROWS", 2)
    with pytest.raises(QueryError, match="too_many_rows"):
        open_export(wanted(), now=NOW)
    monkeypatch.setattr(export, "MOST_ROWS", 3)
    assert len(read(q="digest==2*")) == 3


def test_only_so_many_run_at_once_and_each_gives_its_place_back(sent: None) -> None:
    under_way = [open_export(wanted(), now=NOW) for _ in range(export.SLOTS)]
    with pytest.raises(QueryError, match="contended"):
        open_export(wanted(), now=NOW)
    under_way[0].close()
    assert len(read()) >= 8
    for one in under_way:
        one.close()


def test_a_cut_export_raises_instead_of_ending(sent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FETCH", 2)
    ticks = itertools.chain([0.0, 1.0, export.MOST_S + 1.0], itertools.repeat(9e9))
    parts = iter(open_export(wanted(), now=NOW, clock=lambda: next(ticks)))
    next(parts)
    with pytest.raises(TimeoutError):
        next(parts)
    parts = iter(open_export(wanted(), now=NOW))
    next(parts)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'FETCH%'"
            " AND state = 'idle in transaction'"
        )
        assert cursor.fetchall() == [(True,)]
    with pytest.raises(psycopg.OperationalError):
        next(parts)


def test_a_count_that_takes_too_long_is_ended(sent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TIMEOUT_S", 1)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE tele_window IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(QueryError, match="query_timeout"):
            open_export(wanted(), now=NOW)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("unknown_kind", {"kind": "event"}),
        ("format_unknown", {"form": "xml"}),
        ("range_invalid", {"start": NOW}),
        ("range_invalid", {"start": START.replace(tzinfo=None)}),
        ("range_too_wide", {"start": NOW - timedelta(days=400)}),
        ("raw_expired", {"start": NOW - timedelta(days=32)}),
        ("raw_expired", {"start": NOW - timedelta(days=92), "kind": "sketch"}),
    ],
)
def test_what_cannot_be_exported_has_a_code(code: str, change: dict[str, Any]) -> None:
    with pytest.raises(QueryError) as caught:
        open_export(wanted(**change), now=NOW)
    assert caught.value.code == code
    if code == "raw_expired":
        assert caught.value.available_from is not None
        open_export(wanted(**{**change, "start": caught.value.available_from}), now=NOW).close()
