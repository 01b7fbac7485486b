"""Each answer from a rollup equals a plain recomputation from raw rows: compacted, open or dirty alike."""

import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from django.db import connection

from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry import compaction, ingest, queries
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import DirtyHour, Hour
from fleet.telemetry.queries import QueryError, TelemetryQuery
from tests.conftest import NOW
from tests.telemetry.batches import make_batch, sketch_batch
from tests.vectors.sketches import times as packed_times

pytestmark = pytest.mark.django_db
MIDS = {"1": "11" * 8, "2": "22" * 8}
DAYS_2 = NOW.replace(hour=0) - timedelta(days=2)
HOUR, DAY = 3600, 86_400
Row = dict[str, Any]


@pytest.fixture(params=["compacted", "open", "half, with late records"])
def fleet(request: pytest.FixtureRequest, db: None) -> list[tuple[str, str, datetime, list[int]]]:
    """Six devices over 60 hours; returns (device, version, end, times) of every sketch."""
    rng = random.Random(7)
    classes.ensure_default_classes(NOW)
    for i in range(6):
        name = "host-a" if i < 4 else "host-b"
        Device.objects.create(
            id=f"dev-{i}", device_class_id=name, enrolled_at=NOW, tags=["even"] * (1 - i % 2)
        )
    sent, measured = [], []
    for n in range(180):
        device, version = rng.randrange(6), rng.choice(list(MIDS))
        at = NOW - timedelta(minutes=rng.randrange(20, 60 * 60))
        named = {"first": 10 * n, "mid": MIDS[version], "version": version}
        if n % 3 == 0:
            times = [rng.randrange(400, 40_000) for _ in range(rng.randrange(10, 31))]
            sent.append(Delivery(f"dev-{device}", sketch_batch(at, histogram(times, rng), **named)))
            measured.append((f"dev-{device}", version, at + timedelta(minutes=15), times))
            continue
        values = {
            "n": rng.randrange(10, 50), "us_mean": rng.randrange(900, 3000),
            "us_max": rng.randrange(3000, 9000), "score_e4": rng.randrange(3000, 10_000),
            "anom_n": rng.randrange(5), "lab_ok": rng.randrange(9), "lab_n": rng.choice([0, 8, 10]),
        }  # fmt: skip
        values["lab_ok"] = min(values["lab_ok"], values["lab_n"])
        sent.append(Delivery(f"dev-{device}", make_batch(at, 2, dt_ms=90_000, **named, **values)))
    if request.param != "half, with late records":
        ingest.store(sent, slot=0, now=NOW)
        while request.param == "compacted" and compaction.run(NOW):
            pass
        return measured
    ingest.store(sent[:90], slot=0, now=NOW)
    while compaction.run(NOW - timedelta(hours=20)):
        pass
    ingest.store(sent[50:], slot=1, now=NOW)
    assert (Hour.objects.count() > 20, DirtyHour.objects.count() > 10) == (True, True)
    return measured


def histogram(times: list[int], rng: random.Random) -> dict[int, Any]:
    shift, pairs = packed_times(times)
    n = len(times)
    golden = rng.randrange(5)
    return {
        2: n, 3: [n], 4: [0] * 9 + [n], 6: [max(times), shift, *(x for pair in pairs for x in pair)],
        10: [4, golden, 3],
    }  # fmt: skip


def raw(table: str) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT w.*, v.version, v.mid, coalesce(d.device_class_id, '') AS device_class FROM {table} w"
            " JOIN tele_version v ON v.id = w.version_id LEFT JOIN devices_device d ON d.id = w.device_id"
        )
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def split(rows: list[Row], step_s: int, *labels: str) -> dict[tuple[Any, ...], list[Row]]:
    found = defaultdict(list)
    for row in rows:
        bucket = datetime.fromtimestamp(row["ts"].timestamp() // step_s * step_s, UTC)
        found[bucket, *(str(row[label]) for label in labels)].append(row)
    return found


def ask(metric: str, step_s: int, **more: Any) -> queries.TelemetryResult:
    asked: dict[str, Any] = {"start": DAYS_2, "end": NOW, "group_by": ("version",), **more}
    return queries.query(TelemetryQuery(metric, step_s=step_s, **asked), now=NOW)


def points(result: queries.TelemetryResult) -> dict[tuple[Any, ...], queries.Point]:
    return {
        (point.t, *one.labels.values()): point for one in result.series for point in one.points if point.n
    }


def golden(row: Row) -> tuple[int, int]:
    n, ok, _ = json.loads(row["body"]).get("golden") or (0, 0, 0)
    return ok, n


TERMS: dict[str, tuple[str, dict[str, str], Callable[[Row], tuple[float, int]]]] = {
    "proxy": ("tele_window", {"metric": "accuracy", "kind": "proxy"}, lambda w: (w["lab_ok"], w["lab_n"])),
    "golden": ("tele_sketch", {"metric": "accuracy", "kind": "golden"}, golden),
    "anomalies": ("tele_window", {"metric": "anomaly_rate"}, lambda w: (w["anom_n"], w["n"])),
    "latency": ("tele_window", {"metric": "latency_us"}, lambda w: (w["us_mean"] * w["n"], w["n"])),
    "confidence": ("tele_window", {"metric": "confidence"}, lambda w: (w["score"] * w["n"] / 1e4, w["n"])),
}


def test_means_by_the_hour_equal_raw(fleet: Any) -> None:
    for name, (table, asked, terms) in TERMS.items():
        rows = [row for row in raw(table) if row["ts"] >= DAYS_2]
        for step_s, group, column in (
            (HOUR, "version", "version"), (6 * HOUR, "device_class", "device_class"), (DAY, "digest", "mid"),
        ):  # fmt: skip
            result = ask(step_s=step_s, agg="mean", group_by=(group,), **asked)
            assert (result.source, result.gaps, result.as_of) == ("hour", 0, NOW)
            wanted = {}
            for key, some in split(rows, step_s, column).items():
                sums = [terms(row) for row in some]
                if n := sum(below for _, below in sums):
                    wanted[key] = (pytest.approx(sum(above for above, _ in sums) / n), n)
            assert {key: (point.value, point.n) for key, point in points(result).items()} == wanted, name
            assert len(wanted) > 3


def test_means_over_devices_equal_raw(fleet: Any) -> None:
    for name, (table, asked, terms) in TERMS.items():
        for start, source in ((DAYS_2, "day"), (DAYS_2 + timedelta(hours=3), "raw")):
            result = ask(step_s=DAY, agg="device_mean", start=start, **asked)
            assert result.source == source
            wanted = {}
            rows = [row for row in raw(table) if row["ts"] >= start]
            for key, some in split(rows, DAY, "version").items():
                sums: dict[str, list[float]] = defaultdict(lambda: [0, 0])
                for row in some:
                    above, below = terms(row)
                    sums[row["device_id"]][0] += above
                    sums[row["device_id"]][1] += below
                means = [above / below for above, below in sums.values() if below]
                n = sum(below for _, below in sums.values())
                wanted[key] = (pytest.approx(statistics.mean(means)), len(means), n)
            found = {key: (p.value, p.n_devices, p.n) for key, p in points(result).items()}
            assert found == wanted, name


def test_percentiles_equal_those_of_the_times(fleet: list[tuple[str, str, datetime, list[int]]]) -> None:
    for step_s, source in ((HOUR, "hour"), (12 * HOUR, "hour"), (DAY, "day")):
        for percent in (50, 95, 99.9):
            result = ask("latency_us", step_s, agg=f"p{percent:g}")
            assert result.source == source
            check_percentiles(points(result), fleet, step_s, percent, DAYS_2)


def test_percentiles_of_some_devices_or_a_cut_hour_are_read_from_sketches(
    fleet: list[tuple[str, str, datetime, list[int]]],
) -> None:
    few = [one for one in fleet if one[0] in ("dev-0", "dev-2", "dev-4")]
    for result in (
        ask("latency_us", DAY, agg="p95", devices=("dev-0", "dev-2", "dev-4")),
        ask("latency_us", DAY, agg="p95", q="tag==even"),
    ):
        assert result.source == "raw"
        check_percentiles(points(result), few, DAY, 95, DAYS_2)
    start = DAYS_2 + timedelta(minutes=7)
    result = ask("latency_us", HOUR, agg="p50", start=start)
    assert result.source == "raw"
    check_percentiles(points(result), fleet, HOUR, 50, start)


def check_percentiles(
    found: dict[tuple[Any, ...], queries.Point],
    measured: list[tuple[str, str, datetime, list[int]]],
    step_s: int,
    percent: float,
    start: datetime,
) -> None:
    wanted: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for _, version, end, times in measured:
        if end >= start:
            bucket = datetime.fromtimestamp(end.timestamp() // step_s * step_s, UTC)
            wanted[bucket, version] += times
    assert {key: point.n for key, point in found.items()} == {key: len(all_) for key, all_ in wanted.items()}
    for key, times in wanted.items():
        exact = np.quantile(times, percent / 100, method="inverted_cdf")
        assert found[key].value == pytest.approx(exact, rel=0.0101)


def test_the_largest_value_and_sums_come_from_hours_too(fleet: Any) -> None:
    rows = split([row for row in raw("tele_window") if row["ts"] >= DAYS_2], DAY, "version")
    for metric, agg, of in (
        ("latency_us", "max", lambda found: max(w["us_max"] for w in found)),
        ("inferences", "sum", lambda found: sum(w["n"] for w in found)),
    ):
        result = ask(metric, DAY, agg=agg)
        assert result.source == "hour"
        assert {key: point.value for key, point in points(result).items()} == {
            key: of(found) for key, found in rows.items()
        }


@pytest.mark.parametrize(
    ("change", "source"),
    [
        ({}, "hour"),
        ({"step_s": 1800}, "minute"),
        ({"step_s": 30, "start": NOW - timedelta(hours=3)}, "raw"),
        ({"start": DAYS_2 + timedelta(minutes=1)}, "minute"),
        ({"end": NOW - timedelta(minutes=1)}, "minute"),
        ({"end": NOW + timedelta(minutes=1)}, "hour"),
        ({"q": "version==1"}, "hour"),
        ({"q": "tag==even"}, "raw"),
        ({"q": "tag==even", "step_s": DAY}, "day"),
        ({"devices": ("dev-1",), "group_by": ("device",), "step_s": DAY}, "day"),
        ({"start": NOW.replace(hour=0) - timedelta(days=200), "step_s": DAY}, "hour"),
        ({"start": NOW.replace(hour=0) - timedelta(days=200), "step_s": DAY, "agg": "device_mean"}, "day"),
    ],
)
def test_the_coarsest_source_that_fits_is_read(change: dict[str, Any], source: str, db: None) -> None:
    classes.ensure_default_classes(NOW)
    asked = {"step_s": HOUR, "kind": "proxy", "agg": "mean", **change}
    assert ask("accuracy", **asked).source == source


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("raw_expired", {"start": DAYS_2 - timedelta(days=40), "devices": ("a",), "step_s": DAY + 60}),
        ("raw_expired", {"start": DAYS_2 - timedelta(days=40, minutes=-1), "step_s": DAY}),
        ("raw_expired", {"start": DAYS_2 - timedelta(days=450), "end": DAYS_2 - timedelta(days=440)}),
        ("quantile_range", {"metric": "latency_us", "kind": "", "agg": "p0"}),
        ("quantile_range", {"metric": "latency_us", "kind": "", "agg": "p100"}),
        ("quantile_range", {"metric": "latency_us", "kind": "", "agg": "p-5"}),
        ("step_not_supported", {"metric": "latency_us", "kind": "", "agg": "p95", "step_s": 5400}),
        (
            "too_many_points",
            {"metric": "latency_us", "kind": "", "agg": "p95", "start": DAYS_2 - 85 * timedelta(1)},
        ),
        ("unknown_kind", {"kind": "guess"}),
        ("kind_required", {"kind": ""}),
    ],
)
def test_what_no_rollup_can_answer_has_a_code(code: str, change: dict[str, Any], db: None) -> None:
    asked = {"metric": "accuracy", "step_s": HOUR, "kind": "proxy", "agg": "mean", **change}
    with pytest.raises(QueryError) as caught:
        ask(**asked)
    assert caught.value.code == code
    if code == "too_many_points":
        assert ask(**{**asked, "step_s": caught.value.least_step_s}).series == []


def test_memory_and_resets_are_read_from_raw_rows(fleet: Any) -> None:
    for metric, agg, table, told, fold in (
        ("heap_min_free", "min", "tele_window", lambda row: row["heap_min"] * 64, min),
        ("arena_used", "max", "tele_sketch", lambda row: json.loads(row["body"])["arena_used_bytes"], max),
        ("resets", "sum", "tele_sketch", resets, sum),
    ):
        for step_s, group, column in ((HOUR, "version", "version"), (DAY, "device_class", "device_class")):
            result = ask(metric, step_s, group_by=(group,))
            assert (result.source, result.agg) == ("raw", agg)
            rows = [row for row in raw(table) if row["ts"] >= DAYS_2]
            wanted = {
                key: (fold([told(row) for row in some]), len(some))
                for key, some in split(rows, step_s, column).items()
            }
            assert wanted
            assert {key: (one.value, one.n) for key, one in points(result).items()} == wanted
    with pytest.raises(QueryError) as caught:
        ask("heap_min_free", DAY, start=DAYS_2 - timedelta(days=40))
    assert (caught.value.code, caught.value.least_step_s) == ("raw_expired", None)


def resets(row: Row) -> int:
    return sum(n for _, n in json.loads(row["body"]).get("resets", []))


def test_the_most_anomalous_devices_equal_raw(fleet: Any) -> None:
    midnight = NOW.replace(hour=0)
    for exact, start in ((False, midnight - timedelta(days=1)), (True, NOW - timedelta(hours=24))):
        found = queries.top_anomalous(now=NOW, exact=exact)
        assert (found.source, found.start, found.as_of) == ("raw" if exact else "day", start, NOW)
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for row in raw("tele_window"):
            if row["ts"] >= start:
                one = sums[row["device_id"]]
                sums[row["device_id"]] = [
                    one[0] + row["anom_n"],
                    one[1] + row["n"],
                    max(one[2], row["anom_max"]),
                ]
        wanted = sorted(((wilson(a, n), d, a, n, top) for d, (a, n, top) in sums.items()), reverse=True)
        assert [(one.device_id, one.anomalies, one.inferences) for one in found.items] == [
            (d, a, n) for _, d, a, n, _ in wanted
        ]
        assert [one.lower for one in found.items] == pytest.approx([lower for lower, *_ in wanted])
        assert found.items[0].value == pytest.approx(wanted[0][2] / wanted[0][3])
    assert {one.device_id for one in queries.top_anomalous(now=NOW, q="tag==even").items} <= {
        "dev-0", "dev-2", "dev-4",
    }  # fmt: skip
    assert len(queries.top_anomalous(now=NOW, limit=2).items) == 2


def wilson(a: int, n: int) -> float:
    z = statistics.NormalDist().inv_cdf(0.975)
    p = a / n
    return (p + z * z / (2 * n) - z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)


def test_what_is_known_of_a_version_is_the_same_from_hours_as_from_raw(fleet: Any) -> None:
    found = queries.version_summary([*MIDS.values(), "33" * 8])
    assert set(found) == set(MIDS.values())
    for version, mid in MIDS.items():
        rows = [row for row in raw("tele_window") if row["version"] == version]
        minutes = [row["ts"].replace(second=0, microsecond=0) for row in rows]
        told = found[mid]
        n = sum(w["n"] for w in rows)
        assert (told["windows"], told["inferences"]) == (len(rows), n)
        assert told["accuracy"] == pytest.approx(
            sum(w["lab_ok"] for w in rows) / sum(w["lab_n"] for w in rows)
        )
        assert told["latency_mean_us"] == pytest.approx(sum(w["us_mean"] * w["n"] for w in rows) / n)
        assert (told["first_at"], told["last_at"]) == (min(minutes), max(minutes))


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("limit", {"limit": 0}),
        ("limit", {"limit": 501}),
        ("range_invalid", {"start": NOW, "end": NOW}),
        ("range_invalid", {"start": NOW.replace(tzinfo=None)}),
        ("range_invalid", {"start": NOW - timedelta(hours=5)}),
        ("range_invalid", {"start": DAYS_2, "end": NOW - timedelta(hours=5)}),
        ("range_too_wide", {"start": DAYS_2 - timedelta(days=400)}),
        ("raw_expired", {"start": DAYS_2 - timedelta(days=31), "exact": True}),
    ],
)
def test_a_top_list_that_cannot_be_answered_has_a_code(code: str, asked: dict[str, Any], db: None) -> None:
    with pytest.raises(QueryError) as caught:
        queries.top_anomalous(now=NOW, **asked)
    assert caught.value.code == code


def test_a_device_series_says_what_it_is_and_what_it_leaves_off(db: None) -> None:
    for n in range(34):
        batch = make_batch(NOW - timedelta(minutes=60 - n), 60, dt_ms=1000, first=100 * n)
        ingest.store([Delivery("dev-1", batch)], slot=0, now=NOW)
    found = queries.device_answer("dev-1", NOW - timedelta(hours=2), NOW, now=NOW)
    assert (len(found["items"]), found["is_cut"], found["source"], found["as_of"]) == (2000, True, "raw", NOW)
    found = queries.device_answer("dev-1", NOW - timedelta(minutes=50), NOW, now=NOW)
    assert (0 < len(found["items"]) < 2000, found["is_cut"]) == (True, False)
    for code, start in (("range_invalid", NOW), ("raw_expired", NOW - timedelta(days=31))):
        with pytest.raises(QueryError) as caught:
            queries.device_answer("dev-1", start, NOW, now=NOW)
        assert caught.value.code == code
