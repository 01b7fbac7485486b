"""The suite bites: each of these small faults in the core makes the test that is named beside it fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.firmware.mutants import MUTANTS, Mutant
from tests.firmware.mutating import Nursery, was_killed

pytestmark = pytest.mark.xdist_group("mutants")  # the good core is compiled once


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Nursery:
    return Nursery(tmp_path_factory.mktemp("nursery"))


def test_the_list_of_faults_is_long_and_has_no_twins() -> None:
    assert len(MUTANTS) >= 40
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("killed_by", sorted({mutant.killed_by for mutant in MUTANTS}))
def test_the_good_core_passes(killed_by: str, nursery: Nursery, tmp_path: Path) -> None:
    """What kills mutants must not kill the core itself."""
    done = nursery.run(nursery.objects, killed_by, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_is_noticed(mutant: Mutant, nursery: Nursery, tmp_path: Path) -> None:
    done = nursery.run(nursery.mutate(mutant, tmp_path), mutant.killed_by, tmp_path)
    said = done.stdout[-1000:] + done.stderr[-1000:]
    assert was_killed(done), f"{mutant.killed_by} did not notice: {said}"
    print(mutant.killed_by, "said:", done.stderr.strip().splitlines()[-1:])
