"""The cold tier: a partition goes only when its file holds the same, and is read from there."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from fleet.telemetry import (
    cold,
    cold_query,
    cold_reader,
    export_forms,
    ingest,
    partitions,
    queries,
    retention,
)
from fleet.telemetry.errors import QueryError
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import ColdPart, Window
from fleet.telemetry.queries import TelemetryQuery
from tests.conftest import NOW
from tests.stack.services import wait_until
from tests.telemetry.batches import make_batch, sketch_batch
from tests.telemetry.test_labels import sampled

pytestmark = pytest.mark.django_db(transaction=True)
OLD = NOW - timedelta(days=100)


@pytest.fixture(autouse=True)
def tier(transactional_db: None, settings: Any, tmp_path: Path) -> Iterator[Path]:
    """A cold tier, and a day of each kind that is past retention."""
    settings.COLD_DIR = str(tmp_path / "cold")
    batches = [
        Delivery("dev-1", make_batch(OLD, 5, boot=2**30, lab_ok=7)),
        Delivery("dev-2", make_batch(OLD, 3)),
        Delivery("dev-1", sampled("dev-1", OLD, {7: 1, 8: 2}, first=20).batch),
        Delivery("dev-2", sketch_batch(OLD, first=30)),
    ]
    ingest.ensure_partitions(batches)
    ingest.store(batches, slot=0, now=OLD)
    yield tmp_path / "cold"
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


def raw(table: str) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} ORDER BY device_id, ts")
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def frozen(kind: str, day: date) -> list[dict[str, Any]]:
    found = export_forms.arrow().parquet.read_table(cold.path_of(kind, day)).to_pylist()
    for row in found:
        assert row.pop("model") == "activity"
        assert row.pop("version")
        assert row.pop("mid")
    return list(found)


def test_every_raw_row_is_in_the_file_before_its_partition_goes(tier: Path) -> None:
    before = {table: raw(table) for table in cold.KINDS}
    assert all(before.values())
    assert set(cold.KINDS) & {one.rpartition("_")[0] for one in retention.drop_expired(NOW)} == set()
    made = retention.cool_expired(NOW)
    assert made == [f"{table}_{OLD:%Y%m%d}" for table in cold.KINDS]
    for table, kind in cold.KINDS.items():
        assert frozen(kind, OLD.date()) == before[table]
        part = ColdPart.objects.get(kind=kind)
        seqs = [row["seq"] for row in before[table]]
        assert (part.rows, part.seq_min, part.seq_max, int(part.seq_sum)) == (
            len(seqs), min(seqs), max(seqs), sum(seqs),
        )  # fmt: skip
    assert set(made) <= set(retention.drop_expired(NOW))
    assert not Window.objects.exists()
    assert sorted(str(one.relative_to(tier)) for one in tier.rglob("*.*")) == [
        f"{kind}/day={OLD:%Y-%m-%d}/part.parquet" for kind in sorted(cold.KINDS.values())
    ]
    assert retention.cool_expired(NOW) == []


def test_a_file_that_holds_less_keeps_the_partition_and_says_why(
    tier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cold._groups

    def short(*args: Any) -> Any:
        for group in real(*args):
            yield [group[0].slice(1), *group[1:]]

    with monkeypatch.context() as patch:
        patch.setattr(cold, "_groups", short)
        assert retention.cool_expired(NOW) == []
    assert {one.exported_at for one in ColdPart.objects.all()} == {None}
    assert "does not hold what" in ColdPart.objects.get(kind="window").problem
    assert not list(tier.rglob("*.parquet*")), "nothing half-done is left"
    retention.drop_expired(NOW)
    assert Window.objects.count() == 8
    assert len(retention.cool_expired(NOW)) == 3, "it is tried again"
    assert set(ColdPart.objects.values_list("problem", flat=True)) == {""}


def test_a_file_that_vanished_is_written_again_before_the_drop(tier: Path) -> None:
    retention.cool_expired(NOW)
    cold.path_of("window", OLD.date()).unlink()
    retention.drop_expired(NOW)
    assert Window.objects.count() == 8
    assert retention.cool_expired(NOW) == [f"tele_window_{OLD:%Y%m%d}"]


def test_without_the_extra_nothing_is_dropped_and_the_reason_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_forms, "arrow", lambda: None)
    assert retention.cool_expired(NOW) == []
    retention.drop_expired(NOW)
    assert Window.objects.count() == 8
    assert "tinyfleet[cold]" in ColdPart.objects.get(kind="window").problem


def test_without_a_cold_tier_partitions_are_dropped_as_ever(settings: Any) -> None:
    settings.COLD_DIR = ""
    assert retention.cool_expired(NOW) == []
    assert f"tele_window_{OLD:%Y%m%d}" in retention.drop_expired(NOW)
    assert not ColdPart.objects.exists()


def answer(start: datetime, end: datetime) -> dict[str, Any]:
    return queries.device_answer("dev-1", start, end, now=NOW)


def test_windows_past_retention_are_read_from_the_cold_tier_and_say_so() -> None:
    ingest.store(
        [Delivery("dev-1", make_batch(NOW - timedelta(hours=1), 2, boot=2**30 + 1))], slot=0, now=NOW
    )
    before = queries.device_series("dev-1", OLD - timedelta(hours=1), NOW)
    assert len(before) == 7
    retention.cool_expired(NOW)
    both = answer(OLD - timedelta(hours=1), NOW)
    assert both["items"] == before, "exported and not dropped yet: each window once"
    retention.drop_expired(NOW)
    found = answer(OLD - timedelta(hours=1), NOW)
    assert (found["source"], found["is_cut"], found["items"]) == ("cold", False, before)
    first = before[0]["at"]
    assert [one["at"] for one in answer(first, first + timedelta(microseconds=1))["items"]] == [first]
    assert answer(NOW - timedelta(hours=2), NOW)["source"] == "raw"


def test_what_is_older_than_the_cold_tier_says_since_when_there_is_something() -> None:
    retention.cool_expired(NOW)
    with pytest.raises(QueryError) as caught:
        answer(OLD - timedelta(days=1), NOW)
    midnight = datetime.combine(OLD.date(), datetime.min.time(), UTC)
    assert (caught.value.code, caught.value.available_from) == ("raw_expired", midnight)


def test_a_question_that_raw_rows_no_longer_answer_says_where_they_are() -> None:
    retention.cool_expired(NOW)
    asked = TelemetryQuery("confidence", OLD, OLD + timedelta(hours=1), 60, agg="device_mean")
    for metric, agg, kind in (("confidence", "device_mean", "window"), ("arena_used", "max", "sketch")):
        with pytest.raises(QueryError) as caught:
            queries.query(replace(asked, metric=metric, agg=agg), now=NOW)
        assert caught.value.code == "raw_expired"
        assert f"from {OLD:%Y-%m-%d} on are in the cold tier: GET /telemetry/export?kind={kind}" in str(
            caught.value
        )


def test_a_damaged_file_is_a_coded_error_and_not_ours_to_read(tier: Path) -> None:
    retention.cool_expired(NOW)
    cold.path_of("window", OLD.date()).write_bytes(b"PAR1" + b"\xff" * 400 + b"PAR1")
    with pytest.raises(QueryError) as caught:
        answer(OLD, OLD + timedelta(hours=1))
    assert caught.value.code == "query_timeout"


def test_the_reader_opens_no_file_but_those_it_is_given(tier: Path) -> None:
    retention.cool_expired(NOW)
    mine, other = (str(cold.path_of(kind, OLD.date())) for kind in ("window", "sketch"))
    with cold_reader.limited([mine]) as opened:
        assert opened.execute("SELECT count(*) FROM read_parquet($f)", {"f": mine}).fetchall() == [(8,)]
        for refused in (f"SELECT * FROM read_parquet('{other}')", "SET enable_external_access = true"):
            with pytest.raises(duckdb.Error):
                opened.execute(refused)


def test_more_days_than_a_question_may_open_are_refused() -> None:
    for back in range(cold_query.MOST_DAYS + 1):
        day = OLD.date() + timedelta(days=back)
        ColdPart.objects.create(name=f"w{back}", kind="window", day=day, tried_at=NOW, exported_at=NOW)
    with pytest.raises(QueryError) as caught:
        answer(OLD, OLD + timedelta(days=cold_query.MOST_DAYS))
    assert caught.value.code == "range_too_wide"


def test_the_command_cools_and_drops_and_ends_badly_when_a_day_is_kept(
    settings: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real clock, for which these days are long past."""
    with monkeypatch.context() as patch:
        patch.setattr(export_forms, "arrow", lambda: None)
        with pytest.raises(CommandError, match=r"cold_export_failed: tele_.*tinyfleet\[cold\]"):
            call_command("telemetry", "cool")
    assert Window.objects.exists()
    call_command("telemetry", "cool")
    assert f"tele_window_{OLD:%Y%m%d} is in the cold tier" in capsys.readouterr().out
    assert not Window.objects.exists()
    settings.COLD_DIR = ""
    with pytest.raises(CommandError, match="not_set_up"):
        call_command("telemetry", "cool")


COUNTING = """
import json, sys, psycopg
with psycopg.connect(sys.argv[1]) as opened:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    query = "SELECT count(*) FROM pg_stat_activity WHERE " + others
    json.dump({"rows": opened.execute(query).fetchall()}, sys.stdout)
"""


def test_whoever_waits_for_a_file_holds_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    retention.cool_expired(NOW)
    found = connection.settings_dict
    url = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**found)
    monkeypatch.setattr(cold_query, "_COMMAND", (sys.executable, "-c", COUNTING, url))
    assert cold_query.windows("dev-1", OLD - timedelta(days=1), OLD + timedelta(days=1), limit=9) == [(0,)]


def test_only_so_many_files_are_read_at_once_and_the_next_is_told_to_come_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    retention.cool_expired(NOW)
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    begun.mkdir()
    waiting = (
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1], str(os.getpid())).touch()\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.02)\n"
        "print('{\"rows\": []}')"
    )
    monkeypatch.setattr(cold_query, "_COMMAND", (sys.executable, "-c", waiting, str(begun), str(ended)))
    monkeypatch.setattr(cold_query, "WAIT_S", 0.1)

    def ask() -> list[Any]:
        try:
            return cold_query.windows("dev-1", OLD - timedelta(days=1), OLD + timedelta(days=1), limit=9)
        finally:
            connection.close()

    with ThreadPoolExecutor(cold_query.READERS) as threads:
        under_way = [threads.submit(ask) for _ in range(cold_query.READERS)]
        try:
            wait_until(lambda: len(list(begun.iterdir())) == cold_query.READERS, what="the readers")
            with pytest.raises(QueryError, match="contended"):
                ask()
        finally:
            ended.touch()
        assert [one.result() for one in under_way] == [[]] * cold_query.READERS
    assert ask() == []
