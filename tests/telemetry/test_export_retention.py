"""Retention that runs while an export does takes no row from it, and what it took before is told."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from fleet.accounts.audit import Actor
from fleet.telemetry import cold_export, export, export_jobs, ingest, partitions, retention
from fleet.telemetry.errors import QueryError
from fleet.telemetry.export import Wanted
from fleet.telemetry.export_models import ExportJob
from fleet.telemetry.ingest import Delivery
from tests.conftest import NOW
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)
OLD = NOW - 31 * DAY
BEFORE = NOW - DAY
"""When an export is asked for: the day of OLD is kept until the midnight that follows."""
WANTED = Wanted("window", "ndjson", OLD, NOW)
PARTITION = f"tele_window_{OLD:%Y%m%d}"


@pytest.fixture(autouse=True)
def _sent(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five windows of the day that retention takes, five of the day after it."""
    monkeypatch.setattr(retention, "WAIT_S", 1)
    sent = [Delivery("dev-1", make_batch(OLD + n * DAY, 5, boot=n + 1)) for n in range(2)]
    ingest.ensure_partitions(sent)
    ingest.store(sent, slot=0, now=NOW)
    yield
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


def rows(data: bytes) -> int:
    return len([json.loads(line) for line in data.splitlines()])


def run_after_the_snapshot(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """What another process may do while an export looks for what the cold tier has."""
    days = cold_export.days
    first = iter([run])

    def looked_up(*args: Any) -> Any:
        found = days(*args)
        next(first, lambda: None)()
        return found

    monkeypatch.setattr(cold_export, "days", looked_up)


def test_a_partition_stays_from_the_moment_of_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[list[str]] = []
    run_after_the_snapshot(monkeypatch, lambda: dropped.append(retention.drop_expired(NOW)))
    assert rows(b"".join(export.open_export(WANTED, now=BEFORE))) == 10
    assert len(dropped) == 1
    assert PARTITION not in dropped[0]
    assert PARTITION in retention.drop_expired(NOW), "the export has ended"


def test_a_day_that_goes_to_the_cold_tier_meanwhile_is_in_the_export(
    monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path
) -> None:
    settings.COLD_DIR = str(tmp_path / "cold")
    cooled: list[str] = []

    def retain() -> None:
        cooled.extend(retention.cool_expired(NOW))
        retention.drop_expired(NOW)

    run_after_the_snapshot(monkeypatch, retain)
    assert rows(b"".join(export.open_export(WANTED, now=BEFORE))) == 10
    assert PARTITION in cooled


def test_retention_between_batches_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FETCH", 2)
    parts = iter(export.open_export(WANTED, now=BEFORE))
    found = next(parts)
    for part in parts:
        assert PARTITION not in retention.drop_expired(NOW)
        found += part
    assert rows(found) == 10


def test_a_day_that_goes_before_the_snapshot_is_refused_and_not_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    condition = export.condition

    def parsed(*args: Any, **more: Any) -> Any:
        assert PARTITION in retention.drop_expired(NOW)
        return condition(*args, **more)

    monkeypatch.setattr(export, "condition", parsed)  # the last thing before the connection is opened
    with pytest.raises(QueryError) as caught:
        export.open_export(WANTED, now=BEFORE)
    assert (caught.value.code, caught.value.available_from) == ("raw_expired", (OLD + DAY).replace(hour=0))


def counted() -> ExportJob:
    """A large export that has been counted and has no part yet."""
    job = export_jobs.ask(WANTED, actor=Actor("user", "olga"), now=BEFORE)
    ticks = iter([0, 0, 9, 9])
    assert export_jobs.work(now=BEFORE, clock=lambda: next(ticks), most_s=1) == 1
    job.refresh_from_db()
    assert (job.total, job.parts) == (10, 0)
    return job


def test_a_large_export_whose_day_went_meanwhile_fails_and_says_so() -> None:
    job = counted()
    assert PARTITION in retention.drop_expired(NOW)
    export_jobs.work(now=NOW)
    job.refresh_from_db()
    assert (job.state, (job.problem or {}).get("code")) == ("failed", "raw_expired")


def test_a_large_export_goes_on_past_midnight_while_its_days_are_there() -> None:
    job = counted()
    while export_jobs.work(now=NOW):
        pass
    job.refresh_from_db()
    assert (job.state, job.done) == ("succeeded", 10)
