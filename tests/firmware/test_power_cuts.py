"""A power cut at any flash operation leaves a confirmed model to run and loses no committed fact."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.firmware.cutting import build_cuts, run_cuts


@pytest.mark.timeout(600)
def test_single_cuts_at_every_flash_operation(tmp_path: Path) -> None:
    """From all 16 fills of the log, under ASan and UBSan."""
    found = run_cuts(build_cuts(tmp_path, sanitize=True), "single")
    print(found.table)
    assert found.singles > 4_500
    assert found.pairs == 0


@pytest.mark.timeout(600)
def test_all_pairs_of_cuts(tmp_path: Path) -> None:
    """The second cut at every flash operation of the way back from the first."""
    found = run_cuts(build_cuts(tmp_path, sanitize=False), "pairs")
    print(found.table)
    assert found.pairs > 100_000
    assert found.flash_states > 50_000
