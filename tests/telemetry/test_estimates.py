"""An estimate is right where confidence is calibrated and drift quiet, and says why it is none elsewhere."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from fleet.accounts.audit import SYSTEM, Actor
from fleet.accounts.models import AuditEvent
from fleet.devices import groups
from fleet.mqtt.codec.telemetry import encode_batch, parse_batch
from fleet.telemetry import baselines, calibrations, ingest, judging, labels, lines, partitions, queries
from fleet.telemetry.calibration_models import Calibration
from fleet.telemetry.drift_models import WindowDrift
from fleet.telemetry.errors import QueryError, TelemetryError
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.labels import Given
from fleet.telemetry.models import DeviceDay, Inference, Version
from fleet.telemetry.queries import TelemetryQuery, TelemetryResult
from tests.alerts.planting import plant_devices
from tests.conftest import NOW
from tests.telemetry import worn_fleet
from tests.telemetry.batches import MID, make_batch, sketch_batch
from tests.vectors.collection import changed

pytestmark = pytest.mark.django_db
TODAY = NOW.replace(hour=0)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
WEEK_FROM = TODAY - 8 * DAY
OLGA = Actor("user", "olga")
N = 2_000
"""Inferences, and a tenth as many labels, of a window."""


def confidence_of(accuracy: float) -> float:
    """Over-confident: a point of accuracy is 0.7 points of confidence."""
    return 0.3 + 0.7 * accuracy


def report(
    truths: dict[str, float], at: datetime, rng: random.Random, *, boot: int, version: str = "1.0.0"
) -> None:
    """One window of each device that ends at `at`, with a tenth of its inferences labelled."""
    sent = []
    for device, truth in truths.items():
        agree = sum(rng.random() < truth for _ in range(N // 10))
        batch = make_batch(
            at - timedelta(seconds=10), 1, boot=boot, n=N, lab_n=N // 10, lab_ok=agree, version=version,
            score_e4=round(confidence_of(truth) * 1e4),
        )  # fmt: skip
        sent.append(Delivery(device, batch))
    ingest.store(sent, slot=0, now=at)


def sketches(ids: Sequence[str], at: datetime, *, boot: int) -> None:
    """A sketch of each device, of 300 inferences: what a reference of drift is made of."""
    change = {2: 300, 3: [200, 100], 4: [0] * 9 + [300], 6: [3000, 0, 190, 300]}
    sent = [Delivery(one, sketch_batch(at, change, boot=boot)) for one in ids]
    ingest.store(sent, slot=0, now=at)


def judged(ids: Sequence[str], *, flagged: int = 0, end: datetime = NOW, reference: str = "week") -> None:
    """What judging leaves of the last five sketches of each device."""
    partitions.ensure({(end - n * HOUR).date() for n in range(3)}, tables=["tele_drift"])
    run = Version.objects.get(version="1.0.0")
    WindowDrift.objects.bulk_create(
        WindowDrift(
            device_id=one, ts=end - timedelta(minutes=15 * back + 1), seq=back, version_id=run.pk, n=900,
            worst=3.0 if back < flagged else 0.3, device_class="host-a", reference=reference,
        )
        for one in ids for back in range(5)
    )  # fmt: skip


@pytest.fixture
def ids(db: None) -> list[str]:
    return plant_devices(20, NOW)


@pytest.fixture
def week(ids: list[str]) -> dict[str, float]:
    """A week of twenty devices that differ, as the reference of drift; the accuracy of each."""
    rng = random.Random(5)
    truths = {one: rng.uniform(0.75, 0.95) for one in ids}
    for day in range(7):
        report(truths, WEEK_FROM + day * DAY + 6 * HOUR, rng, boot=day + 1)
    sketches(ids, WEEK_FROM + HOUR, boot=20)
    run = Version.objects.get()
    baselines.take(run.pk, "host-a", WEEK_FROM, WEEK_FROM + 7 * DAY, actor=SYSTEM, now=NOW)
    return truths


def ask(agg: str = "device_mean", **more: Any) -> TelemetryResult:
    asked: dict[str, Any] = {
        "metric": "accuracy", "kind": "estimate", "start": TODAY, "end": NOW, "step_s": 86_400,
        "group_by": ("version",), "agg": agg,
    }  # fmt: skip
    return queries.query(TelemetryQuery(**{**asked, **more}), now=NOW)


def test_a_line_finds_the_one_that_made_the_points_and_knows_how_well() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(300):
        truth = rng.uniform(0.7, 0.95, 40)
        line = lines.fit([
            (confidence_of(p), float(p + rng.normal(0, 0.02))) for p in truth
        ])  # fmt: skip
        at = confidence_of(0.8)
        inside.append(abs(line.at(at) - 0.8) <= line.quantile * line.variance(at) ** 0.5)
    assert 0.92 <= np.mean(inside) <= 0.98, "95 % intervals"
    assert line.slope == pytest.approx(1 / 0.7, abs=0.15)


def test_devices_that_are_all_alike_leave_the_slope_where_it_is_expected() -> None:
    line = lines.fit([(0.9, 0.8)] * 10)
    assert (line.slope, line.at(0.9), line.at(0.85)) == pytest.approx((1, 0.8, 0.75))
    assert line.variance(0.85) ** 0.5 == pytest.approx(0.025, rel=0.01), "the prior's half a point a point"


def test_a_calibrated_estimate_is_right_within_its_interval(week: dict[str, float]) -> None:
    assert calibrations.ensure(NOW) == 1
    rng = random.Random(6)
    today = {one: truth - 0.06 for one, truth in week.items()}  # a change of use, known to confidence
    report(today, NOW - HOUR, rng, boot=30)
    judged(list(week))
    (one,) = ask().series
    (point,) = one.points
    truth = sum(today.values()) / len(today)
    assert (one.reason, point.n, point.n_devices) == ("", 20 * N, 20)
    assert point.lower is not None
    assert point.upper is not None
    assert point.lower < truth < point.upper
    assert point.upper - point.lower < 0.12
    assert point.value == pytest.approx(truth, abs=0.02)
    pooled = ask("mean")
    assert pooled.source == "hour"
    (same,) = pooled.series
    assert same.points[0].value == pytest.approx(point.value, abs=1e-3)
    (used,) = pooled.calibrations
    assert (used["kind"], used["devices"], used["labels"], used["device_class"]) == (
        "proxy", 20, 7 * 20 * N // 10, "host-a",
    )  # fmt: skip
    (raw,) = ask("mean", step_s=60, start=NOW - 2 * HOUR).series
    assert [p.n for p in raw.points if p.value is not None] == [20 * N]
    mixed = ask(group_by=())
    assert mixed.series[0].points[0].value == point.value


def test_an_estimate_is_no_other_kind_of_accuracy(week: dict[str, float]) -> None:
    calibrations.ensure(NOW)
    report(dict.fromkeys(week, 0.5), NOW - HOUR, random.Random(1), boot=30)
    judged(list(week))
    before = [one.points[0].value for one in ask("mean", kind="proxy").series]
    (guess,) = ask("mean").series
    assert [one.points[0].value for one in ask("mean", kind="proxy").series] == before
    assert guess.points[0].value != before[0]
    with pytest.raises(QueryError, match="agg_not_supported"):
        ask("count")
    with pytest.raises(QueryError, match="unknown_kind"):
        queries.compare("accuracy", TODAY, NOW, kind="estimate", a="version==1", b="version==2", now=NOW)


def test_without_a_line_the_reason_is_uncalibrated(week: dict[str, float]) -> None:
    report(week, NOW - HOUR, random.Random(1), boot=30)
    judged(list(week))
    (one,) = ask().series
    assert (one.reason, one.points[0].value, one.points[0].lower) == ("uncalibrated", None, None)
    assert one.points[0].n == 20 * N, "what was run is told all the same"
    calibrations.ensure(NOW)
    report({"host-a-000": 0.9}, NOW - HOUR, random.Random(1), boot=31, version="2.0.0")
    found = {one.labels["version"]: one.reason for one in ask().series}
    assert found == {"1.0.0": "", "2.0.0": "uncalibrated"}
    assert [one.reason for one in ask(group_by=()).series] == ["uncalibrated"], "one run of it has no line"


@pytest.mark.parametrize(
    ("drifting", "flagged", "reason"),
    [(0, 0, ""), (20, 2, ""), (1, 3, ""), (3, 3, "drift_active"), (20, 5, "drift_active")],
)
def test_drift_of_more_devices_than_chance_makes_takes_the_estimate_away(
    week: dict[str, float], drifting: int, flagged: int, reason: str
) -> None:
    calibrations.ensure(NOW)
    report(week, NOW - HOUR, random.Random(1), boot=30)
    names = list(week)
    judged(names[:drifting], flagged=flagged)
    judged(names[drifting:])
    (one,) = ask().series
    assert (one.reason, one.points[0].value is None) == (reason, bool(reason))
    by_device = ask(group_by=("device",), devices=tuple(names))
    assert {one.labels["device"] for one in by_device.series if one.reason == "drift_active"} == (
        set(names[:drifting]) if flagged >= 3 else set()
    ), "one device that drifts has no estimate, whatever the others do"


def test_drift_that_began_before_the_range_and_was_not_judged_again_still_counts(
    week: dict[str, float],
) -> None:
    calibrations.ensure(NOW)
    names = list(week)
    report(week, NOW - timedelta(minutes=5), random.Random(1), boot=30)
    judged(names, flagged=5, end=NOW - 2 * HOUR)
    short = {"start": NOW - timedelta(minutes=30), "step_s": 60}
    assert [one.reason for one in ask(**short).series] == ["drift_unknown"], "nothing was judged in it"
    judged(names[:1], end=NOW)
    assert [one.reason for one in ask(**short).series] == ["drift_active"]
    judged(names[1:], end=NOW)
    assert [one.reason for one in ask(**short).series] == [""], "quiet again before the range began"


def test_a_group_and_a_query_have_an_estimate_and_a_drift_of_their_own(week: dict[str, float]) -> None:
    calibrations.ensure(NOW)
    names = list(week)
    for group, members in (("pilot", names[:10]), ("rest", names[10:])):
        made = groups.create(group, kind="static", actor=OLGA, now=NOW)
        groups.set_members(made, members, actor=OLGA, now=NOW)
    report(week, NOW - HOUR, random.Random(1), boot=30)
    judged(names[:3], flagged=4)
    judged(names[3:])
    found = {one.labels["group"]: one for one in ask(group_by=("group",)).series}
    assert {name: one.reason for name, one in found.items()} == {"pilot": "drift_active", "rest": ""}
    truth = sum(week[one] for one in names[10:]) / 10
    assert found["rest"].points[0].value == pytest.approx(truth, abs=0.02)
    assert [one.reason for one in ask(q="group==rest").series] == [""]
    assert [one.reason for one in ask(q="group==pilot").series] == ["drift_active"]


def test_devices_compared_with_each_other_only_leave_drift_unknown(week: dict[str, float]) -> None:
    calibrations.ensure(NOW)
    report(week, NOW - HOUR, random.Random(1), boot=30)
    judged(list(week), reference="peers")
    assert [one.reason for one in ask().series] == ["drift_unknown"]


def test_a_range_that_begins_before_drift_is_kept_has_no_estimate(week: dict[str, float]) -> None:
    """Days of devices are kept thirteen months, what was judged of them 90 days."""
    calibrations.ensure(NOW)
    kept_from = TODAY - 90 * DAY
    for n, at in enumerate((kept_from - 20 * DAY, kept_from + 2 * DAY, NOW - HOUR)):
        report(week, at, random.Random(n), boot=30 + n)
    judged(list(week))
    known, unknown = (ask(start=kept_from + n * DAY).series[0] for n in (1, 0))
    assert (known.reason, [p.n for p in known.points if p.value is not None]) == ("", [20 * N] * 9)
    assert unknown.reason == "drift_unknown", "how it began is not known any more"
    early = ask(start=kept_from - 30 * DAY)
    assert [one.reason for one in early.series] == ["drift_unknown"]
    assert {p.value for one in early.series for p in one.points} == {None}
    assert [one.reason for one in ask("mean", start=kept_from - 30 * DAY).series] == ["drift_unknown"]
    judged(list(week), flagged=5, end=NOW - 2 * HOUR)
    assert [one.reason for one in ask(start=kept_from - 30 * DAY).series] == ["drift_active"]


def test_an_offset_that_raises_confidence_gives_no_estimate(ids: list[str]) -> None:
    """Real wear through the shipped C: the reference is yesterday, the fault begins at eleven."""
    yesterday = TODAY - HOUR
    worn_fleet.send(ids, yesterday, windows=4)
    run = Version.objects.get(mid=worn_fleet.MID)
    baselines.take(run.pk, "host-a", TODAY - DAY, TODAY, actor=OLGA, now=TODAY)
    assert calibrations.ensure(TODAY) == 1
    early = NOW - 2 * HOUR
    worn_fleet.send(ids, early, windows=2)
    judging.judge(early)
    (clean,) = ask(end=early, step_s=3600, start=TODAY + 9 * HOUR).series
    assert (clean.reason, [p.value for p in clean.points]) == ("", [pytest.approx(0.8, abs=0.001)])
    worn_fleet.send(ids[3:], NOW, windows=5)
    worn_fleet.send(ids[:3], NOW, windows=5, fault="+ 1.5")
    wrong = make_batch(NOW - HOUR, 5, boot=9, n=300, lab_n=10, lab_ok=3, score_e4=9900, dt_ms=60_000)
    ingest.store([Delivery(one, wrong) for one in ids[:3]], slot=0, now=NOW)
    judging.judge(NOW)
    about: dict[str, Any] = {"start": NOW - 2 * HOUR, "step_s": 3600, "agg": "mean"}
    (confidence,) = ask(**about, metric="confidence", kind="").series
    (proxy,) = ask(**about, kind="proxy").series
    assert confidence.points[-1].value > 0.905, "it rose"
    assert proxy.points[-1].value < 0.75, "accuracy fell"
    (one,) = ask(**about).series
    assert one.reason == "drift_active"
    assert {p.value for p in one.points} == {None}


def test_late_labels_of_random_samples_are_preferred_and_biased_ones_left_out(week: dict[str, float]) -> None:
    calibrations.ensure(NOW)
    at, given = WEEK_FROM + 2 * DAY, []
    for device in list(week)[:8]:
        payload = encode_batch(make_batch(at, 1, boot=40))

        def edit(item: dict[int, Any]) -> None:
            item.pop(7)
            item[8] = [[100, k, 1, 8000, 500, 0, 800, 0] for k in range(30)]
            item[8] += [[100, k, 1, 3000, 50, 0, 800, 1] for k in range(30, 60)]  # for their low margin

        ingest.store([Delivery(device, parse_batch(changed(payload, edit)))], slot=0, now=at)
        given += [Given(f"{device}:40:{k}", 1 if k < 24 else 2, "person", NOW) for k in range(60)]
    labels.store(given, actor=OLGA, now=NOW)
    assert calibrations.ensure(NOW + HOUR) == 0, "once a day"
    assert calibrations.ensure(NOW + DAY) == 1
    row = Calibration.objects.get()
    assert (row.kind, row.devices, row.n) == ("delayed", 8, 8 * 30)
    assert (row.centre, row.intercept + row.slope * 0.8) == pytest.approx((0.8, 24 / 30))
    last = AuditEvent.objects.filter(verb="telemetry.calibration").latest("id")
    assert (last.after["kind"], last.after["n"], last.actor_kind) == ("delayed", 240, "system")
    assert calibrations.ensure(NOW + 3 * DAY) == 0, "the same labels say nothing new"
    assert AuditEvent.objects.filter(verb="telemetry.calibration").count() == 2
    Inference.objects.filter(device_id="host-a-001").delete()
    assert calibrations.ensure(NOW + 4 * DAY) == 0, "samples that retention took say nothing against a line"
    assert Calibration.objects.get().n == 240
    assert calibrations.ensure(NOW + 60 * DAY) == 0
    assert Calibration.objects.get().tried_at == NOW + 4 * DAY, "no label is that late"


def test_too_few_labels_make_no_line_and_the_command_says_so(
    ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    truths = dict.fromkeys(ids[:7], 0.9)
    report(truths, TODAY - 12 * HOUR, random.Random(1), boot=1)
    run = Version.objects.get()
    with pytest.raises(TelemetryError, match="no_baseline"):
        calibrations.take(run.pk, "host-a", actor=OLGA, now=NOW)
    sketches(ids, TODAY - 13 * HOUR, boot=20)
    baselines.take(run.pk, "host-a", TODAY - DAY, TODAY, actor=OLGA, now=NOW)
    assert calibrations.ensure(NOW) == 0
    with pytest.raises(CommandError, match="uncalibrated: fewer than 8 devices"):
        call_command("telemetry", "calibrate", MID, "host-a")
    report(dict.fromkeys(ids[7:9], 0.9), TODAY - 12 * HOUR, random.Random(1), boot=1)
    call_command("telemetry", "calibrate", MID, "host-a")
    assert "activity 1.0.0: a line from 1,800 proxy labels of 9 devices" in capsys.readouterr().out
    assert AuditEvent.objects.get(verb="telemetry.calibration").actor_kind == "command"


def test_another_reference_makes_another_line(week: dict[str, float]) -> None:
    calibrations.ensure(NOW)
    run = Version.objects.get()
    sketches(list(week), WEEK_FROM + 6 * DAY, boot=21)
    baselines.take(run.pk, "host-a", WEEK_FROM + 6 * DAY, WEEK_FROM + 7 * DAY, actor=OLGA, now=NOW)
    assert calibrations.ensure(NOW) == 1
    row = Calibration.objects.get()
    assert (row.started_at, row.n) == (WEEK_FROM + 6 * DAY, 20 * N // 10)


def calibrate(capsys: pytest.CaptureFixture[str]) -> str:
    call_command("telemetry", "calibrate", MID, "host-a")
    return capsys.readouterr().out.strip()


def test_calibrating_again_says_when_the_line_before_holds(
    week: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    calibrations.ensure(NOW)
    first = Calibration.objects.get()
    held = "the line of 2026-05-02 12:00 UTC holds: from 28,000 proxy labels of 20 devices"
    assert calibrate(capsys).startswith(f"activity 1.0.0: the labels say the same, {held}")
    DeviceDay.objects.filter(day__lt=WEEK_FROM + 3 * DAY).delete()
    assert calibrate(capsys).startswith(f"activity 1.0.0: fewer labels are there now, {held}")
    DeviceDay.objects.all().delete()
    assert held in calibrate(capsys)
    kept = Calibration.objects.get()
    assert (kept.made_at, kept.intercept, kept.slope) == (NOW, first.intercept, first.slope)
    assert kept.tried_at > NOW
    assert AuditEvent.objects.filter(verb="telemetry.calibration").count() == 1


def test_another_reference_without_labels_ends_the_line_and_the_audit_trail_says_so(
    week: dict[str, float],
) -> None:
    calibrations.ensure(NOW)
    run = Version.objects.get()
    sketches(list(week), WEEK_FROM + 7 * DAY + HOUR, boot=21)
    baselines.take(run.pk, "host-a", WEEK_FROM + 7 * DAY, TODAY, actor=OLGA, now=NOW)
    with pytest.raises(TelemetryError, match="uncalibrated"):
        calibrations.take(run.pk, "host-a", actor=OLGA, now=NOW + HOUR)
    row = Calibration.objects.get()
    assert (row.kind, row.n, row.devices, row.made_at) == ("", 0, 0, None)
    last = AuditEvent.objects.filter(verb="telemetry.calibration").latest("id")
    assert (last.actor, last.after["devices"], last.after["from"]) == (
        "olga", 0, (WEEK_FROM + 7 * DAY).isoformat(),
    )  # fmt: skip
    report(week, NOW - HOUR, random.Random(1), boot=30)
    judged(list(week))
    assert [one.reason for one in ask().series] == ["uncalibrated"]
    assert calibrations.ensure(NOW + 2 * DAY) == 0
    assert AuditEvent.objects.filter(verb="telemetry.calibration").count() == 2, "ended once"
