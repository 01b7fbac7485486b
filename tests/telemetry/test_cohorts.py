"""Series by arm, rollout and group, and two arms compared, equal a plain recomputation from raw windows."""

import random
import statistics
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.devices import groups
from fleet.devices.errors import QueryError as TextError
from fleet.telemetry import ingest, queries
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.intervals import t_quantile, welch_half_width
from fleet.telemetry.queries import QueryError, Span, TelemetryQuery
from ota.models import Manifest, Membership, Rollout
from tests.conftest import NOW
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.ota.world import GATED_PLAN, World
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db
START = NOW - timedelta(minutes=10)
TODAY = NOW.replace(hour=0)
OLGA = Actor("user", "olga")


@pytest.fixture
def rollout(make_manifest: Callable[..., Manifest]) -> Rollout:
    """30 devices, 12 of them control, 12 in the first wave; ten windows each, from version 1 to 2 halfway."""
    world = World(NOW, make_manifest)
    world.running(world.manifest(), world.add(30))
    started = world.started(world.manifest(), GATED_PLAN)
    rng, sent = random.Random(3), []
    for name in sorted(world.devices):
        for k in range(10):
            version = "2" if k >= 5 and name != "dev-001" else "1"
            labels = rng.randrange(1, 11)
            batch = make_batch(
                START + timedelta(seconds=60 * k), first=k, mid=version * 16, version=version,
                us_mean=rng.randrange(900, 2000), lab_n=labels, lab_ok=rng.randrange(labels + 1),
            )  # fmt: skip
            sent.append(Delivery(name, batch))
    ingest.store(sent, slot=0, now=NOW)
    return started


def arms(rollout: Rollout) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in Membership.objects.filter(rollout=rollout).exclude(arm="skipped"):
        found.setdefault("control" if one.arm == "control" else f"wave-{one.wave}", set()).add(one.device_id)
    return found


def ask(step_s: int = 600, **more: Any) -> queries.TelemetryResult:
    asked: dict[str, Any] = {"metric": "inferences", "start": START, "end": NOW, "step_s": step_s, **more}
    return queries.query(TelemetryQuery(**asked), now=NOW)


def test_a_series_for_each_arm_from_raw_windows_and_from_days(rollout: Rollout) -> None:
    wanted = arms(rollout)
    assert {name: len(ids) for name, ids in wanted.items()} == {"control": 12, "wave-1": 12, "wave-2": 6}
    for asked, source in (
        ({"q": f"rollout=={rollout.pk}"}, "raw"),
        ({"rollouts": (str(rollout.pk),), "start": TODAY, "step_s": 86_400}, "day"),
    ):
        found = ask(group_by=("arm",), **asked)
        assert found.source == source
        assert {one.labels["arm"]: one.n for one in found.series} == {
            name: 100 * len(ids) for name, ids in wanted.items()
        }
        assert {one.labels["arm"]: max(p.n_devices for p in one.points) for one in found.series} == {
            name: len(ids) for name, ids in wanted.items()
        }


def test_a_device_mean_by_arm_is_over_the_arm(rollout: Rollout) -> None:
    found = ask(metric="accuracy", kind="proxy", group_by=("arm", "version"), rollouts=(str(rollout.pk),))
    (one,) = [one for one in found.series if one.labels == {"arm": "control", "version": "2"}]
    means = [mean for name in arms(rollout)["control"] if (mean := accuracy(name, "2")) is not None]
    assert sum(p.value or 0 for p in one.points) == pytest.approx(statistics.mean(means))


def accuracy(name: str, version: str) -> float | None:
    rows = [w for w in queries.device_series(name, START, NOW) if w["version"] == version]
    n = sum(w["labels"] for w in rows)
    return sum(w["labels_ok"] for w in rows) / n if n else None


def test_by_rollout_each_has_its_devices(rollout: Rollout) -> None:
    found = ask(group_by=("rollout",), q=f"rollout=={rollout.pk}")
    assert [(one.labels, one.n) for one in found.series] == [({"rollout": str(rollout.pk)}, 3000)]
    none = "00000000-0000-7000-8000-000000000000"
    assert ask(group_by=("rollout", "arm"), rollouts=(none,)).series == []
    assert ask(rollouts=(none,)).series == []


def test_by_group_a_device_counts_in_each_of_its_groups(rollout: Rollout) -> None:
    pilot = groups.create("pilot", actor=OLGA, kind="static", now=NOW)
    groups.set_members(pilot, ["dev-001", "dev-002"], actor=OLGA, now=NOW)
    groups.create("all", actor=OLGA, kind="dynamic", q="class==host-a", now=NOW)
    groups.create("nobody", actor=OLGA, kind="dynamic", q="class==host-b", now=NOW)
    for asked, source in (({}, "raw"), ({"start": TODAY, "step_s": 86_400}, "day")):
        found = ask(group_by=("group",), **asked)
        assert found.source == source
        assert {one.labels["group"]: one.n for one in found.series} == {"pilot": 200, "all": 3000}
    for only in ({"groups": ("pilot",)}, {"q": "group==pilot"}):
        found = ask(group_by=("group", "version"), **only)
        assert {tuple(one.labels.values()): one.n for one in found.series} == {
            ("pilot", "1"): 150, ("pilot", "2"): 50,
        }  # fmt: skip
    assert ask(groups=("pilot",)).series[0].n == 200
    with pytest.raises(TextError):
        ask(groups=("moon",))


@pytest.mark.parametrize(
    "change",
    [
        {"group_by": ("arm",)},
        {"group_by": ("rollout",)},
        {"group_by": ("arm",), "rollouts": ("x",)},
        {"group_by": ("arm",), "rollouts": ("0" * 32, "1" * 32)},
        {"group_by": ("rollout",), "rollouts": tuple(f"{i:032x}" for i in range(51))},
    ],
)
def test_arms_without_their_rollout_are_refused(change: dict[str, Any], db: None) -> None:
    with pytest.raises(QueryError) as caught:
        ask(**change)
    assert caught.value.code == "group_by_not_supported"


@pytest.mark.parametrize("start", [START, TODAY])
def test_waves_against_control_are_means_over_devices(rollout: Rollout, start: Any) -> None:
    found = queries.compare("accuracy", start, NOW, kind="proxy", rollout=rollout.pk, now=NOW)
    assert found.source == ("day" if start == TODAY else "raw")
    ids = arms(rollout)
    sides = [sorted(ids["wave-1"] | ids["wave-2"]), sorted(ids["control"])]
    means = []
    for side, got in zip(sides, (found.a, found.b), strict=True):
        spans = [Span(name, None, START, NOW) for name in side]
        outcomes = queries.device_outcomes(spans, metric="accuracy", kind="proxy")
        of_gates = [one.mean for one in outcomes if one.mean is not None]
        half = t_quantile(len(side) - 1) * statistics.stdev(of_gates) / len(side) ** 0.5
        assert (got.n_devices, got.n) == (len(side), sum(one.n for one in outcomes))
        assert got.value == pytest.approx(statistics.mean(of_gates))
        assert (got.lower, got.upper) == pytest.approx((got.value - half, got.value + half))
        means.append(of_gates)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(statistics.mean(means[0]) - statistics.mean(means[1]))
    assert found.difference.upper - found.difference.value == pytest.approx(
        welch_half_width(statistics.stdev(means[0]), 18, statistics.stdev(means[1]), 12)
    )
    assert found.paired is None


def test_two_versions_on_the_same_devices_are_paired(rollout: Rollout) -> None:
    found = queries.compare(
        "accuracy", START, NOW, kind="proxy", a="version==2", b="version==1", q="class==host-a", now=NOW
    )
    assert (found.a.n_devices, found.b.n_devices) == (29, 30)
    pairs = [
        new - old
        for i in range(1, 31)
        if (new := accuracy(f"dev-{i:03}", "2")) is not None
        and (old := accuracy(f"dev-{i:03}", "1")) is not None
    ]
    assert found.paired is not None
    assert (found.paired.n_devices, found.paired.value) == (29, pytest.approx(statistics.mean(pairs)))
    half = t_quantile(28) * statistics.stdev(pairs) / 29**0.5
    assert found.paired.lower == pytest.approx(found.paired.value - half)


def test_an_arm_of_one_device_or_none_has_no_interval(rollout: Rollout) -> None:
    found = queries.compare("latency_us", START, NOW, a="id==dev-003", b="id==nobody", now=NOW)
    assert (found.a.n_devices, found.a.lower, found.b.n_devices, found.b.value) == (1, None, 0, None)
    assert found.difference is None
    one = queries.compare("latency_us", START, NOW, a="id==dev-003", b="id==dev-004", now=NOW).difference
    assert one is not None
    assert (one.lower, one.upper) == (None, None)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("arms_required", {"b": ""}),
        ("unknown_metric", {"metric": "speed"}),
        ("kind_required", {"metric": "accuracy"}),
        ("agg_not_supported", {"metric": "class_mix"}),
        ("agg_not_supported", {"metric": "inferences"}),
        ("range_invalid", {"end": START}),
        ("raw_expired", {"start": START - timedelta(days=31)}),
    ],
)
def test_a_comparison_that_cannot_be_made_has_a_code(code: str, change: dict[str, Any], db: None) -> None:
    asked = {
        "metric": "latency_us",
        "start": START,
        "end": NOW,
        "a": "version==1",
        "b": "version==2",
        **change,
    }
    with pytest.raises(QueryError) as caught:
        queries.compare(now=NOW, **asked)
    assert caught.value.code == code


def test_welch_is_that_of_the_textbook() -> None:
    """Equal spreads and sizes: 2n - 2 degrees of freedom, the pooled interval."""
    assert welch_half_width(2.0, 10, 2.0, 10) == pytest.approx(t_quantile(18) * (4 / 10 + 4 / 10) ** 0.5)
    assert welch_half_width(2.0, 1, 2.0, 10) is None
    assert welch_half_width(0.0, 3, 0.0, 3) == 0.0
