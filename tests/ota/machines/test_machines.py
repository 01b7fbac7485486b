"""The invariants hold whatever happens; every fault seeded by hand is found.

    FLEET_MACHINE_EXAMPLES=200 python -m pytest tests/ota/machines -k hold

The short form plays the same examples in every run; the long one plays others each time.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.ota.machines.machine import Machine
from tests.ota.machines.scene import Scene
from tests.ota.machines.verbs import CALLS, KNOWN

SHORT = 6
EXAMPLES = int(os.environ.get("FLEET_MACHINE_EXAMPLES", str(SHORT)))
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600 if EXAMPLES == SHORT else 36_000),
]


def form(examples: int, *, steps: int = 40, shrinks: bool = True) -> settings:
    """How long to play. shrinks: reduce what failed to its essence; a seeded fault need not be understood."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=EXAMPLES == SHORT,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        report_multiple_bugs=False,
    )


def bound(scene: Scene) -> type[Machine]:
    """The machine over this scene."""
    return type("BoundMachine", (Machine,), {"scene": scene, "reached": set()})


def test_the_machine_can_call_every_verb_there_is() -> None:
    assert set(CALLS) == KNOWN


def test_the_invariants_hold_whatever_happens(scene: Scene) -> None:
    machine = bound(scene)
    run_state_machine_as_test(machine, settings=form(EXAMPLES, shrinks=EXAMPLES != SHORT))
    print(len(machine.reached), sorted(machine.reached))
