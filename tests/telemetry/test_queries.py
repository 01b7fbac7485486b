"""Each answer equals a plain recomputation from the windows that were sent."""

import random
import statistics
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from fleet.devices import classes
from fleet.devices.models import Device, DeviceEvent
from fleet.telemetry import ingest, queries
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.intervals import t_quantile
from fleet.telemetry.queries import QueryError, Span, TelemetryQuery
from tests.conftest import NOW
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db
V1, V2 = "11" * 8, "22" * 8
START = NOW - timedelta(minutes=10)


@pytest.fixture
def sent(db: None) -> list[Delivery]:
    """20 devices, half of them on version 2, one window each 10 s for 10 minutes with random counts."""
    rng = random.Random(5)
    classes.ensure_default_classes(NOW)
    deliveries = []
    for i in range(20):
        Device.objects.create(
            id=f"dev-{i:02}", device_class_id="host-a" if i < 15 else "host-b", enrolled_at=NOW
        )
        for k in range(60):
            labels = rng.randrange(1, 11)
            deliveries.append(
                Delivery(
                    f"dev-{i:02}",
                    make_batch(
                        START + timedelta(seconds=10 * k - 10),
                        first=k,
                        mid=V2 if i % 2 else V1,
                        version="2" if i % 2 else "1",
                        n=10,
                        us_mean=rng.randrange(1000, 2000),
                        us_max=rng.randrange(2000, 9000),
                        anom_n=rng.randrange(3),
                        lab_n=labels,
                        lab_ok=rng.randrange(labels + 1),
                    ),
                )
            )
    ingest.store(deliveries, slot=0, now=NOW)
    ingest.store(rng.choices(deliveries, k=50), slot=1, now=NOW)
    return deliveries


def windows(sent: list[Delivery], start: datetime, end: datetime, **match: Any) -> list[Any]:
    return [
        (one.device_id, window)
        for one in sent
        for window in one.batch.windows
        if start.timestamp() * 1000 <= window.ts_ms < end.timestamp() * 1000
        and all(getattr(one.batch, name) == value for name, value in match.items())
    ]


def ask(metric: str, step_s: int = 60, **more: Any) -> queries.TelemetryResult:
    return queries.query(TelemetryQuery(metric, START, NOW, step_s, **more), now=NOW)


@pytest.mark.parametrize(("step_s", "source"), [(60, "minute"), (300, "minute"), (10, "raw")])
def test_pooled_accuracy_by_version(sent: list[Delivery], step_s: int, source: str) -> None:
    result = ask("accuracy", step_s, kind="proxy", agg="mean", group_by=("version",))
    assert (result.source, [one.labels for one in result.series]) == (
        source,
        [{"version": "1"}, {"version": "2"}],
    )
    for one in result.series:
        assert len(one.points) == 600 // step_s
        for point in one.points:
            rows = windows(sent, point.t, point.t + timedelta(seconds=step_s), version=one.labels["version"])
            assert point.n == sum(w.lab_n for _, w in rows)
            assert point.value == pytest.approx(sum(w.lab_ok for _, w in rows) / point.n)


def test_accuracy_with_devices_as_the_unit_has_an_interval(sent: list[Delivery]) -> None:
    result = ask("accuracy", 300, kind="proxy", group_by=("digest", "version"))
    assert (result.agg, result.source) == ("device_mean", "raw")
    point = result.series[0].points[1]
    rows = windows(sent, point.t, point.t + timedelta(seconds=300), version="1")
    means = [
        sum(w.lab_ok for d, w in rows if d == device) / sum(w.lab_n for d, w in rows if d == device)
        for device in sorted({d for d, _ in rows})
    ]
    half = t_quantile(9) * statistics.stdev(means) / 10**0.5
    assert point.n_devices == 10
    assert point.value == pytest.approx(statistics.mean(means))
    assert (point.lower, point.upper) == pytest.approx((point.value - half, point.value + half))


def test_latency_anomalies_and_inferences(sent: list[Delivery]) -> None:
    rows = windows(sent, START, NOW)
    (mean,) = ask("latency_us", 600, agg="mean").series
    (most,) = ask("latency_us", 600, agg="max").series
    (share,) = ask("anomaly_rate", 600, agg="mean").series
    (runs,) = ask("inferences", 600).series
    assert mean.points[0].value == pytest.approx(statistics.mean(w.us_mean for _, w in rows))
    assert most.points[0].value == max(w.us_max for _, w in rows)
    assert share.points[0].value == pytest.approx(sum(w.anom_n for _, w in rows) / sum(w.n for _, w in rows))
    assert runs.points[0].value == sum(w.n for _, w in rows) == runs.points[0].n


def test_groups_of_class_and_of_single_devices(sent: list[Delivery]) -> None:
    by_class = ask("inferences", 600, group_by=("device_class",)).series
    assert {one.labels["device_class"]: one.n for one in by_class} == {"host-a": 9000, "host-b": 3000}
    few = ask("latency_us", 60, agg="max", group_by=("device",), devices=("dev-03", "dev-04"))
    assert [one.labels for one in few.series] == [{"device": "dev-03"}, {"device": "dev-04"}]
    assert few.source == "raw"
    assert ask("inferences", 600, device_classes=("host-b",), versions=("1",)).series[0].n == 1200


def test_an_empty_bucket_is_null_and_no_zero(sent: list[Delivery]) -> None:
    question = TelemetryQuery("accuracy", NOW - timedelta(hours=1), NOW, 600, kind="proxy", agg="mean")
    (one,) = queries.query(question, now=NOW).series
    assert [(point.value, point.n) for point in one.points[:5]] == [(None, 0)] * 5
    assert one.points[5].value is not None


def test_buckets_after_as_of_are_partial(sent: list[Delivery]) -> None:
    question = TelemetryQuery("inferences", START, NOW + timedelta(minutes=2), 60)
    (one,) = queries.query(question, now=NOW + timedelta(seconds=30)).series
    assert [point.partial for point in one.points] == [False] * 10 + [True] * 2


def test_a_limit_keeps_the_largest_series_and_says_so(sent: list[Delivery]) -> None:
    result = ask("inferences", 600, group_by=("device_class",), limit=1)
    assert ([one.labels for one in result.series], result.series_left_off) == (
        [{"device_class": "host-a"}],
        1,
    )


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("unknown_metric", {"metric": "speed"}),
        ("kind_required", {"kind": ""}),
        ("unknown_kind", {"kind": "guess"}),
        ("agg_not_supported", {"kind": "estimate", "agg": "count"}),
        ("unknown_kind", {"metric": "inferences"}),
        ("agg_not_supported", {"agg": "p95"}),
        ("group_by_not_supported", {"group_by": ("arm",)}),
        ("group_by_not_supported", {"group_by": ("model", "model")}),
        ("group_by_not_supported", {"group_by": ("device",)}),
        ("step_not_supported", {"step_s": 90}),
        ("step_not_supported", {"step_s": 0}),
        ("range_invalid", {"end": START}),
        ("range_invalid", {"start": START.replace(tzinfo=None)}),
        ("range_too_wide", {"start": NOW - timedelta(days=400)}),
        ("raw_expired", {"start": NOW - timedelta(days=32), "step_s": 86_400}),
        ("too_many_points", {"start": NOW - timedelta(days=2)}),
    ],
)
def test_bad_questions_have_codes(code: str, change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"metric": "accuracy", "kind": "proxy", "start": START, "end": NOW, "step_s": 60}
    with pytest.raises(QueryError) as caught:
        queries.query(TelemetryQuery(**{**fields, **change}), now=NOW)
    assert caught.value.code == code
    if code == "too_many_points":
        least = caught.value.least_step_s
        assert least == 120
        queries.query(TelemetryQuery(**{**fields, **change, "step_s": least}), now=NOW)


def test_more_series_than_allowed_are_refused(db: None) -> None:
    many = [Delivery("dev-1", make_batch(NOW, first=i, mid=f"{i:016x}", version=str(i))) for i in range(51)]
    ingest.store(many, slot=0, now=NOW)
    question = TelemetryQuery("inferences", NOW, NOW + timedelta(minutes=1), 60, group_by=("version",))
    with pytest.raises(QueryError, match="51 series"):
        queries.query(question, now=NOW)


def test_outcomes_of_spans_in_their_order(sent: list[Delivery]) -> None:
    middle = START + timedelta(minutes=5)
    spans = [
        Span("dev-01", V2, START, middle, expected=30),
        Span("dev-00", None, middle, NOW, expected=60),
        Span("dev-00", V2, START, NOW),
        Span("nobody", None, START, NOW),
    ]
    for metric, kind in (("accuracy", "proxy"), ("anomaly", ""), ("reporting", "")):
        got = queries.device_outcomes(spans, metric=metric, kind=kind)
        for span, outcome in zip(spans, got, strict=True):
            rows = [w for d, w in windows(sent, span.start, span.end) if d == span.device_id]
            rows = [] if span is spans[2] else rows
            assert outcome.windows == len(rows)
            n = sum(w.lab_n for w in rows) if metric == "accuracy" else sum(w.n for w in rows)
            if metric == "accuracy":
                assert outcome.mean == (pytest.approx(sum(w.lab_ok for w in rows) / n) if n else None)
            elif metric == "anomaly":
                assert outcome.mean == (pytest.approx(1 - sum(w.anom_n for w in rows) / n) if n else None)
    assert [one.mean for one in queries.device_outcomes(spans, metric="reporting")] == [1.0, 0.5, None, None]
    assert queries.device_outcomes([], metric="anomaly") == []
    with pytest.raises(QueryError, match="kind_required"):
        queries.device_outcomes(spans, metric="accuracy")


def test_which_devices_have_reported_a_model(sent: list[Delivery]) -> None:
    def count(names: list[str], mid: str, since: datetime) -> int:
        devices = Device.objects.filter(pk__in=names).values_list("pk", flat=True)
        return queries.count_reporting(devices, mid, since)

    assert [count([name], V2, START) for name in ("dev-00", "dev-01", "nobody")] == [0, 1, 0]
    assert count(["dev-00", "dev-01"], V1, NOW) == 0
    assert count(["dev-00", "dev-01"], "44" * 8, START) == 0
    with connection.cursor() as cursor:  # a newer window of another model is the last one now
        cursor.execute(
            "UPDATE tele_device_last SET version_id = (SELECT id FROM tele_version WHERE mid = %s)", [V1]
        )
    assert [count([name], V2, START) for name in ("dev-00", "dev-01")] == [0, 1]


def test_summary_series_and_last_values(sent: list[Delivery]) -> None:
    rows = [w for _, w in windows(sent, START, NOW, version="2")]
    summary = queries.version_summary([V2, "33" * 8])
    assert list(summary) == [V2]
    told = summary[V2]
    assert (told["model"], told["version"], told["windows"]) == ("activity", "2", 600)
    assert told["accuracy"] == pytest.approx(sum(w.lab_ok for w in rows) / sum(w.lab_n for w in rows))
    assert told["latency_max_us"] == max(w.us_max for w in rows)
    series = queries.device_series("dev-05", START, NOW)
    assert [row["at"] for row in series] == [START + timedelta(seconds=10 * k) for k in range(60)]
    last = queries.last_values(["dev-05", "nobody"])
    assert list(last) == ["dev-05"]
    assert last["dev-05"] == series[-1]
    assert last["dev-05"]["accuracy"] == pytest.approx(series[-1]["labels_ok"] / series[-1]["labels"])
    assert [row["seq"] for row in queries.device_series("dev-05", START, NOW, limit=2)] == [
        series[-2]["seq"],
        series[-1]["seq"],
    ]


@pytest.mark.parametrize(
    ("df", "t"), [(1, 12.7062), (20, 2.0860), (21, 2.0796), (30, 2.0423), (60, 2.0003), (10**6, 1.96)]
)
def test_student_quantiles(df: int, t: float) -> None:
    assert t_quantile(df) == pytest.approx(t, abs=1e-4)


def test_latency_is_the_share_of_windows_within_the_budget(sent: list[Delivery]) -> None:
    spans = [Span("dev-01", V2, START, NOW), Span("dev-01", V1, START, NOW), Span("nobody", None, START, NOW)]
    got = queries.device_outcomes(spans, metric="latency", budget_us=1400)
    rows = [w for d, w in windows(sent, START, NOW) if d == "dev-01"]
    good = sum(w.us_mean <= 1400 for w in rows)
    assert 0 < good < len(rows)
    assert got[0] == queries.Outcome(len(rows), good / len(rows), len(rows))
    assert [one.mean for one in got[1:]] == [None, None]
    with pytest.raises(QueryError, match="budget_required"):
        queries.device_outcomes(spans, metric="latency")


def test_an_estimate_is_the_mean_top_score_of_inferences(sent: list[Delivery]) -> None:
    (got,) = queries.device_outcomes([Span("dev-01", V2, START, NOW)], metric="accuracy", kind="estimate")
    rows = [w for d, w in windows(sent, START, NOW) if d == "dev-01"]
    assert got.mean == pytest.approx(sum(w.score_e4 * w.n for w in rows) / sum(w.n for w in rows) / 1e4)


def test_resets_are_slots_with_an_unexpected_boot(sent: list[Delivery]) -> None:
    minute = timedelta(minutes=1)
    boots = [(0.5, "watchdog"), (0.7, "panic"), (3.5, "brownout"), (5.5, ""), (11, "watchdog")]
    DeviceEvent.objects.bulk_create(
        DeviceEvent(device_id="dev-01", at=START + at * minute, kind="boot", code=code, text="boot", boot=n)
        for n, (at, code) in enumerate(boots)
    )
    DeviceEvent.objects.create(device_id="dev-02", at=START, kind="boot", code="panic", text="boot")
    spans = [Span("dev-01", V2, START, NOW), Span("dev-03", V2, START, NOW), Span("dev-02", V2, START, NOW)]
    got = queries.device_outcomes(spans, metric="resets", slot_s=60)
    assert (got[0].n, got[0].mean, got[0].windows) == (10, pytest.approx(0.8), 60)
    assert got[1].mean == 1.0
    assert got[2].mean is None, "it never ran that model, so its reset says nothing about it"
    with pytest.raises(QueryError, match="budget_required"):
        queries.device_outcomes(spans, metric="resets")
