"""A late label is counted once, for its sample's hour and version, whatever order things come in."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.devices import classes
from fleet.devices.models import Device
from fleet.mqtt.codec.telemetry import encode_batch, parse_batch
from fleet.telemetry import ingest, labels, queries
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.labels import Given
from fleet.telemetry.models import Accuracy, DeviceDay, Label
from fleet.telemetry.queries import TelemetryQuery
from fleet.telemetry.verification import verify
from tests.conftest import NOW
from tests.telemetry.batches import make_batch
from tests.vectors.collection import changed

pytestmark = pytest.mark.django_db
ACTOR = Actor("user", "olga")
MIDS = {"1": "11" * 8, "2": "22" * 8}


@pytest.fixture(autouse=True)
def devices(db: None) -> None:
    classes.ensure_default_classes(NOW)
    for name in ("dev-1", "dev-2"):
        Device.objects.create(id=name, device_class_id="host-a", enrolled_at=NOW)


def sampled(
    device: str, at: datetime, tops: dict[int, int], *, version: str = "1", first: int = 0
) -> Delivery:
    """Sampled inferences of boot 1: number -> class."""
    payload = encode_batch(make_batch(at, 1, first=first, mid=MIDS[version], version=version))

    def edit(item: dict[int, Any]) -> None:
        item.pop(7)
        item[8] = [[100, k, top, 9000, 500, 0, 800, 0] for k, top in tops.items()]

    return Delivery(device, parse_batch(changed(payload, edit)))


def give(
    *rows: tuple[str, int], now: datetime = NOW, source: str = "person", at: datetime = NOW
) -> labels.Taken:
    return labels.store([Given(name, label, source, at) for name, label in rows], actor=ACTOR, now=now)


def delayed() -> dict[str, tuple[int, int]]:
    """source -> labels that count and how many agree; days of the devices say the same."""
    found: dict[str, tuple[int, int]] = {}
    for one in Accuracy.objects.filter(kind="delayed"):
        n, ok = found.get(one.source, (0, 0))
        found[one.source] = (n + one.n, ok + one.ok)
    found = {source: counts for source, counts in found.items() if any(counts)}
    days = DeviceDay.objects.values_list("delayed_n", "delayed_ok")
    assert sum(n for n, _ in found.values()) == sum(n for n, _ in days)
    assert sum(ok for _, ok in found.values()) == sum(ok for _, ok in days)
    return found


def test_a_label_of_a_known_sample_counts_in_the_hour_of_the_sample(now: datetime) -> None:
    at = now - timedelta(hours=5)
    ingest.store([sampled("dev-1", at, {7: 2, 8: 1})], slot=0, now=now)
    taken = give(("dev-1:1:7", 2), ("dev-1:1:8", 3))
    assert (taken.new, taken.counted, taken.pending, taken.refused) == (2, 2, 0, [])
    row = Accuracy.objects.get(kind="delayed")
    assert (row.hour, row.device_class, row.source, row.n, row.ok) == (at, "host-a", "person", 2, 1)
    assert delayed() == {"person": (2, 1)}
    assert AuditEvent.objects.get(verb="telemetry.label").after == {"new": 2, "known": 0, "refused": 0}


def test_a_label_waits_for_its_sample_and_is_then_joined(now: datetime) -> None:
    assert give(("dev-1:1:7", 2)).pending == 1
    assert labels.join(now=now) == 0, "looked for again in a minute"
    ingest.store([sampled("dev-1", now, {7: 2})], slot=0, now=now)
    assert labels.join(now=now + timedelta(seconds=59)) == 0
    assert labels.join(now=now + timedelta(seconds=60)) == 1
    assert labels.join(now=now + timedelta(days=1)) == 0
    assert delayed() == {"person": (1, 1)}


def test_a_label_whose_sample_never_comes_is_told(now: datetime) -> None:
    give(("dev-1:1:7", 2))
    at, probes = now, 0
    while labels.counts() == {"pending": 1}:
        at = Label.objects.get().probe_at
        labels.join(now=at)
        probes += 1
    assert timedelta(days=30) < at - now < timedelta(days=31)
    assert probes < 200
    assert [one["sample_id"] for one in labels.unmatched()] == ["dev-1:1:7"]
    assert delayed() == {}


def test_the_same_label_again_changes_nothing(now: datetime) -> None:
    ingest.store([sampled("dev-1", now, {7: 2})], slot=0, now=now)
    give(("dev-1:1:7", 2))
    again = give(("dev-1:1:7", 2), ("dev-1:1:7", 2))
    assert (again.new, again.known) == (0, 1)
    assert (delayed(), Label.objects.count()) == ({"person": (1, 1)}, 1)


def test_a_newer_label_and_a_higher_source_decide_and_history_stays(now: datetime) -> None:
    ingest.store([sampled("dev-1", now, {7: 2})], slot=0, now=now)
    minute = timedelta(minutes=1)
    give(("dev-1:1:7", 2), at=now)
    give(("dev-1:1:7", 3), at=now + minute)
    assert delayed() == {"person": (1, 0)}
    give(("dev-1:1:7", 2), at=now - minute)
    assert delayed() == {"person": (1, 0)}, "an older one came later"
    give(("dev-1:1:7", 2), at=now + 2 * minute, source="system")
    assert delayed() == {"person": (1, 0)}, "a lower source does not decide"
    give(("dev-1:1:7", 2), at=now - minute, source="audit")
    assert delayed() == {"audit": (1, 1)}
    assert labels.counts() == {"superseded": 4, "counted": 1}


def test_a_correction_moves_counts_after_the_sample_is_gone(now: datetime) -> None:
    ingest.store([sampled("dev-1", now, {7: 2})], slot=0, now=now)
    give(("dev-1:1:7", 2))
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tele_inference")
    Device.objects.filter(pk="dev-1").update(device_class_id="host-b")
    give(("dev-1:1:7", 3), at=now + timedelta(minutes=1))
    assert delayed() == {"person": (1, 0)}
    assert Accuracy.objects.get(kind="delayed").device_class == "host-a"


def test_an_inference_without_a_class_cannot_be_right_or_wrong(now: datetime) -> None:
    ingest.store([sampled("dev-1", now, {7: -1})], slot=0, now=now)
    assert give(("dev-1:1:7", 0)).pending == 1
    assert delayed() == {}


@pytest.mark.parametrize(
    ("sample", "label", "source", "age", "code"),
    [
        ("dev-1:1", 1, "person", 0, "sample_invalid"),
        ("dev-1:1:2:3", 1, "person", 0, "sample_invalid"),
        ("dev-1:-1:2", 1, "person", 0, "sample_invalid"),
        ("dev-1:2147483648:2", 1, "person", 0, "sample_invalid"),
        ("dev-1:1:4294967296", 1, "person", 0, "sample_invalid"),
        ("dev-1:1:\u0663", 1, "person", 0, "sample_invalid"),
        ("gone:1:2", 1, "person", 0, "unknown_device"),
        ("dev-1:1:2", -1, "person", 0, "label_unknown"),
        ("dev-1:1:2", 256, "person", 0, "label_unknown"),
        ("dev-1:1:2", 1, "rumour", 0, "source_unknown"),
        ("dev-1:1:2", 1, "person", -25, "time_range"),
        ("dev-1:1:2", 1, "person", 24 * 31, "sample_expired"),
    ],
)
def test_a_bad_label_is_refused_alone(
    now: datetime, sample: str, label: int, source: str, age: int, code: str
) -> None:
    at = now - timedelta(hours=age)
    sent = [Given("dev-1:1:7", 1, "person", now), Given(sample, label, source, at)]
    taken = labels.store(sent, actor=ACTOR, now=now)
    assert (taken.new, [(one.index, one.code) for one in taken.refused]) == (1, [(1, code)])


def test_a_time_without_an_offset_and_too_many_labels_are_refused(now: datetime) -> None:
    taken = labels.store([Given("dev-1:1:7", 1, "person", now.replace(tzinfo=None))], actor=ACTOR, now=now)
    assert [one.code for one in taken.refused] == ["time_range"]
    with pytest.raises(TelemetryError, match="too_large"):
        labels.store([Given("dev-1:1:7", 1, "person", now)] * 10_001, actor=ACTOR, now=now)


def test_delayed_accuracy_is_answered_from_hours_days_and_labels(now: datetime) -> None:
    midnight = now.replace(hour=0)
    ingest.store(
        [
            sampled("dev-1", midnight + timedelta(hours=3), {1: 0, 2: 0, 3: 0, 4: 0}),
            sampled("dev-2", midnight + timedelta(hours=4), {1: 0, 2: 0}, version="2"),
        ],
        slot=0,
        now=now,
    )
    give(*((f"dev-1:1:{k}", int(k == 4)) for k in (1, 2, 3, 4)), ("dev-2:1:1", 1))
    for agg, step_s, source in (
        ("mean", 3600, "hour"),
        ("device_mean", 86_400, "day"),
        ("device_mean", 300, "raw"),
    ):
        asked = TelemetryQuery(
            "accuracy", midnight, now, step_s, kind="delayed", agg=agg, group_by=("version",)
        )
        result = queries.query(asked, now=now)
        assert result.source == source
        found = {one.labels["version"]: [p.value for p in one.points if p.n] for one in result.series}
        assert found == {"1": [0.75], "2": [0.0]}
    assert verify(midnight, midnight + timedelta(days=1)).differences == []
    Accuracy.objects.filter(kind="delayed").update(ok=0)
    DeviceDay.objects.update(delayed_n=9)
    wrong = {one.table for one in verify(midnight, midnight + timedelta(days=1)).differences}
    assert wrong == {"tele_accuracy", "tele_device_day"}


def test_labels_past_thirteen_months_are_forgotten_their_counts_are_not(now: datetime) -> None:
    ingest.store([sampled("dev-1", now, {7: 2})], slot=0, now=now)
    give(("dev-1:1:7", 2))
    assert labels.forget(now + timedelta(days=395)) == 0
    assert labels.forget(now + timedelta(days=397)) == 1
    assert delayed() == {"person": (1, 1)}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_order_of_samples_labels_and_corrections_gives_the_accuracy_known_afterwards(seed: int) -> None:
    with connection.cursor() as cursor:
        for table in ("tele_inference", "tele_label", "tele_accuracy", "tele_device_day"):
            cursor.execute(f"DELETE FROM {table}")
    rng = random.Random(seed)
    truth = {(f"dev-{d}", k): rng.randrange(3) for d in (1, 2) for k in range(6)}
    actions: list[Any] = [
        sampled(device, NOW - timedelta(minutes=10 * k), {k: top}, first=k)
        for (device, k), top in truth.items()
    ]
    sent = [
        Given(
            f"{device}:1:{k}", rng.randrange(3), rng.choice(list(labels.SOURCES)),
            NOW - timedelta(minutes=rng.randrange(4)),
        )
        for device, k in rng.choices(list(truth), k=20)
    ]  # fmt: skip
    actions += sent + rng.choices(sent, k=6) + rng.choices(actions, k=3)
    rng.shuffle(actions)
    now = NOW
    for action in actions:
        now += timedelta(minutes=rng.randrange(3))
        if isinstance(action, Given):
            labels.store([action], actor=ACTOR, now=now)
        else:
            ingest.store([action], slot=0, now=now)
        if rng.random() < 0.3:
            labels.join(now=now)
    labels.join(now=now + timedelta(days=1))
    wanted: dict[str, list[int]] = {}
    for (device, k), top in truth.items():
        about = [one for one in sent if one.sample_id == f"{device}:1:{k}"]
        if about:
            best = max(about, key=lambda one: (labels.SOURCES[one.source], one.at, one.label))
            counts = wanted.setdefault(best.source, [0, 0])
            counts[0] += 1
            counts[1] += best.label == top
    assert delayed() == {source: tuple(counts) for source, counts in wanted.items()}
