"""The machine finds every fault that is seeded by hand: a proof that its invariants can fail."""

from __future__ import annotations

import traceback

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.ota.machines.invariants import INVARIANTS
from tests.ota.machines.mutants import MUTANTS, Mutant
from tests.ota.machines.scene import Scene
from tests.ota.machines.test_machines import bound, form

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]
MOST = 20
"""Examples in which a mutant must be found; the first failing one ends the search."""


def noticed(name: str, told: str) -> bool:
    """True when a failure was raised by an invariant of this name, or says these words."""
    is_invariant = name in {check.__name__ for check in INVARIANTS}
    return (f", in {name}\n" if is_invariant else name) in told


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name.replace(" ", "-") for mutant in MUTANTS])
def test_the_machine_finds_a_seeded_fault(
    mutant: Mutant, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutant.owner, mutant.attribute, mutant.replacement)
    with pytest.raises(BaseException) as found:
        run_state_machine_as_test(bound(scene), settings=form(MOST, shrinks=False))
    assert not isinstance(found.value, KeyboardInterrupt)
    told = "".join(traceback.format_exception(found.value))
    assert any(noticed(name, told) for name in mutant.found_by), told[-3000:]
