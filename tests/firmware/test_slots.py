"""Several slots: one arena for all, groups that switch in one record, one job after the other."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from device_firmware.host import build
from device_firmware.host.core import CODES, Model, Phase, Reset, State
from fleet.mqtt.codec.names import Action
from ota.desired import DesiredEntry
from ota.trust import NameRule
from tests.firmware import record, scenario
from tests.firmware.artifacts import CAPACITY, NOW, Artifact, artifact, ident, trust
from tests.firmware.played import ScriptedEngine
from tests.firmware.rig import Rig

C_DIR = Path(__file__).parent / "c"
CONFIRMED, TRIAL, PROBATION = Phase.CONFIRMED, Phase.TRIAL, Phase.PROBATION


@dataclass
class TwoModels(ScriptedEngine):
    """Each slot has an arena and an offset of its own."""

    arenas: dict[int, int] = field(default_factory=lambda: {0: 30_000, 1: 40_000})
    offsets: dict[int, int] = field(default_factory=dict)

    def load(self, slot: int, model: bytes, spec: Model) -> int:
        super().load(slot, model, spec)
        return self.arenas[slot]

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        self.offset = self.offsets.get(slot, 0)
        return super().invoke(slot, inputs)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path, identity=ident(slot_capacity=(CAPACITY, CAPACITY)), engine=TwoModels())
    made.start()
    made.give_trust()
    return made


def model(slot: int, seq: int) -> Artifact:
    """A version of the slot's own model."""
    return artifact(seq, name=f"model-{slot}", slot=slot)


def want(rig: Rig, *items: Artifact, not_before: int = 0, attempt: int = 1, **changes: Any) -> None:
    """Desire one model a slot, all with the same not_before."""
    for item in items:
        rig.stage(item)
    entries = [
        DesiredEntry(Action.RUN, item.id, not_before=not_before, attempt=attempt, **changes) for item in items
    ]
    assert rig.want(*entries) == 0


def serve(rig: Rig, seconds: float = 3) -> None:
    """Inferences of both slots, and time."""
    for slot in (0, 1):
        for _ in range(3):
            rig.core.sample(slot, us=800, scores=(0.7, 0.2, 0.1))
    rig.advance(seconds)


def states(rig: Rig) -> tuple[State, State]:
    """Update states of both slots."""
    return rig.core.slot(0).state, rig.core.slot(1).state


def phases(rig: Rig) -> tuple[Phase, Phase]:
    """Persisted phases of both slots."""
    return rig.core.slot(0).phase, rig.core.slot(1).phase


def install_both(rig: Rig, seq: int = 1) -> tuple[Artifact, Artifact]:
    """Both slots confirmed, one after the other."""
    items = model(0, seq), model(1, seq)
    want(rig, *items)
    for _ in range(3):
        serve(rig)
    assert states(rig) == (State.CONFIRMED, State.CONFIRMED)
    return items


def both_phases(flash: Path) -> list[tuple[int, int]]:
    """Phases of slots 0 and 1 in every record, oldest first."""
    data = flash.read_bytes()[4096 : 4096 + 16 * 512]
    raw = [data[at : at + 512] for at in range(0, len(data), 512)]
    found = [entry for entry in raw if record.parse(entry)]
    found.sort(key=lambda entry: int.from_bytes(entry[8:16], "little"))
    return [(entry[272], entry[328]) for entry in found]


def test_two_slots_are_served_one_after_the_other(rig: Rig) -> None:
    first, second = install_both(rig)
    assert [rig.core.slot(i).run_id for i in (0, 1)] == [first.id[:16], second.id[:16]]
    assert set(rig.engine.loaded) == {0, 1}


def test_a_candidate_that_waits_does_not_keep_another_slot_from_fetching(rig: Rig) -> None:
    first, second = model(0, 1), model(1, 1)
    rig.stage(first)
    rig.stage(second)
    rig.want(
        DesiredEntry(Action.RUN, first.id, not_before=NOW + 3600, attempt=1),
        DesiredEntry(Action.RUN, second.id, attempt=1),
    )
    assert states(rig) == (State.VERIFIED, State.TRIAL)
    serve(rig)
    assert states(rig) == (State.VERIFIED, State.CONFIRMED)


def test_a_group_waits_for_its_last_member(rig: Rig) -> None:
    first, second = model(0, 1), model(1, 1)
    rig.port.alter = lambda topic, payload: None if f"{second.mid}/0/" in topic else payload
    want(rig, first, second, not_before=NOW - 10)
    rig.advance(30)
    assert states(rig) == (State.VERIFIED, State.DOWNLOADING)
    assert rig.core.running(0) is None
    rig.port.alter = lambda topic, payload: payload
    rig.advance(120)
    assert states(rig) == (State.TRIAL, State.TRIAL)


def test_a_group_is_tried_and_confirmed_by_one_record_each(rig: Rig) -> None:
    install_both(rig)
    items = model(0, 2), model(1, 2)
    want(rig, *items, not_before=NOW + 40)
    assert states(rig) == (State.VERIFIED, State.VERIFIED)
    rig.advance(60)
    assert phases(rig) == (PROBATION, PROBATION)
    for _ in range(3):
        rig.core.sample(0, us=800, scores=(0.7, 0.2, 0.1))
    rig.advance(5)
    assert phases(rig) == (PROBATION, PROBATION), "each member must do its inferences"
    serve(rig)
    assert states(rig) == (State.CONFIRMED, State.CONFIRMED)
    assert [rig.core.slot(i).run_id for i in (0, 1)] == [item.id[:16] for item in items]
    mixed = [pair for pair in both_phases(rig.path)[-4:] if pair[0] != pair[1]]
    assert mixed == [], "no record shows one of them without the other"
    names = {name[2] for name in record.newest(rig.path).names}
    assert names == {2}


def test_a_group_is_reverted_by_one_record_when_one_member_fails(rig: Rig) -> None:
    first, second = install_both(rig)
    rig.engine.offsets[1] = 40
    want(rig, model(0, 2), model(1, 2), not_before=NOW - 10)
    assert states(rig) == (State.REVERTED, State.REVERTED)
    code = CODES["selftest_mismatch"]
    assert [rig.core.slot(i).code for i in (0, 1)] == [code, code]
    assert [rig.core.slot(i).run_id for i in (0, 1)] == [first.id[:16], second.id[:16]]
    assert (TRIAL, CONFIRMED) not in both_phases(rig.path)
    rig.engine.offsets.clear()
    rig.run()
    assert set(rig.engine.loaded) == {0, 1}, "the old models run again"
    assert [event.slot for event in rig.events() if event.fields.get("code") == code] == [1]


def test_a_member_that_is_refused_keeps_the_others_from_switching(rig: Rig) -> None:
    install_both(rig)
    strange = artifact(2, name="model-1", slot=1, operators=(3, 99))
    want(rig, model(0, 2), strange, not_before=NOW - 10, deadline=NOW + 300)
    assert states(rig) == (State.VERIFIED, State.REFUSED)
    rig.advance(400)
    assert states(rig) == (State.REFUSED, State.REFUSED)
    assert rig.core.slot(0).code == CODES["expired"]


def test_a_member_that_runs_already_belongs_to_no_trial(rig: Rig) -> None:
    _, second = install_both(rig)
    want(rig, model(0, 2), second, not_before=NOW - 10)
    assert phases(rig) == (PROBATION, CONFIRMED)
    serve(rig)
    assert states(rig) == (State.CONFIRMED, State.CONFIRMED)


@pytest.mark.parametrize("reason", [Reset.POWER, Reset.PANIC, Reset.EXPECTED])
def test_a_group_in_probation_goes_on_together_after_a_reset(rig: Rig, reason: Reset) -> None:
    install_both(rig)
    items = model(0, 2), model(1, 2)
    want(rig, *items, not_before=NOW - 10)
    assert phases(rig) == (PROBATION, PROBATION)
    rig.restart(reason)
    rig.run()
    assert states(rig) == (State.TRIAL, State.TRIAL)
    serve(rig)
    assert states(rig) == (State.CONFIRMED, State.CONFIRMED)
    assert [rig.core.slot(i).run_id for i in (0, 1)] == [item.id[:16] for item in items]


def test_a_group_that_crashes_twice_is_given_up_together(rig: Rig) -> None:
    first, second = install_both(rig)
    want(rig, model(0, 2), model(1, 2), not_before=NOW - 10)
    for _ in range(2):
        rig.restart(Reset.PANIC)
    assert states(rig) == (State.REVERTED, State.REVERTED)
    assert [rig.core.slot(i).code for i in (0, 1)] == [CODES["crash_loop"]] * 2
    assert [rig.core.slot(i).run_id for i in (0, 1)] == [first.id[:16], second.id[:16]]


def test_models_that_do_not_fit_the_arena_together_name_their_slots(rig: Rig) -> None:
    first, _ = install_both(rig)
    rig.engine.arenas[0] = 70_000
    rig.offer(model(0, 2))
    slot = rig.core.slot(0)
    assert (slot.state, slot.code, slot.detail) == (State.REVERTED, CODES["arena_too_small"], 0b11)
    rig.engine.arenas[0] = 30_000
    rig.run()
    assert slot.run_id == first.id[:16]


def test_models_that_fit_together_exactly_do_run(rig: Rig) -> None:
    install_both(rig)
    rig.engine.arenas[0] = 60_000
    rig.offer(model(0, 2))
    assert rig.core.slot(0).phase == PROBATION


def test_an_entry_for_a_slot_that_the_firmware_lacks_changes_nothing(rig: Rig) -> None:
    first, second = install_both(rig)
    far = artifact(1, name="model-3", slot=3)
    rig.stage(far)
    message = rig.desired_message(
        {
            0: DesiredEntry(Action.RUN, first.id, attempt=1),
            1: DesiredEntry(Action.RUN, second.id, attempt=1),
            3: DesiredEntry(Action.RUN, far.id, attempt=1),
        }
    )
    assert rig.deliver("f1/dev/dev-7/desired", message) == 0
    assert states(rig) == (State.CONFIRMED, State.CONFIRMED)
    assert set(rig.reports()[-1].slots) == {0, 1}


def test_trust_that_changed_while_a_candidate_waited_is_applied_at_the_switch(rig: Rig) -> None:
    items = model(0, 1), model(1, 1)
    want(rig, *items, not_before=NOW + 600)
    assert states(rig) == (State.VERIFIED, State.VERIFIED)
    rig.give_trust(trust(version=2, names=(NameRule("model-0", 5),)))
    rig.advance(700)
    assert states(rig) == (State.REFUSED, State.VERIFIED)
    assert rig.core.slot(0).code == CODES["sequence"]


@pytest.mark.timeout(300)
def test_a_power_cut_never_parts_a_group(tmp_path: Path) -> None:
    """Every flash operation of a group's update and of its revert, in three ways, from six fills."""
    program = build.build_program(C_DIR / "groups.c", tmp_path / "groups", extra=[C_DIR / "bench.c"])
    command = [program, scenario.groups(tmp_path / "scenario"), tmp_path / "flash.bin"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    total = re.search(r"(\d+) cuts, 0 failures", done.stdout)
    assert total, done.stdout
    assert int(total[1]) > 1_000, done.stdout
