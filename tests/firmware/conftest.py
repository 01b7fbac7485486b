"""A core on the bench for every firmware test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.firmware.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A device that has booted, connected and holds trust document 1."""
    bench = Rig(tmp_path)
    bench.start()
    assert bench.give_trust() == 0
    yield bench
    bench.core.close()
    bench.path.unlink(missing_ok=True)  # pytest keeps temporary folders of several runs
