"""A large export ends as one file with every row once, whoever is killed on the way."""

import csv
import errno
import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pyarrow.parquet
import pytest
from django.db import connection

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.telemetry import export, export_jobs, ingest, partitions
from fleet.telemetry.errors import ExportError, QueryError
from fleet.telemetry.export import Wanted, open_export
from fleet.telemetry.export_models import ExportJob
from fleet.telemetry.ingest import Delivery
from tests.conftest import NOW
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db(transaction=True)
START = NOW - timedelta(hours=2)
OLGA = Actor("token", "olga/tfk_1")


@pytest.fixture(autouse=True)
def _clean(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two hours of windows of two devices, and parts of about 20 rows."""
    monkeypatch.setattr(export_jobs, "PART_ROWS", 20)
    batches = [make_batch(START + timedelta(minutes=20 * n), 20, first=20 * n) for n in range(3)]
    ingest.store([Delivery(one, b) for one in ("dev-1", "dev-2") for b in batches], slot=0, now=NOW)
    yield
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


def asked(form: str = "ndjson", **change: Any) -> ExportJob:
    wanted = Wanted(**{"kind": "window", "form": form, "start": START, "end": NOW, **change})
    return export_jobs.ask(wanted, actor=OLGA, now=NOW)


def finished(job: ExportJob) -> bytes:
    while export_jobs.work(now=NOW):
        pass
    job.refresh_from_db()
    path = export_jobs.file_of(job)
    assert path is not None, (job.state, job.problem)
    assert [one.name for one in path.parent.iterdir()] == [job.filename], "only the whole file is left"
    assert job.size == path.stat().st_size
    return path.read_bytes()


def keys(data: bytes, form: str) -> list[tuple[str, int]]:
    if form == "parquet":
        rows: Any = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    else:
        rows = [json.loads(line) for line in data.splitlines()]
    return sorted((row["device_id"], int(row["seq"])) for row in rows)


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_the_file_holds_what_one_stream_would(form: str) -> None:
    job = asked(form)
    assert (job.state, job.total, job.done) == ("queued", None, 0)
    whole = b"".join(open_export(Wanted("window", form, START, NOW), now=NOW))
    found = finished(job)
    assert keys(found, form) == keys(whole, form)
    assert len(keys(found, form)) == job.total == job.done == 120
    assert job.parts >= 3
    assert [row.verb for row in AuditEvent.objects.filter(subject_kind="export")] == ["export.ask"]


def test_a_worker_that_dies_at_any_point_costs_no_row_and_doubles_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once in a part, once between a part and its count, once before the end is noted."""
    job = asked()
    real_move, real_replace, deaths = export_jobs._move, export_jobs.Path.replace, []

    def dying(at: int, real: Any) -> Any:
        calls = iter(range(1000))

        def call(*args: Any, **more: Any) -> Any:
            if next(calls) == at:
                deaths.append(at)
                raise KeyboardInterrupt  # no handler of ours may take it for a problem
            return real(*args, **more)

        return call

    for name, at in (("_move", 1), ("_move", 2), ("replace", 1), ("replace", 0)):
        with monkeypatch.context() as patch:
            if name == "_move":
                patch.setattr(export_jobs, "_move", dying(at, real_move))
            else:
                patch.setattr(export_jobs.Path, "replace", dying(at, real_replace))
            with pytest.raises(KeyboardInterrupt):
                export_jobs.work(now=NOW)
    with monkeypatch.context() as patch:
        patch.setattr(export_jobs, "_end", dying(0, None))
        with pytest.raises(KeyboardInterrupt):
            export_jobs.work(now=NOW)
    assert len(deaths) == 5
    job.refresh_from_db()
    assert job.state == "running"
    data = finished(job)
    assert len(keys(data, "ndjson")) == len(set(keys(data, "ndjson"))) == job.done == 120


def test_only_the_holder_of_its_lock_writes_a_part() -> None:
    job = asked()
    assert export_jobs._count(job, now=NOW)
    part = Wanted("window", "ndjson", START, NOW)
    held = export.open_part(part, asked_at=NOW, now=NOW, lock=export_jobs._lock(job), has_head=True)
    assert held is not None
    assert export_jobs.work(now=NOW) == 0
    held.close()
    assert export_jobs.work(now=NOW) >= 3


def test_one_worker_at_a_time_writes_exports_so_that_the_others_are_free() -> None:
    asked()
    asked("csv")
    at = connection.settings_dict
    place = {"host": at["HOST"], "port": at["PORT"], "user": at["USER"], "password": at["PASSWORD"]}
    with psycopg.connect(dbname=at["NAME"], **place) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [export_jobs._LEASE])
        assert export_jobs.work(now=NOW) == 0
        other.execute("SELECT pg_advisory_unlock(%s)", [export_jobs._LEASE])
    assert export_jobs.work(now=NOW, most_s=60) >= 6


def test_the_same_person_asking_again_gets_the_same_export_and_only_so_many_are_written() -> None:
    first = asked()
    assert asked().pk == first.pk
    others = [asked(q=f"version=={n}") for n in range(export_jobs.MOST_LIVE - 1)]
    assert len({first.pk, *(one.pk for one in others)}) == export_jobs.MOST_LIVE
    with pytest.raises(QueryError, match="contended"):
        asked("csv")


def test_a_cancelled_export_leaves_no_file_and_stays_cancelled() -> None:
    job = asked()
    assert export_jobs.work(now=NOW, most_s=0.0) == 0
    ticks = iter([0.0, 1.0, 2.0, 99.0])
    assert export_jobs.work(now=NOW, clock=lambda: next(ticks)) == 2
    assert list(export_jobs.folder(job.pk).iterdir())
    export_jobs.cancel(job, actor=OLGA, now=NOW)
    assert not export_jobs.folder(job.pk).exists()
    assert export_jobs.work(now=NOW) == 0
    with pytest.raises(ExportError) as caught:
        export_jobs.cancel(job, actor=OLGA, now=NOW)
    assert (caught.value.code, caught.value.state) == ("illegal_transition", "cancelled")


def test_a_disk_that_is_full_ends_the_export_with_its_reason_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full, fine = asked(), asked("csv")
    real = export_jobs._write

    def write(place: Any, found: Any) -> None:
        if str(full.pk) in str(place):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(place, found)

    monkeypatch.setattr(export_jobs, "_write", write)
    assert len(keys(finished(fine), "csv")) == 120
    full.refresh_from_db()
    assert (full.state, full.problem["code"]) == ("failed", "unavailable")
    assert "No space left" in full.problem["text"]
    assert not export_jobs.folder(full.pk).exists()


def test_too_many_rows_for_a_file_are_said_before_any_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_jobs, "MOST_ROWS", 119)
    job = asked()
    export_jobs.work(now=NOW)
    job.refresh_from_db()
    assert (job.state, job.problem["code"], job.done) == ("failed", "too_many_rows", 0)


def test_files_are_forgotten_after_their_time() -> None:
    job = asked()
    finished(job)
    assert export_jobs.forget(now=NOW + export_jobs.KEPT) == 0
    later: datetime = NOW + export_jobs.KEPT + timedelta(seconds=1)
    assert export_jobs.forget(now=later) == 1
    assert not export_jobs.folder(job.pk).exists()
    assert not ExportJob.objects.exists()
