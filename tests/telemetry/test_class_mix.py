"""The mix of classes equals a plain count of what sketches said."""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.devices import classes
from fleet.devices.models import Device
from fleet.telemetry import compaction, ingest, queries
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.queries import QueryError, TelemetryQuery
from tests.conftest import NOW
from tests.telemetry.batches import sketch_batch

pytestmark = pytest.mark.django_db
MIDS = {"1": "11" * 8, "2": "22" * 8}
MIDNIGHT = NOW.replace(hour=0)
HOUR = timedelta(hours=1)
QUARTER = timedelta(minutes=15)
SENT = [
    # device, version, end of the sketch after midnight, inferences by class
    ("a", "1", 1 * HOUR, [100, 0, 0, 50]),
    ("a", "1", 2 * HOUR, [0, 0, 0, 80]),
    ("b", "1", 1.5 * HOUR, [10, 10]),
    ("b", "2", 3 * HOUR, [0] * 62 + [20, 30]),
    ("a", "2", -20 * HOUR, [70]),
]


@pytest.fixture(params=["compacted", "open"])
def sent(request: pytest.FixtureRequest, db: None) -> None:
    classes.ensure_default_classes(NOW)
    for name in ("a", "b"):
        Device.objects.create(id=name, device_class_id="host-a", enrolled_at=NOW)
    for i, (device, version, after, counts) in enumerate(SENT):
        n = sum(counts)
        keys: dict[int, Any] = {2: n, 3: counts, 4: [0] * 9 + [n], 6: [900, 0, 100, n]}
        batch = sketch_batch(MIDNIGHT + after - QUARTER, keys, first=i, mid=MIDS[version], version=version)
        ingest.store([Delivery(device, batch)], slot=0, now=NOW)
    while request.param == "compacted" and compaction.run(NOW):
        pass


def ask(step_s: int, **more: Any) -> queries.TelemetryResult:
    asked: dict[str, Any] = {"start": MIDNIGHT, "end": NOW, "group_by": ("version",), **more}
    return queries.query(TelemetryQuery("class_mix", step_s=step_s, **asked), now=NOW)


def counted(step_s: int, start: datetime, *devices: str) -> dict[tuple[str, datetime], Counter[str]]:
    found: dict[tuple[str, datetime], Counter[str]] = defaultdict(Counter)
    for device, version, after, counts in SENT:
        at = MIDNIGHT + after
        if at >= start and device in devices:
            bucket = start + (at - start) // timedelta(seconds=step_s) * timedelta(seconds=step_s)
            found[version, bucket].update({str(i): n for i, n in enumerate(counts) if n})
    return found


@pytest.mark.parametrize(
    ("step_s", "more", "source", "devices"),
    [
        (3600, {}, "hour", "ab"),
        (86_400, {}, "day", "ab"),
        (86_400, {"start": MIDNIGHT - timedelta(days=1)}, "day", "ab"),
        (86_400, {"devices": ("a",)}, "raw", "a"),
    ],
)
def test_shares_of_classes_equal_what_was_sent(
    sent: None, step_s: int, more: Any, source: str, devices: str
) -> None:
    result = ask(step_s, **more)
    assert (result.source, result.unit) == (source, "ratio")
    wanted = counted(step_s, more.get("start", MIDNIGHT), *devices)
    seen = {(version, name) for (version, _), counts in wanted.items() for name in counts}
    assert {(one.labels["version"], one.labels["class"]) for one in result.series} == seen
    for one in result.series:
        for point in one.points:
            counts = wanted.get((one.labels["version"], point.t), Counter())
            n = counts.total()
            assert (point.n, point.value) == (n, counts[one.labels["class"]] / n if n else None)


def test_a_class_that_is_not_seen_in_an_hour_is_zero_there_and_an_empty_hour_is_null(sent: None) -> None:
    found = {one.labels["class"]: one.points for one in ask(3600).series if one.labels["version"] == "1"}
    assert [point.value for point in found["0"][:4]] == [None, pytest.approx(11 / 17), 0.0, None]


def test_counts_and_the_classes_that_a_limit_keeps(sent: None) -> None:
    counts = {
        one.labels["class"]: sum(p.value or 0 for p in one.points) for one in ask(3600, agg="count").series
    }
    assert counts["3"] == 130
    kept = ask(86_400, group_by=(), limit=2)
    assert ({one.labels["class"] for one in kept.series}, kept.series_left_off) == ({"0", "3"}, 3)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("step_not_supported", {"step_s": 1800}),
        ("agg_not_supported", {"agg": "p95"}),
        ("agg_not_supported", {"agg": "device_mean"}),
        ("unknown_kind", {"kind": "proxy"}),
        ("raw_expired", {"devices": ("a",), "start": MIDNIGHT - timedelta(days=100), "step_s": 86_400}),
    ],
)
def test_a_mix_that_cannot_be_asked_for_has_a_code(code: str, change: dict[str, Any], db: None) -> None:
    with pytest.raises(QueryError) as caught:
        ask(**{"step_s": 3600, **change})
    assert caught.value.code == code


def test_single_devices_whose_sketches_are_gone_are_not_sent_to_a_rollup_that_has_none(db: None) -> None:
    early = MIDNIGHT - timedelta(days=100)
    for metric, agg in (("class_mix", ""), ("latency_us", "p95")):
        asked = TelemetryQuery(metric, early, NOW, 86_400, agg=agg, devices=("a",))
        with pytest.raises(QueryError) as caught:
            queries.query(asked, now=NOW)
        assert (caught.value.code, caught.value.least_step_s) == ("raw_expired", None)
        assert "13 months" not in caught.value.text
    with pytest.raises(QueryError) as caught:
        ask(7200, start=early + timedelta(minutes=5))
    assert caught.value.least_step_s == 3600, "hours have them"
