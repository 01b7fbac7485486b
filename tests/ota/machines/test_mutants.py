"""The machine finds every fault that is seeded by hand: a proof that its invariants can fail."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis.stateful import RULE_MARKER, rule, run_state_machine_as_test

from tests.ota.machines.invariants import INVARIANTS
from tests.ota.machines.machine import Machine, choices
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
    more = {"a_pause": rule(choice=choices)(_no_rule(Machine.a_pause))}
    assert set(rules) <= every | set(more), f"no rules: {set(rules) - every}"
    left_out = every - set(rules) if rules else set()
    played = {name: _no_rule(getattr(Machine, name)) for name in left_out}
    played |= {name: one for name, one in more.items() if name in rules}
    return type("PlayingMachine", (machine,), played)


def _no_rule(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same method for others to call, which the machine does not draw."""
    return lambda self, *given, **more: method(self, *given, **more)


def noticed(name: str, told: str) -> bool:
    """True when a failure was raised by an invariant of this name, or says these words."""
    is_invariant = name in {check.__name__ for check in INVARIANTS}
    return (f", in {name}\n" if is_invariant else name) in told


def _params() -> list[Any]:
    is_short = os.environ.get("FLEET_MACHINE_MUTANTS", "") != "all"
    long = pytest.mark.skipif(is_short, reason="long form: FLEET_MACHINE_MUTANTS=all")
    return [
        pytest.param(one, id=one.name.replace(" ", "-"), marks=[long] if one.is_long else [])
        for one in MUTANTS
    ]


@pytest.mark.parametrize("mutant", _params())
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
