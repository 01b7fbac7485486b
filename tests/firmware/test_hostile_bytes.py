"""No flipped bit and no truncation of a good document passes, and no bytes crash the core (ASan, UBSan)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from device_firmware.host import build
from tests.firmware import scenario

C_DIR = Path(__file__).parent / "c"


def test_flips_truncations_mutants_and_random_flash(tmp_path: Path) -> None:
    program = build.build_program(C_DIR / "judge.c", tmp_path / "judge", extra=[C_DIR / "bench.c"])
    command = [program, scenario.judged(tmp_path / "scenario"), tmp_path / "flash.bin", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    counts = re.search(r"(\d+) flips and truncations refused, (\d+) mutants, (\d+) random", done.stdout)
    assert counts, done.stdout
    assert int(counts[1]) > 10_000, done.stdout
    assert int(counts[2]) > 5_000, done.stdout
