"""An export over the border of retention gives what it gave before the days went to the cold tier."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from django.db import connection

from fleet.accounts.audit import Actor
from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry import cold, cold_query, export, export_jobs, ingest, partitions, retention
from fleet.telemetry.errors import QueryError
from fleet.telemetry.export import Wanted
from fleet.telemetry.export_models import ExportState
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import ColdPart
from tests.conftest import NOW
from tests.telemetry.batches import make_batch, sketch_batch
from tests.telemetry.test_labels import sampled

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)
OLD = NOW - 31 * DAY
OLDEST = (NOW - 30 * DAY).replace(hour=0)
BACK = {"window": OLD, "inference": OLD, "sketch": NOW - 91 * DAY}


@pytest.fixture(autouse=True)
def tier(transactional_db: None, settings: Any, tmp_path: Path) -> Iterator[Path]:
    """Rows of each kind from the last day that is past retention, from the first that is not, and of now."""
    settings.COLD_DIR, settings.EXPORT_DIR = str(tmp_path / "cold"), tmp_path / "exports"
    classes.ensure_default_classes(NOW)
    for name, tags in (("dev-1", ["line-1"]), ("dev-2", ["line-2"])):
        Device.objects.create(id=name, device_class_id="host-a", enrolled_at=NOW, tags=tags)
    sent = []
    for boot, at in enumerate((OLD, OLDEST, NOW - timedelta(hours=1)), start=1):
        sent += [
            Delivery("dev-1", make_batch(at, 5, boot=boot + 2**30, lab_ok=7, score_e4=8_765)),
            Delivery("dev-2", make_batch(at, 3, boot=boot, version='2,"0', mid="22" * 8)),
            Delivery("dev-1", sampled("dev-1", at, {7 + boot: 1, 70 + boot: 2}, first=20 * boot).batch),
        ]
    for boot, at in enumerate((NOW - 91 * DAY, NOW), start=5):
        sent.append(Delivery("dev-2", sketch_batch(at, boot=boot)))
    ingest.ensure_partitions(sent)
    ingest.store(sent, slot=0, now=NOW)
    yield tmp_path / "cold"
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


def wanted(kind: str = "window", form: str = "ndjson", **change: Any) -> Wanted:
    return Wanted(**{"kind": kind, "form": form, "start": BACK[kind], "end": NOW + DAY, **change})


def lines(data: bytes, form: str) -> list[str]:
    """Rows as texts that can be sorted."""
    if form == "parquet":
        return sorted(map(repr, pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()))
    if form == "csv":
        return sorted(map(repr, csv.DictReader(io.StringIO(data.decode(), newline=""))))
    return sorted(repr(json.loads(line)) for line in data.splitlines())


def read(asked: Wanted) -> list[str]:
    return lines(b"".join(export.open_export(asked, now=NOW)), asked.form)


def cooled() -> None:
    assert len(retention.cool_expired(NOW)) == 3
    assert len([one for one in retention.drop_expired(NOW) if one.rpartition("_")[0] in cold.KINDS]) == 3


def test_every_kind_and_form_has_the_same_rows_as_before() -> None:
    asked = [wanted("window", "ndjson"), wanted("inference", "csv"), wanted("sketch", "parquet")]
    before = [read(one) for one in asked]
    assert [len(rows) for rows in before] == [24, 6, 2]
    retention.cool_expired(NOW)
    assert read(asked[0]) == before[0], "in both places, and each row once"
    retention.drop_expired(NOW)
    assert [read(one) for one in asked] == before


def test_a_query_selects_in_files_what_it_selects_in_tables() -> None:
    queries = {"tag==line-1,version==9": 15, "version=='2,\"0'": 9, "tag==line-3": 0}
    before = {q: read(wanted(q=q)) for q in queries}
    assert {q: len(rows) for q, rows in before.items()} == queries
    cooled()
    assert {q: read(wanted(q=q)) for q in queries} == before


def test_a_range_may_begin_and_end_within_a_cold_day() -> None:
    start, end = OLD + timedelta(seconds=20), OLD + timedelta(seconds=40)
    before = read(wanted(start=start, end=end))
    assert len(before) == 4, "of both devices those that end after 20 and 30 s"
    cooled()
    assert read(wanted(start=start, end=end)) == before


def test_a_day_that_is_nowhere_is_named(settings: Any) -> None:
    cooled()
    with pytest.raises(QueryError) as caught:
        read(wanted(start=OLD - 2 * DAY))
    assert (caught.value.code, caught.value.available_from) == (
        "raw_expired", datetime.combine(OLD.date(), datetime.min.time(), UTC),
    )  # fmt: skip
    settings.COLD_DIR = ""
    with pytest.raises(QueryError) as caught:
        read(wanted())
    assert (caught.value.code, caught.value.available_from) == ("raw_expired", OLDEST)


def test_more_rows_than_are_streamed_are_counted_in_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cooled()
    monkeypatch.setattr(export, "MOST_ROWS", 23)
    with pytest.raises(QueryError) as caught:
        read(wanted())
    assert caught.value.code == "too_many_rows"
    monkeypatch.setattr(export, "MOST_ROWS", 24)
    assert len(read(wanted())) == 24


def test_a_large_export_is_written_from_both() -> None:
    asked = wanted(form="csv", q="tag==line-1")
    before = read(asked)
    cooled()
    job = export_jobs.ask(asked, actor=Actor("user", "olga"), now=NOW)
    while export_jobs.work(now=NOW):
        pass
    job.refresh_from_db()
    assert (job.state, job.total, job.done) == (ExportState.SUCCEEDED, 15, 15)
    file = export_jobs.file_of(job)
    assert file is not None
    assert lines(file.read_bytes(), "csv") == before


def test_a_damaged_file_ends_an_export_with_a_code() -> None:
    cooled()
    path = cold.path_of("window", OLD.date())
    path.write_bytes(b"PAR1" + b"\xff" * 400 + b"PAR1")
    with pytest.raises(QueryError) as caught:
        read(wanted())
    assert caught.value.code == "query_timeout"
    rows = cold_query.Rows("window", [OLD.date()], OLD, NOW, None)
    with pytest.raises(QueryError):
        rows.fetchmany()
    rows.close()


def test_an_answer_that_was_cut_is_not_taken_for_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for says in ('[["d", 1, 2]]\\n', '[["d", 1, 2]]\\n{"rows": 2}', "", "[[", "7\\n"):
        monkeypatch.setattr(cold_query, "_COMMAND", (sys.executable, "-Sc", f"print('{says}', end='')"))
        rows = cold_query.Rows("window", [OLD.date()], OLD, NOW, None)
        with pytest.raises(QueryError, match="query_timeout"):
            list(iter(rows.fetchmany, []))
        rows.close()
        rows.close()


def test_closing_in_the_midst_ends_the_reader() -> None:
    cooled()
    opened = export.open_export(wanted(), now=NOW)
    assert opened.chunk()
    child = opened._files._child  # type: ignore[union-attr]
    opened.close()
    assert child.returncode is not None
    assert ColdPart.objects.filter(exported_at__isnull=False).count() == 3
