"""A power cut at any flash operation leaves a confirmed model to run and loses no committed fact."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from device_firmware.host import build
from tests.firmware import scenario

C_DIR = Path(__file__).parent / "c"


@pytest.mark.timeout(600)
def test_single_cuts_at_every_flash_operation(tmp_path: Path) -> None:
    program = build.build_program(C_DIR / "cuts.c", tmp_path / "cuts", extra=[C_DIR / "bench.c"])
    flash = tmp_path / "flash.bin"
    command = [program, scenario.cuts(tmp_path / "scenario"), flash]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    total = re.search(r"(\d+) cuts, 0 failures", done.stdout)
    assert total, done.stdout
    assert int(total[1]) > 3_000, done.stdout
