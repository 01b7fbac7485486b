"""From a desired entry to a verified candidate: fetching, resuming, deferring."""

from __future__ import annotations

import hashlib

from device_firmware.host.core import CODES, Area, Phase, Reset, State
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, ConfigKey
from ota.desired import DesiredEntry
from ota.hints import Hints
from ota.tensors import GoldenVector
from tests.firmware import record
from tests.firmware.artifacts import NOW, artifact, signed_trust, trust, vectors
from tests.firmware.rig import Rig
from tests.firmware.test_refusals import BANK_HEAD, refused


def test_a_first_model_is_installed(rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    wanted = "IDLE OFFERED MANIFEST_OK DOWNLOADING DOWNLOADED VERIFIED TRIAL CONFIRMED"
    assert rig.states() == wanted.split()
    assert rig.engine.loaded[0] == item.data
    running = rig.core.running(0)
    assert running is not None
    assert (running.id, running.name, running.seq) == (item.id, "har", 1)
    report = rig.reports()[-1].slots[0]
    assert report.run_bank is not None
    assert (report.run_bank.manifest_id, report.run_bank.seq, report.target) == (
        item.id[:16],
        1,
        item.id[:16],
    )
    assert report.other_bank is None
    assert (report.self_test.n, report.self_test.ok) == (2, 2)
    assert record.newest(rig.path).names == ((hashlib.sha256(b"har").digest()[:8], item.id[:8], 1, 0),)


def test_segments_are_pulled_one_at_a_time_and_left_again(rig: Rig) -> None:
    item = artifact(1, size=36 * 4096)
    rig.offer(item)
    segments = [topic for topic in rig.port.watches if topic.endswith("/+")]
    assert segments == [topics.segment_filter(item.mid, segment) for segment in range(3)]
    assert not any("/model/" in topic for topic in rig.port.subscriptions)
    assert (rig.slot().have, rig.slot().total) == (36, 36)


def test_the_largest_model_of_a_slot_fits_and_one_chunk_more_does_not(rig: Rig) -> None:
    rig.offer(artifact(1, size=64 * 4096 + 1))
    assert refused(rig) == (CODES["too_large"], 65)
    rig.install(artifact(2, size=64 * 4096), attempt=2)


def test_a_golden_blob_counts_chunks_of_its_own(rig: Rig) -> None:
    item = artifact(1, force_blob=True)
    assert item.blob
    rig.install(item)
    assert rig.slot().total == 5 + 1
    assert rig.slot().golden_n == 40


def test_an_update_keeps_the_other_bank_for_a_revert(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.install(second)
    report = rig.reports()[-1].slots[0]
    assert report.other_bank is not None
    assert (report.other_bank.manifest_id, report.other_bank.flags) == (first.id[:16], 1)
    assert rig.slot().run_bank == 1
    assert rig.slot().phase == Phase.CONFIRMED


def test_a_power_loss_in_the_middle_costs_no_chunk_twice(rig: Rig) -> None:
    item = artifact(1, size=30 * 4096)
    held_back = topics.chunk(item.mid, 17)
    rig.port.alter = lambda topic, payload: None if topic == held_back else payload
    rig.offer(item)
    assert rig.slot().state == State.DOWNLOADING
    have = rig.slot().have
    assert 16 <= have < 30
    rig.port.alter = lambda topic, payload: payload
    rig.restart(Reset.POWER)
    assert rig.slot().have == 30
    erases = [rig.core.erase_count(Area.BANK0, BANK_HEAD + index) for index in range(30)]
    assert erases == [1] * 30
    rig.confirm()


def test_a_flipped_bit_in_a_chunk_is_dropped_and_fetched_again(rig: Rig) -> None:
    item = artifact(1, size=12 * 4096)
    target, flips = topics.chunk(item.mid, 3), []

    def flip_once(topic: str, payload: bytes) -> bytes:
        if topic != target or flips:
            return payload
        flips.append(topic)
        return bytes([payload[0] ^ 1]) + payload[1:]

    rig.port.alter = flip_once
    rig.offer(item)
    assert rig.core.state().dropped_chunks == 1
    rig.advance(3)
    assert flips
    assert rig.slot().state == State.TRIAL
    assert rig.core.erase_count(Area.BANK0, BANK_HEAD + 3) == 1, "the flipped chunk must not reach flash"


def test_silence_is_answered_by_asking_again_and_then_chunk_by_chunk(rig: Rig) -> None:
    item = artifact(1, size=20 * 4096)
    missing = topics.chunk(item.mid, 17)
    rig.port.alter = lambda topic, payload: None if topic == missing else payload
    rig.offer(item)
    assert rig.slot().have == 19
    for _ in range(4):
        rig.advance(15)
    asked = rig.port.watches.count(topics.segment_filter(item.mid, 1))
    assert asked == 3
    assert missing in rig.port.watches, "after three misses the chunk is asked for alone"
    rig.port.alter = lambda topic, payload: payload
    rig.advance(80)
    assert rig.slot().state == State.TRIAL


def test_chunks_of_other_models_and_nonsense_topics_change_nothing(rig: Rig) -> None:
    item, other = artifact(1, size=12 * 4096), artifact(9, name="kws", size=12 * 4096)
    first = topics.chunk(item.mid, 0)
    rig.port.alter = lambda topic, payload: None if topic == first else payload
    rig.offer(item)
    ops = rig.core.state().flash_ops
    good = item.publications()[first]
    for topic, payload in [
        (topics.chunk(other.mid, 0), good),
        (first, good[:-1]),
        (first, good + b"x"),
        (first, b""),
        (f"f1/model/{item.mid}/1/0", good),
        (f"f1/model/{item.mid}/00/0", good),
        (f"f1/model/{item.mid}/0/00", good),
        (f"f1/model/{item.mid}/0/-1", good),
        (f"f1/model/{item.mid}/127/1022", good),
        (f"f1/model/{item.mid}/99999/799999", good),
        (f"f1/model/{item.mid}", good),
        ("f1/dev/dev-8/desired", good),
        ("f1/dev/dev-7/reported", good),
        ("", b""),
        ("f1/model/" + "0" * 300, good),
    ]:
        assert rig.core.message(topic, payload) == -102, topic
    assert rig.core.state().flash_ops == ops
    assert rig.core.message(first, good) == 0


def test_a_leaf_list_of_other_bytes_is_refused_after_three_tries(rig: Rig) -> None:
    item = artifact(1)
    where = topics.leaves(item.mid)
    rig.port.alter = lambda topic, payload: payload[::-1] if topic == where else payload
    rig.offer(item)
    assert rig.slot().state == State.MANIFEST_OK
    rig.advance(40)
    assert refused(rig)[0] == CODES["leaf_list"]


def test_a_manifest_of_other_bytes_is_refused_after_three_tries(rig: Rig) -> None:
    item, other = artifact(1), artifact(2)
    where = topics.manifest(item.mid)
    rig.port.alter = lambda topic, payload: other.message if topic == where else payload
    rig.offer(item)
    assert rig.slot().state == State.OFFERED
    rig.advance(40)
    assert refused(rig)[0] == CODES["digest"]
    assert rig.slot().other_id == bytes(16), "nothing of it reached flash"


def test_a_model_that_contradicts_its_manifest_is_refused_after_one_refetch(rig: Rig) -> None:
    item = artifact(1, manifest_changes={"sha256": bytes(32)})
    rig.offer(item)
    assert refused(rig)[0] == CODES["digest"]
    assert rig.slot().phase == Phase.EMPTY


def test_a_bit_that_flips_in_flash_before_the_switch_costs_one_chunk(rig: Rig) -> None:
    item = artifact(1, size=10 * 4096)
    rig.port.refuse_switch = "busy"
    last = topics.chunk(item.mid, 9)
    rig.port.alter = lambda topic, payload: None if topic == last else payload
    rig.offer(item)
    rig.core.flip(Area.BANK0, (BANK_HEAD + 4) * 4096 + 100, 3)
    rig.port.refuse_switch = None
    rig.port.alter = lambda topic, payload: payload
    rig.advance(12)
    assert rig.slot().state == State.TRIAL
    assert rig.core.erase_count(Area.BANK0, BANK_HEAD + 4) == 2
    assert rig.core.erase_count(Area.BANK0, BANK_HEAD + 5) == 1


def test_a_switch_waits_for_the_board(rig: Rig) -> None:
    rig.port.refuse_switch = "low_power"
    rig.offer(artifact(1))
    slot = rig.slot()
    assert (slot.state, slot.code) == (State.DEFERRED, CODES["low_power"])
    rig.advance(5)
    assert rig.slot().state == State.DEFERRED
    rig.port.refuse_switch = None
    rig.advance(3)
    rig.confirm()


def test_a_switch_waits_for_the_maintenance_window(rig: Rig) -> None:
    minute, weekday = NOW // 60 % 1440, (NOW // 86400 + 3) % 7
    later = {ConfigKey.MAINTENANCE_WINDOW: (1 << weekday, minute + 2, 5)}
    item = artifact(1)
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config=later)
    slot = rig.slot()
    assert (slot.state, slot.code) == (State.DEFERRED, CODES["maintenance_window"])
    rig.advance(125, step_ms=1000)
    assert rig.slot().state == State.TRIAL


def test_a_maintenance_window_may_cross_midnight(rig: Rig) -> None:
    minute, weekday = NOW // 60 % 1440, (NOW // 86400 + 3) % 7
    assert minute > 10
    yesterday = {ConfigKey.MAINTENANCE_WINDOW: (1 << (weekday + 6) % 7, 1439, minute + 2)}
    item = artifact(1)
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config=yesterday)
    assert rig.slot().state == State.TRIAL


def test_not_before_gates_the_switch_and_not_the_download(rig: Rig) -> None:
    rig.offer(artifact(1), not_before=NOW + 30)
    assert rig.slot().state == State.VERIFIED
    rig.advance(20)
    assert rig.slot().state == State.VERIFIED
    rig.advance(15)
    assert rig.slot().state == State.TRIAL


def test_an_entry_past_its_deadline_is_refused(rig: Rig) -> None:
    rig.offer(artifact(1), not_before=NOW + 60, deadline=NOW + 30)
    assert rig.slot().state == State.VERIFIED
    rig.advance(35)
    assert refused(rig)[0] == CODES["expired"]


def test_a_withdrawn_offer_ends_the_fetch_and_its_chunks_stay(rig: Rig) -> None:
    first, second = artifact(1), artifact(2, size=20 * 4096)
    rig.install(first)
    missing = topics.chunk(second.mid, 17)
    rig.port.alter = lambda topic, payload: None if topic == missing else payload
    rig.offer(second, attempt=2)
    assert rig.slot().phase == Phase.FETCH
    rig.want(DesiredEntry(Action.RUN, first.id, attempt=3))
    assert (rig.slot().phase, rig.slot().state) == (Phase.CONFIRMED, State.CONFIRMED)
    assert topics.segment_filter(second.mid, 1) not in rig.port.subscriptions
    rig.port.alter = lambda topic, payload: payload
    before = [rig.core.erase_count(Area.BANK0 + 1, BANK_HEAD + index) for index in range(20)]
    rig.want(DesiredEntry(Action.RUN, second.id, attempt=4))
    after = [rig.core.erase_count(Area.BANK0 + 1, BANK_HEAD + index) for index in range(20)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [0] * 17 + [1] + [0] * 2
    rig.confirm()


def test_a_slot_that_is_not_named_stays_as_it_is(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.want()
    assert rig.slot().state == State.IDLE
    assert rig.core.running(0) is not None
    assert rig.reports()[-1].slots[0].target == b""


def test_a_sector_that_cannot_be_written_ends_in_flash_io(rig: Rig) -> None:
    rig.core.bad_sector(Area.BANK0, BANK_HEAD + 2, 3)
    rig.offer(artifact(1))
    for _ in range(10):
        rig.advance(15)
    assert refused(rig)[0] == CODES["flash_io"]


def test_a_sector_whose_bits_stick_is_seen_by_the_read_back(rig: Rig) -> None:
    item = artifact(1, size=5 * 4096)
    rig.core.bad_sector(Area.BANK0, BANK_HEAD + 2, 2)
    rig.offer(item)
    assert rig.slot().have < 5
    rig.core.bad_sector(Area.BANK0, BANK_HEAD + 2, 0)
    rig.advance(20)
    rig.confirm()


def test_chunk_writes_per_minute_are_capped(rig: Rig) -> None:
    item = artifact(1, size=40 * 4096)
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config={ConfigKey.CHUNK_RATE: 10})
    assert rig.slot().have == 16, "a segment that was begun is finished"
    rig.advance(30, step_ms=1000)
    assert rig.slot().have == 16
    rig.advance(35, step_ms=1000)
    assert rig.slot().have == 32


def test_an_unsigned_clock_defers_what_only_it_calls_expired(rig: Rig) -> None:
    """The signed time is that of the desired document; the wall clock runs ahead of it."""
    item = artifact(1, expires=NOW + 500)
    rig.stage(item)
    rig.unix += 1000
    rig.core.clock_set(rig.ms, rig.unix)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), issued=NOW)
    slot = rig.slot()
    assert (slot.state, slot.code) == (State.DEFERRED, CODES["expired"])
    later = DesiredEntry(Action.RUN, item.id, attempt=2)
    rig.want(later, issued=NOW + 1000)
    rig.advance(5)
    assert refused(rig)[0] == CODES["expired"], "a signed clock refuses"


def test_an_expired_trust_document_blocks_new_models_only(rig: Rig) -> None:
    first = artifact(1)
    rig.install(first)
    rig.give_trust(trust(version=2, expires=NOW - 10))
    rig.offer(artifact(2), version=2, attempt=2)
    assert refused(rig)[0] == CODES["expired"]
    rig.restart()
    assert rig.core.running(0) is not None


def test_hints_reach_the_caller(rig: Rig) -> None:
    hints = Hints(window=128, hop=64, channels=3, reset_policy=1, latency_budget_us=9000, head=1, classes=6)
    rig.install(artifact(1, hints=hints))
    model = rig.core.running(0)
    assert model is not None
    assert (model.window, model.hop, model.channels, model.reset_policy) == (128, 64, 3, 1)
    assert (model.latency_us, model.head, model.classes) == (9000, 1, 6)


def test_the_golden_vectors_used_here_fit_inline_and_in_a_blob() -> None:
    assert not artifact(1).blob
    assert len(vectors(40)) == 40
    assert isinstance(vectors()[0], GoldenVector)
    assert signed_trust(trust())
