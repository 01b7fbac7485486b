"""A whole update on rv32imc: real signatures, NOR flash with its rules, golden vectors, probation."""

from __future__ import annotations

import pytest

from device_firmware.host.core import Phase, State
from device_firmware.host.rv32.bench import Answer, Verb
from tests.firmware.rv32 import stories
from tests.firmware.rv32.conftest import Run

pytestmark = pytest.mark.xdist_group("rv32")

BROWNOUT, POWER = 1, 0


def is_confirmed(state: Answer, seq: int) -> bool:
    """Slot 0 runs the confirmed model with this sequence number."""
    found = (state.number("state"), state.number("phase"), state.number("seq"))
    return found == (State.CONFIRMED, Phase.CONFIRMED, seq)


@pytest.mark.parametrize("blob", [False, True], ids=["inline vectors", "blob"])
def test_an_install_and_an_update_are_confirmed(on_chip: Run, blob: bool) -> None:
    script = stories.device()
    first, second = (stories.signed(seq, size=60_000, floor=seq - 1, blob=blob) for seq in (3, 5))
    stories.publish(script, first)
    stories.publish(script, second)
    script.link(True)
    script.drive(20)
    assert stories.want(script, first, 1)
    script.drive(200)
    one = script.add(Verb.STATE)
    stories.want(script, second, 2)
    script.drive(200)
    two = script.add(Verb.STATE)
    answers = on_chip(script)
    assert is_confirmed(answers[one], 3), answers[one].fields
    assert is_confirmed(answers[two], 5), answers[two].fields
    for state, item in ((answers[one], first), (answers[two], second)):
        assert state["run_id"] == item.id[:16].hex()
        assert state["golden"] == ("40/40" if blob else "2/2")
        assert state.number("floor") == item.manifest.floor
        assert state.number("loaded_bytes") == 60_000
    assert answers[one]["run_bank"] != answers[two]["run_bank"]


def test_a_model_that_one_of_two_keys_signed_is_refused(on_chip: Run) -> None:
    from tests.firmware import artifacts

    script = stories.device()
    item = artifacts.artifact(3, size=5_000)
    stories.publish(script, item)
    script.link(True)
    script.drive(20)
    stories.want(script, item, 1)
    script.drive(100)
    state = script.add(Verb.STATE)
    answers = on_chip(script)
    assert (answers[state].number("state"), answers[state].number("code")) == (State.REFUSED, 1)
    assert answers[state].number("loaded_bytes") == 0


def test_power_lost_again_and_again_ends_confirmed_and_loads_no_chunk_twice(on_chip: Run) -> None:
    """The flash stays, the core starts anew every few steps: between any two of its writes."""
    script = stories.device()
    item = stories.signed(3, size=120_000)
    stories.publish(script, item)
    script.link(True)
    script.drive(20)
    stories.want(script, item, 1)
    script.add(Verb.RESET_COST)
    cuts = 0
    for rounds in (1, 2, 3, 5, 8, 13, 4, 7, 9, 2):
        script.drive(rounds)
        script.boot(BROWNOUT if cuts % 2 else POWER)
        script.link(True)
        cuts += 1
    last = script.drive(300)
    state = script.add(Verb.STATE)
    answers = on_chip(script)
    assert is_confirmed(answers[state], 3), answers[state].fields
    whole = item.manifest.layout.total - 1  # the last chunk is shorter
    assert whole <= answers[last].number("chunks") <= whole + 16 * cuts  # a segment comes again, no more


def test_the_same_script_costs_the_same_instructions_each_time(on_chip: Run) -> None:
    """What the budgets rest on."""
    script = stories.device()
    item = stories.signed(3, size=20_000)
    stories.publish(script, item)
    script.link(True)
    script.drive(20)
    stories.want(script, item, 1)
    script.drive(100)
    once, twice = on_chip(script), on_chip(script)
    assert [(a.instructions, a.stack, a.fields) for a in once] == [
        (a.instructions, a.stack, a.fields) for a in twice
    ]
    assert sum(answer.instructions for answer in once) > 10_000_000
