"""Run the power-cut program: `python -m tests.firmware.cutting [--seeds N] [--fills N]` is the long form.

One run tries every single cut and every pair of cuts at each flash operation of nine stories (`c/cuts.c`),
from 16 fills of the log. What a torn operation leaves is random: more seeds, more garbage, the same places.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from device_firmware.host import build
from tests.firmware import scenario

C_DIR = Path(__file__).parent / "c"
PARTS = 2
FILLS = 16


@dataclass(frozen=True)
class Cuts:
    """What one run tried. flash_states: different states of flash that were recovered from."""

    singles: int
    pairs: int
    flash_states: int
    table: str


def build_cuts(
    folder: Path, *, sanitize: bool, core_dir: Path = build.CORE_DIR, defines: Sequence[str] = ()
) -> Path:
    """Compile the program; with ASan and UBSan it is about four times slower."""
    return build.build_program(
        C_DIR / "cuts.c",
        folder / "cuts",
        sanitize=sanitize,
        extra=[C_DIR / "bench.c", C_DIR / "tears.c"],
        core_dir=core_dir,
        defines=defines,
    )


def run_cuts(program: Path, mode: str, *, fills: int = FILLS, seed: int = 1, limit_s: float = 500) -> Cuts:
    """Run it in PARTS processes. mode: `single` or `pairs`. Raises AssertionError with the first failure."""
    folder = program.parent
    plan = scenario.cuts(folder / "scenario")

    def one(part: int) -> str:
        flash = folder / f"flash-{part}.bin"
        numbers = [str(number) for number in (fills, part, PARTS, seed)]
        done = subprocess.run(
            [program, plan, flash, mode, *numbers],
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )
        flash.unlink(missing_ok=True)
        assert done.returncode == 0, f"{mode}, seed {seed}, part {part}:\n{done.stdout}{done.stderr[-4000:]}"
        return done.stdout

    with ThreadPoolExecutor(PARTS) as pool:
        tables = list(pool.map(one, range(PARTS)))
    counts = [0, 0, 0]
    for table in tables:
        total = re.search(r"(\d+) single cuts, (\d+) pairs of cuts, (\d+) flash states, 0 failures", table)
        assert total, table
        counts = [have + int(more) for have, more in zip(counts, total.groups(), strict=True)]
    return Cuts(counts[0], counts[1], counts[2], "".join(tables))


def main() -> None:
    """The long form: many seeds; prints a line per seed."""
    parser = argparse.ArgumentParser(
        description="Cut the power at every flash operation, alone and in pairs."
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--fills", type=int, default=FILLS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build_cuts(Path(folder), sanitize=False)
        for seed in range(1, arguments.seeds + 1):
            began = time.monotonic()
            found = run_cuts(program, "pairs", fills=arguments.fills, seed=seed)
            took = time.monotonic() - began
            print(
                f"seed {seed}: {found.singles:,} single cuts, {found.pairs:,} pairs, "
                f"{found.flash_states:,} flash states, 0 failures, {took:.0f} s"
            )


if __name__ == "__main__":
    main()
