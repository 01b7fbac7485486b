"""The host build: rebuilt only when needed, strict flash, cuts that end a process, no hidden state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_firmware.host import build
from device_firmware.host.core import exit_cut
from tests.firmware import record

C_DIR = Path(__file__).parent / "c"
ROOT = Path(__file__).parent.parent.parent


def test_a_second_build_compiles_nothing() -> None:
    first = build.build_module()
    stamp = first.stat().st_mtime_ns
    assert build.build_module() == first
    assert first.stat().st_mtime_ns == stamp


def test_every_source_file_counts_for_the_stamp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = build.source_hash()
    monkeypatch.setattr(build, "CORE_DIR", tmp_path)
    assert build.source_hash() != before


def test_a_missing_compiler_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(build.BuildError) as refused:
        build.compiler()
    assert refused.value.code == "no_compiler"


def test_what_does_not_compile_is_said_with_the_compilers_words(tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return nonsense; }\n")
    with pytest.raises(build.BuildError) as refused:
        build.compile_objects(tmp_path, [source], build.STRICT)
    assert refused.value.code == "compile_failed"
    assert "nonsense" in str(refused.value)


def test_the_simulated_flash_is_as_strict_as_the_real_one(tmp_path: Path) -> None:
    program = build.build_program(C_DIR / "rules.c", tmp_path / "rules", extra=[C_DIR / "bench.c"])
    environment = os.environ | {"ASAN_OPTIONS": "handle_abort=0"}
    done = subprocess.run(
        [program, tmp_path / "flash.bin"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 kinds of misuse" in done.stdout


def test_the_core_allocates_nothing_and_holds_no_state_of_its_own(tmp_path: Path) -> None:
    """Thousands of cores fit in one process: no malloc, no writable data."""
    sources = sorted((build.CORE_DIR / "src").glob("*.c"))
    objects = build.compile_objects(tmp_path, sources, [*build.STRICT, "-O2", "-fno-pic"])
    listed = subprocess.run(["nm", *objects], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in listed.splitlines() if len(line.split()) >= 2]
    undefined = {name for kind, name in symbols if kind == "U" and not name.startswith("fc_")}
    assert undefined <= {
        "memcpy",
        "memmove",
        "memset",
        "memcmp",
        "strlen",
        "__stack_chk_fail",
        "_GLOBAL_OFFSET_TABLE_",
    }
    assert [name for kind, name in symbols if kind in "bBCdD"] == []


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_build_may_have_fewer_slots(slots: int) -> None:
    """The 4 MB partition table has two; the host has four. A record has room for four in any build."""
    sources = [str(path) for path in sorted((build.CORE_DIR / "src").glob("*.c"))]
    build.run_compiler(
        [
            build.compiler(),
            *build.STRICT,
            *build.includes(),
            f"-DFC_SLOTS={slots}u",
            "-fsyntax-only",
            *sources,
        ]
    )


def test_a_number_of_slots_that_no_record_has_is_refused_by_the_compiler() -> None:
    source = str(build.CORE_DIR / "src" / "metalog.c")
    with pytest.raises(build.BuildError, match="slots of a record"):
        build.run_compiler(
            [build.compiler(), *build.STRICT, *build.includes(), "-DFC_SLOTS=5u", "-fsyntax-only", source]
        )


CUT_SCRIPT = """
import sys
from pathlib import Path
from tests.firmware.artifacts import artifact
from tests.firmware.rig import Rig
rig = Rig(Path(sys.argv[1]))
item = artifact(1, size=40 * 4096)
rig.stage(item)
rig.core.boot(0)
rig.core.cut_after(int(sys.argv[2]), 1)
rig.core.link(True, True)
rig.give_trust()
rig.offer(item)
print("not cut")
"""


def test_a_power_cut_ends_the_process_and_the_next_one_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CUT_SCRIPT, str(tmp_path)]
    for operations in (1, 9, 30):
        done = subprocess.run(
            [*command, str(operations)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stdout) == (exit_cut(), ""), done.stderr
    done = subprocess.run(
        [*command, "100000"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "not cut\n"), done.stderr
    assert record.newest(tmp_path / "flash.bin").trust_version == 1
