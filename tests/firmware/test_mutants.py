"""The power-cut suite bites: each of these small faults in the core makes it fail.

A fault is one replaced piece of text in a copy of the core. When the text is no longer found, the list is
stale and the test says so.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from device_firmware.host import build
from tests.firmware import scenario

C_DIR = Path(__file__).parent / "c"

MUTANTS: dict[str, tuple[str, str, str]] = {
    "the sector with the newest record is erased": (
        "metalog.c",
        "pos->sector = (uint8_t)(1u - pos->newest);",
        "pos->sector = pos->newest;",
    ),
    "a torn position of the log is programmed again": (
        "metalog.c",
        "if (!is_blank(core->work + RECORD))",
        "if (0 && !is_blank(core->work + RECORD))",
    ),
    "the desired document is overwritten in place": (
        "metalog.c",
        "*sector = (uint8_t)(1u - used);",
        "*sector = used;",
    ),
    "the running bank is filled": (
        "bank.c",
        "return run == FC_NO_BANK ? 0 : (uint8_t)(1u - run);",
        "return run == FC_NO_BANK ? 0 : run;",
    ),
    "a power loss counts like a panic": (
        "boot.c",
        "if (is_crash(core->reset_reason) && ++rs->attempts >= FC_ATTEMPTS_MAX)",
        "if (++rs->attempts >= 1)",
    ),
    "chunks are believed to be there without a look": (
        "fetch.c",
        "if (fc_bank_has_chunk(core, j->index) == 1)",
        "if (fc_bank_has_chunk(core, j->index) >= 0)",
    ),
    "seq and floor are forgotten when confirming": (
        "trial.c",
        "        raise_name(core, r, &core->app[s]->model);\n",
        "        memset(r->names, 0, sizeof r->names);\n        raise_name(core, r, &core->app[s]->model);\n",
    ),
    "the bank changes before the confirming record": (
        "trial.c",
        "        rs->phase = FC_PH_TRIAL;\n",
        "        rs->phase = FC_PH_TRIAL;\n        rs->run_bank = fc_bank_idle(core, s);\n",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_power_cut_suite_kills(name: str, tmp_path: Path) -> None:
    file, old, new = MUTANTS[name]
    core = tmp_path / "fleet_core"
    shutil.copytree(build.CORE_DIR, core)
    source = core / "src" / file
    text = source.read_text()
    assert text.count(old) == 1, f"{file} does not hold the text to change exactly once"
    source.write_text(text.replace(old, new))
    program = build.build_program(
        C_DIR / "cuts.c", tmp_path / "cuts", sanitize=False, extra=[C_DIR / "bench.c"], core_dir=core
    )
    done = subprocess.run(
        [program, scenario.cuts(tmp_path / "scenario"), tmp_path / "flash.bin"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0, f"survived: {done.stdout[-500:]}"
