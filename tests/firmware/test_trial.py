"""The trial of a candidate: recorded before it runs, judged by golden vectors, proven in probation."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from device_firmware.host.core import CODES, Area, Phase, Reset, State
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, CommandVerb, ConfigKey
from ota.desired import DesiredEntry
from ota.hints import Hints
from ota.tensors import DType, GoldenVector, TensorSpec
from tests.firmware import record
from tests.firmware.artifacts import IN, artifact, ident
from tests.firmware.played import ScriptedEngine
from tests.firmware.rig import Rig


def reverted(rig: Rig) -> tuple[int, int]:
    """Code and detail of slot 0, which must be reverted, with nothing of the trial left over."""
    slot = rig.slot()
    assert slot.state == State.REVERTED, slot
    assert (slot.attempts, slot.cuts, slot.flags) == (0, 0, 0)
    return slot.code, slot.detail


def test_the_log_says_trial_before_the_engine_sees_a_byte(tmp_path: Path) -> None:
    seen: list[record.Record] = []
    engine = ScriptedEngine(on_load=lambda: seen.append(record.newest(tmp_path / "flash.bin")))
    rig = Rig(tmp_path, engine=engine)
    rig.start()
    rig.give_trust()
    item = artifact(1)
    rig.offer(item)
    assert [(entry.phase, entry.other_id, entry.attempts) for entry in seen] == [
        (Phase.TRIAL, item.id[:16], 0)
    ]


def test_a_golden_mismatch_takes_the_old_model_back(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.engine.offset = 9
    rig.offer(second, attempt=2)
    assert reverted(rig) == (CODES["selftest_mismatch"], 9)
    assert rig.engine.loaded[0] == first.data
    running = rig.core.running(0)
    assert running is not None
    assert running.id == first.id
    report = rig.reports()[-1].slots[0]
    assert (report.failed_id, report.failed_attempt) == (second.id[:8], 2)
    assert (report.self_test.n, report.self_test.ok, report.self_test.max_diff) == (2, 0, 9)
    event = next(event for event in rig.events() if event.kind.name == "GOLDEN_MISMATCH")
    assert (event.detail, event.mid) == ((2, 0, 9), second.mid)
    assert report.other_bank is not None
    assert report.other_bank.flags == 0, "what failed is no place to go back to"


def test_a_failed_model_is_not_tried_again_before_a_higher_attempt(rig: Rig) -> None:
    item = artifact(1)
    rig.engine.offset = 9
    rig.offer(item, attempt=4)
    loads = rig.engine.calls.count("load")
    rig.engine.offset = 0
    rig.offer(item, attempt=4)
    rig.offer(item, attempt=3)
    rig.restart()
    assert reverted(rig)[0] == CODES["selftest_mismatch"]
    assert rig.engine.calls.count("load") == loads
    rig.offer(item, attempt=5)
    rig.confirm()
    assert rig.reports()[-1].slots[0].failed_id == b""


@pytest.mark.parametrize(("offset", "passes"), [(0, True), (2, True), (-2, True), (3, False), (-3, False)])
def test_the_tolerance_counts_steps_of_the_output(offset: int, passes: bool, rig: Rig) -> None:
    rig.engine.offset = offset
    golden = [GoldenVector((bytes([i, 20, 30, 40]),), (bytes([i, 20, 30]),)) for i in (5, 6)]
    rig.offer(artifact(1, golden=golden, tolerance=2))
    assert (rig.slot().state == State.TRIAL) == passes


class FloatEngine(ScriptedEngine):
    """Answers with one float32 of a script."""

    answer: float = 0.0

    def invoke(self, slot: int, inputs: object) -> tuple[list[bytes], int]:
        return [struct.pack("<f", self.answer)], 100


@pytest.mark.parametrize(
    ("answer", "golden", "passes"),
    [
        (1.0, 1.0, True),
        (1.0 + 1.9 / 256, 1.0, True),
        (1.0 + 2.1 / 256, 1.0, False),
        (-1.0, 1.0, False),
        (1e-30, 0.0, True),
        (-0.0, 0.0, True),
        (3e38, 3e38, True),
        (3e38, 1.0, False),
        (1e6, 1e6 + 1, False),
        (float("inf"), 1.0, False),
        (float("nan"), 1.0, False),
        (float("nan"), float("nan"), False),
    ],
)
def test_float_outputs_are_compared_in_steps_of_1_256(
    answer: float, golden: float, passes: bool, tmp_path: Path
) -> None:
    engine = FloatEngine()
    engine.answer = answer
    rig = Rig(tmp_path, engine=engine)
    rig.start()
    rig.give_trust()
    vector = GoldenVector((bytes(4),), (struct.pack("<f", golden),))
    out = TensorSpec.of(DType.FLOAT32, (1,))
    rig.offer(artifact(1, golden=[vector], inputs=(IN,), outputs=(out,), tolerance=2))
    assert (rig.slot().state == State.TRIAL) == passes


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("load_failed", "load_failed"),
        ("arena_too_small", "arena_too_small"),
        ("op_missing", "op_missing"),
        ("io_contract", "io_contract"),
        ("busy", "load_failed"),
    ],
)
def test_what_the_engine_says_at_load_is_the_code(code: str, expected: str, rig: Rig) -> None:
    rig.engine.load_error = code
    rig.offer(artifact(1))
    assert reverted(rig)[0] == CODES[expected]
    assert rig.slot().phase == Phase.EMPTY


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_in_the_engine_is_a_failed_load(rig: Rig) -> None:
    rig.engine.raises = True
    rig.offer(artifact(1))
    assert reverted(rig)[0] == CODES["load_failed"]


def test_the_measured_arena_counts(rig: Rig) -> None:
    rig.engine.arena_used = 100_001
    rig.offer(artifact(1))
    assert reverted(rig) == (CODES["arena_too_small"], 65_535), "the detail of a record has 16 bits"


def test_an_index_walk_that_fails_never_reaches_load(rig: Rig) -> None:
    rig.engine.check_error = "schema"
    rig.offer(artifact(1))
    assert reverted(rig)[0] == CODES["schema"]
    assert "load" not in rig.engine.calls


def test_an_invoke_that_fails_in_the_self_test(rig: Rig) -> None:
    rig.engine.invoke_error = "load_failed"
    rig.offer(artifact(1))
    assert reverted(rig) == (CODES["load_failed"], 0)


def test_a_model_slower_than_its_budget(rig: Rig) -> None:
    rig.engine.us = 901
    rig.offer(artifact(1, hints=Hints(latency_budget_us=900)))
    assert reverted(rig) == (CODES["latency_budget"], 901)
    rig.engine.us = 900
    rig.install(artifact(2, hints=Hints(latency_budget_us=900)), attempt=2)


def test_state_is_reset_once_before_the_first_vector(rig: Rig) -> None:
    rig.offer(artifact(1))
    calls = rig.engine.calls
    assert calls[-4:] == ["load", "reset", "invoke", "invoke"]


def test_probation_needs_inferences_seconds_and_a_report_over_a_new_connection(rig: Rig) -> None:
    rig.acknowledges = False
    rig.offer(artifact(1))
    rig.advance(10)
    assert rig.slot().phase == Phase.PROBATION, "no inference"
    rig.infer(2)
    rig.advance(1)
    assert rig.slot().phase == Phase.PROBATION, "too few"
    rig.infer(1)
    rig.advance(1)
    assert rig.slot().phase == Phase.PROBATION, "no report acknowledged"
    rig.acknowledges = True
    rig.reconnect(fresh=False)
    rig.advance(1)
    assert rig.slot().phase == Phase.CONFIRMED


def test_a_report_of_before_the_trial_is_no_proof(rig: Rig) -> None:
    rig.acknowledges = False
    rig.offer(artifact(1))
    rig.infer(3)
    rig.advance(5)
    old = [token for _, _, qos, _, token in rig.port.sent if qos]
    proof = [t for t in old if t == max(old)]
    for token in old:
        if token not in proof:
            rig.core.sent(token)
    rig.advance(1)
    if rig.slot().phase == Phase.PROBATION:
        for token in proof:
            rig.core.sent(token)
        rig.advance(1)
    assert rig.slot().phase == Phase.CONFIRMED
    first_of_new_connection = [
        entry for entry in rig.port.sent if entry[0] == topics.device("dev-7", "online")
    ]
    assert len(first_of_new_connection) == 2, "probation made a new connection"


NO_LINK_S = 6 * 3600


def lose_the_link(rig: Rig) -> None:
    """A candidate in probation, whose reports nobody acknowledged, until it ends."""
    assert rig.slot().phase == Phase.PROBATION
    rig.core.link(False)
    rig.infer(3)
    rig.advance(NO_LINK_S - 3600, step_ms=60_000)
    assert rig.slot().phase == Phase.PROBATION
    rig.advance(3700, step_ms=60_000)
    assert rig.slot().phase == Phase.CONFIRMED


def test_a_candidate_without_a_link_is_kept_and_tried_again_when_the_old_model_has_one(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.acknowledges = False
    rig.offer(second, attempt=2)
    lose_the_link(rig)
    slot = rig.slot()
    assert (slot.state, slot.code, slot.detail) == (State.DEFERRED, CODES["no_link"], 1)
    assert slot.run_id == first.id[:16]
    rig.restart(connect=False)
    assert rig.slot().state == State.DEFERRED, "the count is in the record"
    chunks = {topic for topic in rig.port.retained if topic.count("/") == 4}
    for topic in chunks:
        del rig.port.retained[topic]
    rig.acknowledges = True
    rig.reconnect()
    assert rig.slot().phase == Phase.PROBATION, "no chunk was needed again"
    rig.confirm()
    assert rig.slot().run_id == second.id[:16]


def test_a_candidate_without_a_link_is_given_up_after_three_more_tries(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.acknowledges = False
    rig.offer(artifact(2), attempt=2)
    for _ in range(3):
        lose_the_link(rig)
        assert rig.slot().state == State.DEFERRED
        rig.reconnect()
    lose_the_link(rig)
    assert reverted(rig)[0] == CODES["no_link"]
    rig.reconnect()
    assert reverted(rig)[0] == CODES["no_link"]
    rig.offer(artifact(2), attempt=3)
    lose_the_link(rig)
    assert rig.slot().state == State.DEFERRED, "a higher attempt counts anew"


def test_low_heap_defers_the_switch_and_ends_a_probation(tmp_path: Path) -> None:
    rig = Rig(tmp_path, identity=ident(heap_floor=50_000))
    rig.core.health(heap_free=49_999, rssi=-60)
    rig.start()
    rig.give_trust()
    rig.offer(artifact(1))
    assert (rig.slot().state, rig.slot().code) == (State.DEFERRED, CODES["low_heap"])
    rig.core.health(heap_free=50_000, rssi=-60)
    rig.advance(3)
    assert rig.slot().phase == Phase.PROBATION
    rig.core.health(heap_free=41_000, rssi=-60)
    rig.advance(1)
    assert reverted(rig) == (CODES["low_heap"], 41_000)
    told = [event.detail for event in rig.events() if event.kind.name == "LOW_HEAP"]
    assert told == [(41_000, 50_000)]


def test_configuration_raises_probation_and_never_lowers_it(rig: Rig) -> None:
    item = artifact(1)
    rig.stage(item)
    entry = DesiredEntry(Action.RUN, item.id, attempt=1)
    rig.want(entry, config={ConfigKey.PROBATION: (6, 0)})
    rig.infer(5)
    rig.advance(5)
    assert rig.slot().phase == Phase.PROBATION
    rig.want(entry, config={ConfigKey.PROBATION: (0, 0)})
    rig.advance(1)
    assert rig.slot().phase == Phase.CONFIRMED, "five are enough for the class"


def test_a_failing_inference_in_probation_reverts(rig: Rig) -> None:
    first = artifact(1)
    rig.install(first)
    rig.offer(artifact(2), attempt=2)
    rig.core.sample(0, us=0, failed=True)
    rig.run()
    assert reverted(rig)[0] == CODES["load_failed"]
    running = rig.core.running(0)
    assert running is not None
    assert running.id == first.id


@pytest.mark.parametrize(
    ("reason", "count", "code"),
    [(Reset.PANIC, 2, "crash_loop"), (Reset.WATCHDOG, 2, "watchdog"), (Reset.POWER, 16, "low_power"),
     (Reset.BROWNOUT, 16, "low_power")],
)  # fmt: skip
def test_resets_in_a_trial_are_counted_by_their_reason(
    reason: Reset, count: int, code: str, rig: Rig
) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.offer(second, attempt=2)
    for number in range(count - 1):
        rig.restart(reason)
        slot = rig.slot()
        assert slot.phase == Phase.PROBATION, number
        assert (slot.attempts if count == 2 else slot.cuts) == number + 1
    rig.restart(reason)
    assert reverted(rig)[0] == CODES[code]
    running = rig.core.running(0)
    assert running is not None
    assert running.id == first.id
    assert rig.reports()[-1].slots[0].failed_attempt == 2
    rig.restart(reason)
    assert reverted(rig)[0] == CODES[code], "and stays so"


def test_a_first_model_that_crashes_leaves_the_device_without_one_and_online(rig: Rig) -> None:
    rig.offer(artifact(1))
    rig.restart(Reset.PANIC)
    rig.restart(Reset.PANIC)
    assert reverted(rig)[0] == CODES["crash_loop"]
    assert rig.slot().phase == Phase.EMPTY
    assert rig.core.running(0) is None
    rig.install(artifact(2), attempt=2)


def test_a_reboot_that_was_asked_for_is_not_counted_and_keeps_the_progress(rig: Rig) -> None:
    rig.offer(artifact(1))
    rig.infer(2)
    rig.advance(1)
    rig.command(CommandVerb.REBOOT)
    assert rig.port.reboots == 1
    rig.restart(Reset.EXPECTED)
    slot = rig.slot()
    assert (slot.phase, slot.attempts, slot.cuts) == (Phase.PROBATION, 0, 0)
    rig.infer(1)
    rig.advance(2)
    assert rig.slot().phase == Phase.CONFIRMED


def test_a_software_reset_nobody_asked_for_is_a_panic(rig: Rig) -> None:
    rig.offer(artifact(1))
    rig.restart(Reset.EXPECTED)
    assert rig.slot().attempts == 1
    assert rig.reports()[-1].reset_reason.name == "PANIC"


def test_a_newer_offer_waits_for_the_end_of_a_trial(rig: Rig) -> None:
    first, second, third = artifact(1), artifact(2), artifact(3)
    rig.install(first)
    rig.offer(second, attempt=2)
    rig.offer(third, attempt=3)
    slot = rig.slot()
    assert (slot.phase, slot.other_id) == (Phase.PROBATION, second.id[:16])
    assert slot.state == State.OFFERED, "the state is that of the newest entry"
    rig.infer(3)
    rig.advance(3)
    assert rig.slot().run_id == second.id[:16]
    assert rig.slot().other_id == third.id[:16]
    rig.confirm()
    assert rig.slot().run_id == third.id[:16]


@pytest.mark.parametrize("reason", [Reset.POWER, Reset.SLEEP, Reset.PANIC])
def test_an_entry_for_the_old_model_is_not_confirmed_by_a_reset_while_another_is_tried(
    reason: Reset, rig: Rig
) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.offer(second, attempt=2)
    rig.offer(first, attempt=3)
    assert rig.slot().state == State.OFFERED
    rig.restart(reason)
    running = rig.core.running(0)
    assert running is not None
    assert running.id == second.id
    assert rig.slot().state == State.OFFERED, "what it asks for is not what runs"
    assert rig.reports()[-1].slots[0].state.name == "OFFERED"


def test_a_candidate_whose_flash_wears_out_in_its_trial(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.offer(second, attempt=2)
    rig.core.flip(Area.BANK0 + 1, 3 * 4096, 1)
    rig.restart()
    assert reverted(rig)[0] == CODES["digest"]
    running = rig.core.running(0)
    assert running is not None
    assert running.id == first.id


def test_a_commanded_self_test_answers_and_gives_the_model_back(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.command(CommandVerb.SELF_TEST, 0)
    result = [event for event in rig.events() if event.kind.name == "COMMAND_RESULT"][-1]
    assert result.detail[:2] == (CommandVerb.SELF_TEST, 0)
    rig.engine.offset = 9
    rig.command(CommandVerb.SELF_TEST, 0)
    result = [event for event in rig.events() if event.kind.name == "COMMAND_RESULT"][-1]
    assert result.detail[:2] == (CommandVerb.SELF_TEST, CODES["selftest_mismatch"])
    assert rig.core.running(0) is not None
    assert rig.slot().state == State.CONFIRMED, "a confirmed model is not judged by one command"
