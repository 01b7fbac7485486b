"""Telemetry windows: right sums, dense counters, frozen bytes, nothing counted twice or lost in silence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, CommandVerb, ConfigKey
from fleet.mqtt.codec.telemetry import Window
from ota.desired import DesiredEntry
from tests.firmware.artifacts import DEVICE, NOW, artifact, trust
from tests.firmware.rig import Rig

TOPIC = topics.device(DEVICE, "telemetry")


def sent(rig: Rig) -> list[bytes]:
    """Every telemetry message, as sent."""
    return [payload for topic, payload, *_ in rig.port.sent if topic == TOPIC]


def windows(rig: Rig) -> list[Window]:
    """Every window once, by its sequence number."""
    return list({window.seq: window for batch in rig.batches() for window in batch.windows}.values())


@pytest.fixture
def running(rig: Rig) -> Rig:
    """A device with a confirmed model and windows of 10 s; the window of the trial is already out."""
    item = artifact(1)
    rig.stage(item)
    rig.want(
        DesiredEntry(Action.RUN, item.id, attempt=1), config={ConfigKey.WINDOW_S: 10, ConfigKey.ALARM: (2, 3)}
    )
    rig.confirm()
    rig.advance(20)
    assert len(rig.batches()) == 1
    return rig


def one_window(rig: Rig) -> Window:
    """The window that the samples of this moment fall into."""
    before = len(windows(rig))
    rig.advance(11)
    found = windows(rig)[before:]
    assert len(found) == 1
    return found[0]


def test_a_window_holds_what_was_sampled(running: Rig) -> None:
    running.core.health(heap_free=64 * 1000, rssi=-70)
    scores = [(0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.2, 0.6, 0.2), (0.0, 0.0, 1.0)]
    for index, (answer, label) in enumerate(zip(scores, [0, 0, 1, -1], strict=True)):
        running.core.sample(0, us=100 * (index + 1), scores=answer, label=label)
    running.core.health(heap_free=64 * 900, rssi=-65)
    running.core.sample(0, us=1000, scores=(0.1, 0.5, 0.4), label=2)
    window = one_window(running)
    assert (window.n, window.us_mean, window.us_max) == (5, 400, 1000)
    assert (window.score_e4, window.top) == (round((7000 + 8000 + 6000 + 10000 + 5000) / 5), 1)
    assert (window.lab_n, window.lab_ok) == (4, 2)
    assert window.anom_max_e3 == 900, "margin 0.1 of the last one"
    assert (window.heap_min_64b, window.rssi_dbm, window.flags) == (900, -65, 0)
    assert window.dt_ms == 10_000


@pytest.mark.parametrize(
    ("scores", "top"),
    [
        ((), -1),
        ((0.4,), 0),
        ((0.5, 0.5), 0),
        ((0.0, 0.0), 0),
        ((-1.0, 2.0), 1),
        (tuple([0.0] * 255 + [1.0]), 255),
    ],
)
def test_odd_scores(scores: Sequence[float], top: int, running: Rig) -> None:
    running.core.sample(0, us=1, scores=scores)
    window = one_window(running)
    assert (window.n, window.top) == (1, top)


def test_more_classes_than_a_record_can_name_are_not_taken(running: Rig) -> None:
    running.core.sample(0, us=1, scores=[0.0] * 257)
    running.advance(11)
    assert len(windows(running)) == 1


def test_samples_without_a_running_model_are_not_counted(rig: Rig) -> None:
    rig.core.sample(0, us=1)
    rig.core.sample(3, us=1)
    rig.advance(120, step_ms=5000)
    assert rig.batches() == []


def test_counters_are_dense_and_times_follow_from_the_batch(running: Rig) -> None:
    for _ in range(8):
        running.infer(2)
        running.advance(10)
    found = windows(running)
    assert [window.seq for window in found] == [(1 << 32) + index for index in range(len(found))]
    times = [window.ts_ms for window in found]
    assert times == sorted(times)
    # uptime began at 5 s, at NOW
    assert abs(times[-1] - (NOW * 1000 + running.ms - 5000)) < 12_000


def test_a_swap_cuts_the_window(running: Rig) -> None:
    running.infer(4)
    second = artifact(2)
    running.offer(second, attempt=2)
    last, drift = running.batches()[-2:]
    assert (drift.mid, drift.sketches[0].n, drift.first) == (artifact(1).mid, 7, last.first + 1)
    assert (last.mid, last.windows[-1].n, last.windows[-1].flags) == (artifact(1).mid, 4, 2)
    running.confirm()
    running.advance(61, step_ms=1000)
    assert running.batches()[-1].mid == second.mid
    assert running.batches()[-1].version == "1.0.2"


def test_an_acknowledged_batch_is_sent_once(running: Rig) -> None:
    running.infer(3)
    running.advance(11)
    before = sent(running)
    running.reconnect(fresh=False)
    running.advance(5)
    assert sent(running) == before
    assert running.core.state().ring_batches == len(before), "but kept"


def test_a_broker_that_lost_the_session_gets_the_ring_again_byte_for_byte(running: Rig) -> None:
    for _ in range(5):
        running.infer(3)
        running.advance(10)
    before = sent(running)
    assert len(before) >= 5
    running.reconnect(fresh=True)
    running.advance(2)
    assert sent(running) == before + before


def test_what_was_not_acknowledged_goes_out_again_after_any_reconnect(running: Rig) -> None:
    running.acknowledges = False
    running.infer(3)
    running.advance(11)
    before = sent(running)
    running.acknowledges = True
    running.reconnect(fresh=False)
    assert sent(running) == before + before[-1:]


def test_at_most_eight_batches_are_under_way(running: Rig) -> None:
    for _ in range(15):
        running.infer(1)
        running.advance(10)
    before = len(sent(running))
    running.acknowledges = False
    running.reconnect(fresh=True)
    assert len(sent(running)) - before == 8
    running.acknowledges = True
    for item in [entry for entry in running.port.sent if entry[0] == TOPIC]:
        running.core.sent(item[4])
    running.run()
    assert len(sent(running)) - before >= before


def test_a_commanded_resend_gives_the_range_asked_for(running: Rig) -> None:
    for _ in range(6):
        running.infer(1)
        running.advance(10)
    before = sent(running)
    running.command(CommandVerb.RESEND_TELEMETRY, 1, 2, 3)
    again = running.batches()[len(before) :]
    assert [batch.first for batch in again] == [2, 3]
    assert sent(running)[len(before) :] == [before[2], before[3]]
    running.command(CommandVerb.RESEND_TELEMETRY, 9, 0, 99)
    assert len(sent(running)) == len(before) + 2, "another boot's ring is gone"


def test_a_resend_says_what_the_ring_does_not_hold_any_more(running: Rig) -> None:
    for _ in range(600):
        running.infer(1)
        running.advance(10, step_ms=5000)
    before = running.batches()
    counter = running.core.state().telemetry_counter
    assert len(before) > running.core.state().ring_batches, "the oldest were overwritten"
    running.command(CommandVerb.RESEND_TELEMETRY, 1, 0, counter + 5)
    again = [batch.first for batch in running.batches()[len(before) :]]
    assert again == [batch.first for batch in before][-len(again) :]
    assert again[0] > 0
    told = [event.detail for event in running.events() if event.kind.name == "TELEMETRY_LOST"]
    assert told == [(1, 0, again[0] - 1, 2)], "what was acknowledged was no loss until it was asked for"
    running.command(CommandVerb.RESEND_TELEMETRY, 1, 0, 1)
    running.command(CommandVerb.RESEND_TELEMETRY, 1, again[0], counter)
    told = [event.detail for event in running.events() if event.kind.name == "TELEMETRY_LOST"]
    assert told[1:] == [(1, 0, 1, 2)]


def test_windows_of_an_hour_without_a_link_arrive_together(running: Rig) -> None:
    before = len(windows(running))
    running.core.link(False)
    for _ in range(30):
        running.infer(2)
        running.advance(10, step_ms=1000)
    running.core.link(True, False)
    running.run()
    new = windows(running)[before:]
    assert sum(window.n for window in new) == 60
    assert all(window.n == 2 for window in new)
    assert all(len(payload) <= 1024 for payload in sent(running))
    assert max(len(batch.windows) for batch in running.batches()) == 12


def test_the_ring_overflows_with_a_notice(running: Rig) -> None:
    running.core.link(False)
    for _ in range(600):
        running.infer(1)
        running.advance(10, step_ms=5000)
    running.core.link(True, False)
    running.advance(10)
    found = windows(running)
    lost = [event.detail for event in running.events() if event.kind.name == "TELEMETRY_LOST"]
    assert lost
    gone = sum(to - first + 1 for _, first, to, _ in lost)
    kept = [window.seq & 0xFFFFFFFF for window in found]
    assert kept == sorted(kept)
    assert kept[-1] + 1 == running.core.state().telemetry_counter
    assert gone > 0
    assert running.core.state().ring_bytes <= 16_384


def test_without_a_clock_windows_wait_and_the_oldest_merge(tmp_path: Path) -> None:
    """No SNTP and no signed time: nobody could place a record, so none is numbered yet."""
    rig = Rig(tmp_path)
    rig.has_clock, rig.unix = False, 0
    rig.core.clock_set(rig.ms, 0)
    rig.start()
    rig.give_trust(trust(issued=0))
    item = artifact(1)
    rig.stage(item)
    entry = DesiredEntry(Action.RUN, item.id, attempt=1)
    rig.want(entry, issued=0, config={ConfigKey.WINDOW_S: 10})
    rig.confirm()
    for _ in range(20):
        rig.advance(11)
        rig.infer(2, label=0)
    assert rig.batches() == []
    assert rig.events() == []
    assert rig.reports()[-1].unix_s == 0
    rig.has_clock = True
    rig.advance(12)
    found = windows(rig)
    assert len(found) == 16 + 1, "sixteen waited, one was open"
    assert sum(window.n for window in found) == 3 + 2 * 20
    assert sum(window.lab_n for window in found) == 2 * 20
    assert found[0].flags & 8, "the merged one says so"
    assert not any(window.flags & 8 for window in found[1:])
    assert rig.events()[0].kind.name == "RESET"


def test_signed_time_is_enough_for_telemetry(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.has_clock, rig.unix = False, 0
    rig.core.clock_set(rig.ms, 0)
    rig.start()
    rig.give_trust()
    item = artifact(1)
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), issued=NOW, config={ConfigKey.WINDOW_S: 10})
    rig.confirm()
    rig.advance(15)
    batch = rig.batches()[0]
    assert batch.clock.name == "ISSUED_UPTIME"
    assert 0 <= batch.windows[0].ts_ms - NOW * 1000 < 20_000


def test_an_alarm_is_told_once_and_at_most_once_a_minute(running: Rig) -> None:
    running.infer(3, scores=(0.5, 0.5))
    running.run()
    alarms = [event for event in running.events() if event.kind.name == "ANOMALY"]
    assert [event.detail for event in alarms] == [(1000, 900, 0, 0)]
    assert alarms[0].mid == artifact(1).mid
    running.infer(3)
    running.infer(3, scores=(0.5, 0.5))
    running.run()
    alarms = [event for event in running.events() if event.kind.name == "ANOMALY"]
    assert [event.detail for event in alarms[1:]] == [(500, 900, 0, 0)], (
        "its end; the next is within the minute"
    )
    running.infer(3)
    running.advance(61, step_ms=1000)
    running.infer(3, scores=(0.1, 0.5, 0.49))
    running.run()
    alarms = [event for event in running.events() if event.kind.name == "ANOMALY"]
    assert [event.detail for event in alarms[2:]] == [(990, 900, 1, 1)]
    assert max(window.anom_n for window in windows(running)) >= 3


def test_the_threshold_of_the_configuration_beats_the_hint(running: Rig) -> None:
    entry = DesiredEntry(Action.RUN, artifact(1).id, attempt=1)
    running.want(entry, config={ConfigKey.ANOMALY_THRESHOLD: 400, ConfigKey.WINDOW_S: 10})
    running.infer(1, scores=(0.7, 0.2))
    assert one_window(running).anom_n == 1
    running.want(entry, config={ConfigKey.ANOMALY_THRESHOLD: 0, ConfigKey.WINDOW_S: 10})
    running.infer(1, scores=(0.5, 0.5))
    assert one_window(running).anom_n == 0, "0 is off"


def test_a_jump_of_the_clock_is_told(running: Rig) -> None:
    running.infer(1)
    running.unix += 3600
    running.core.clock_set(running.ms, running.unix)
    running.run()
    steps = [event for event in running.events() if event.kind.name == "CLOCK_STEP"]
    assert len(steps) == 1
    assert abs(steps[0].detail[0] - 3_600_000) < 1500
    running.core.clock_set(running.ms + 10_000, running.unix + 10)
    running.run()
    assert windows(running)[-1].flags & 1
