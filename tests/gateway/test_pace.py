"""What a device may send: a burst, then a rate, and nobody pays for another."""

from collections import Counter

import pytest

from fleet.gateway import pace
from fleet.gateway.pace import Pace

TOPIC = "f1/dev/dev-1/telemetry"


def test_a_burst_is_let_through_and_the_first_beyond_it_is_told_apart() -> None:
    judge = Pace(per_s=20, burst=200).judge
    seen = Counter(judge(TOPIC, now_s=5.0) for _ in range(300))
    assert seen == {"": 200, pace.FIRST: 1, pace.MORE: 99}


def test_in_the_long_run_a_device_has_its_rate() -> None:
    judge = Pace(per_s=20, burst=200).judge
    seen = Counter(judge(TOPIC, now_s=n / 100) for n in range(100_000))  # 100 a second for 1,000 s
    assert seen[""] == pytest.approx(200 + 20 * 1000, abs=2)


def test_each_spell_beyond_the_pace_has_its_own_first() -> None:
    judge = Pace(per_s=1, burst=1).judge
    assert [judge(TOPIC, now_s=t) for t in (0.0, 0.1, 0.2, 2.0, 2.1, 2.2)] == [
        "", pace.FIRST, pace.MORE, "", pace.FIRST, pace.MORE,
    ]  # fmt: skip


def test_events_and_telemetry_of_a_device_share_its_pace_and_others_have_their_own() -> None:
    judge = Pace(per_s=1, burst=1).judge
    assert judge(TOPIC, now_s=0.0) == ""
    assert judge("f1/dev/dev-1/event", now_s=0.0) == pace.FIRST
    assert judge("f1/dev/dev-2/telemetry", now_s=0.0) == ""
    assert judge("no topic of ours", now_s=0.0) == ""


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_TRACKED", 10)
    limiter = Pace()
    for n in range(1000):
        limiter.judge(f"f1/dev/dev-{n}/telemetry", now_s=0.0)
    assert len(limiter._buckets) <= 10


@pytest.mark.parametrize(("per_s", "burst"), [(0.0, 5), (1.0, 0)])
def test_a_pace_that_lets_nothing_through_is_refused(per_s: float, burst: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Pace(per_s=per_s, burst=burst)
