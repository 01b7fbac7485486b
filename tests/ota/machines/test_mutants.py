"""The machine finds every fault that is seeded by hand: a proof that its invariants can fail."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from tests.ota.machines.invariants import INVARIANTS
from tests.ota.machines.machine import Machine
from tests.ota.machines.mutants import MUTANTS, Mutant
from tests.ota.machines.scene import Scene
from tests.ota.machines.test_machines import bound, form

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]
MOST = 20
"""Examples in which a mutant must be found; the first failing one ends the search."""


def playing(rules: tuple[str, ...], scene: Scene) -> type[Machine]:
    """The machine with these of its rules, or with all of them for ()."""
    machine = bound(scene)
    every = {name for name in dir(Machine) if hasattr(getattr(Machine, name), RULE_MARKER)}
    assert set(rules) <= every, f"no rules: {set(rules) - every}"
    left_out = every - set(rules) if rules else set()
    return type("PlayingMachine", (machine,), {name: _no_rule(getattr(Machine, name)) for name in left_out})


def _no_rule(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same method for others to call, which the machine does not draw."""
    return lambda self, *given, **more: method(self, *given, **more)


def noticed(name: str, told: str) -> bool:
    """True when a failure was raised by an invariant of this name, or says these words."""
    is_invariant = name in {check.__name__ for check in INVARIANTS}
    return (f", in {name}\n" if is_invariant else name) in told


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name.replace(" ", "-") for mutant in MUTANTS])
def test_the_machine_finds_a_seeded_fault(
    mutant: Mutant, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutant.owner, mutant.attribute, mutant.replacement)
    how = form(MOST, shrinks=False)
    with pytest.raises(BaseException) as found:
        run_state_machine_as_test(playing(mutant.rules, scene), settings=how)
    assert not isinstance(found.value, KeyboardInterrupt)
    told = "".join(traceback.format_exception(found.value))
    assert any(noticed(name, told) for name in mutant.found_by), told[-3000:]
