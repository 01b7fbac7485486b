"""A distribution that moved is told, chance is not, and confidence never alarms."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from fleet.accounts.models import AuditEvent
from fleet.telemetry import baselines, compaction, drift, ingest, psi
from fleet.telemetry.errors import QueryError, TelemetryError
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import Baseline, Version
from tests.telemetry.batches import MID, sketch_batch

CLEAN = np.array([0.4, 0.3, 0.2, 0.1])


def drawn(rng: np.random.Generator, shares: Any, n: int) -> Any:
    return rng.multinomial(n, shares).astype(np.int64)


@pytest.mark.parametrize(
    ("df", "probability", "value"),
    [
        (9, 0.999, 27.877),
        (3, 0.999, 16.266),
        (5, 0.95, 11.070),
        (9, 0.5, 8.343),
        (1, 0.999, 10.828),
        (63, 0.95, 82.529),
    ],
)
def test_quantiles_of_chi2_are_those_of_the_tables(df: int, probability: float, value: float) -> None:
    assert psi.chi2_quantile(probability, df) == pytest.approx(value, rel=0.01 if df >= 5 else 0.04)


def test_the_index_is_zero_for_equal_shares_and_the_same_from_both_sides() -> None:
    one, other = np.array([40, 30, 20, 10]), np.array([10, 20, 30, 40])
    assert psi.psi(one, one) == 0
    assert psi.psi(one, one * 100) == pytest.approx(0, abs=1e-3)
    assert psi.psi(one, other) == psi.psi(other, one) > 0.5
    p, q = (one + 0.5) / 102, (other + 0.5) / 102
    assert psi.psi(one, other) == pytest.approx(sum((p - q) * np.log(p / q)))


@pytest.mark.parametrize(("n_reference", "n"), [(200, 200), (1000, 1000), (50_000, 400)])
def test_chance_alone_rarely_passes_the_limit(n_reference: int, n: int) -> None:
    """Of 3,000 clean windows about one in a thousand is flagged at alpha 0.001, whatever their size."""
    rng = np.random.default_rng(1)
    limit = psi.psi_limit(len(CLEAN), n_reference, n, alpha=0.001)
    flagged = sum(psi.psi(drawn(rng, CLEAN, n_reference), drawn(rng, CLEAN, n)) > limit for _ in range(3000))
    assert flagged <= 12


def test_windows_that_are_alike_raise_the_limit() -> None:
    rng = np.random.default_rng(2)
    alike = [drawn(rng, rng.dirichlet(CLEAN * 100), 1000) for _ in range(40)]
    chance = [drawn(rng, CLEAN, 1000) for _ in range(40)]
    assert psi.inflation(sum(alike), alike) > 5
    assert psi.inflation(sum(chance), chance) == pytest.approx(1, abs=0.5)
    assert psi.inflation(sum(chance), []) == 1


def sketch(at: datetime, first: int, classes: list[int], confidence: list[int]) -> Delivery:
    n = sum(classes)
    change = {
        2: n, 3: classes, 4: confidence, 6: [3000, 0, 190, n], 8: [n // 10] * 10,
        9: [1, n // 10 * 10], 10: [4, 4, 1],
    }  # fmt: skip
    return Delivery("dev-1", sketch_batch(at, change, first=first))


@pytest.fixture
def fleet(db: None, now: datetime) -> datetime:
    """Nine days of one version: clean for eight, then one class for another while confidence rises."""
    rng = np.random.default_rng(3)
    start = now - timedelta(days=9)
    sent = []
    for hour in range(0, 9 * 24, 2):
        at = start + timedelta(hours=hour)
        moved = hour >= 8 * 24
        classes = drawn(rng, CLEAN[::-1] if moved else CLEAN, 600)
        top = drawn(rng, [0.2, 0.8] if moved else [0.5, 0.5], 600)
        sent.append(sketch(at, hour, [int(n) for n in classes], [0] * 8 + [int(n) for n in top]))
    ingest.store(sent, slot=0, now=now)
    while compaction.run(now):
        pass
    return start


def states(start: datetime, end: datetime, now: datetime, **more: Any) -> dict[str, str]:
    found = drift.answer(start=start, end=end, step_s=2 * 3600, now=now, **more)
    return {one.statistic: one.state for one in found.series}


def test_classes_that_moved_are_drift_while_confidence_is_only_shown(fleet: datetime, now: datetime) -> None:
    day = timedelta(days=1)
    assert set(states(fleet, now, now).values()) == {"no_reference"}
    assert baselines.ensure(now) == 1
    assert baselines.ensure(now) == 0
    assert states(fleet, fleet + 8 * day, now) == {
        "class": "quiet",
        "distance": "quiet",
        "confidence": "shown",
    }
    assert states(fleet + 7 * day, now, now) == {"class": "drift", "distance": "quiet", "confidence": "shown"}
    found = drift.answer(start=fleet + 8 * day, end=now, step_s=2 * 3600, now=now).series
    assert all(point.is_flagged for one in found if one.statistic != "distance" for point in one.points)
    assert {one.labels["digest"] for one in found} == {MID}
    assert {one.reference_n for one in found} == {7 * 12 * 600}
    row = AuditEvent.objects.get(verb="telemetry.baseline")
    assert (row.actor, row.after["n"]) == ("system", 50_400)


def test_the_reference_is_of_the_first_week_alone(fleet: datetime, now: datetime) -> None:
    baselines.ensure(now)
    row = Baseline.objects.get(metric=drift.CLASS)
    assert (row.ended_at - row.started_at, row.n) == (timedelta(days=7), 50_400)
    assert row.inflation == pytest.approx(1, abs=0.5)


def test_a_person_may_choose_another_reference(fleet: datetime, now: datetime, capsys: Any) -> None:
    baselines.ensure(now)
    moved = (fleet + timedelta(days=8)).date()
    call_command("telemetry", "baseline", MID, "", "--from", f"{moved}", "--to", f"{now.date()}")
    assert "are the reference" in capsys.readouterr().out
    assert states(fleet + timedelta(days=8), now, now)["class"] == "quiet"
    assert Counter(AuditEvent.objects.values_list("actor_kind", flat=True)) == {"system": 1, "command": 1}
    for given, code in (
        (("ff" * 8, "", "--from", f"{moved}", "--to", f"{moved}"), "not_found"),
        ((MID, "", "--from", "2020-01-01", "--to", "2020-01-02"), "no_baseline"),
    ):
        with pytest.raises(CommandError, match=code):
            call_command("telemetry", "baseline", *given)


def test_too_little_is_neither_quiet_nor_drift(db: None, now: datetime) -> None:
    start = now - timedelta(hours=6)
    ingest.store(
        [sketch(start + timedelta(hours=n), n, [60, 40], [0] * 9 + [100]) for n in range(4)], slot=0, now=now
    )
    version = Version.objects.get().pk
    with pytest.raises(TelemetryError, match="100 inferences"):
        baselines.take(version, "", start, start + timedelta(hours=1), actor=drift_actor(), now=now)
    baselines.take(version, "", start, start + timedelta(hours=4), actor=drift_actor(), now=now)
    found = drift.answer(start=start, end=now, step_s=3600, now=now).series
    assert {one.state for one in found if one.statistic != "confidence"} == {"insufficient"}
    assert {(point.value, point.limit, point.n) for one in found for point in one.points} == {
        (None, None, 100)
    }


def drift_actor() -> Any:
    from fleet.accounts.audit import Actor

    return Actor("user", "olga")


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("range_invalid", {"hours": 0}),
        ("range_invalid", {"minutes": 30}),
        ("range_too_wide", {"hours": 24 * 400}),
        ("step_not_supported", {"step_s": 1800}),
        ("step_not_supported", {"step_s": 5400}),
        ("too_many_points", {"hours": 24 * 90}),
        ("group_by_not_supported", {"q": "tag==line-2"}),
    ],
)
def test_a_bad_question_has_its_code(code: str, change: dict[str, Any], db: None, now: datetime) -> None:
    given = {"hours": 24, "minutes": 0, "step_s": 3600, "q": ""} | change
    start = now - timedelta(hours=given.pop("hours")) - timedelta(minutes=given.pop("minutes"))
    with pytest.raises(QueryError) as caught:
        drift.answer(start=start, end=now, now=now, **given)
    assert caught.value.code == code
