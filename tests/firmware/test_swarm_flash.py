"""The swarm's interned flash behaves as the file flash of virtual devices, byte for byte, also when cut."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from device_firmware.host import build


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flashes.c with both flashes, under ASan and UBSan."""
    folder = tmp_path_factory.mktemp("flashes")
    sources = [
        Path(__file__).parent / "c" / "flashes.c",
        build.HOST_DIR / "nor.c",
        build.HOST_DIR / "pages.c",
        build.CORE_DIR / "src" / "bytes.c",
    ]
    objects = build.compile_objects(folder, sources, [*build.STRICT, *build.SANITIZE, "-O1", "-g"])
    target = folder / "flashes"
    build.run_compiler([build.compiler(), *build.SANITIZE, *objects, "-o", str(target)])
    return target


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it on flash files in `folder`."""
    command = [str(program), str(folder / "flash"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_same_operations_and_cuts_leave_the_same_bytes(program: Path, tmp_path: Path, seed: str) -> None:
    done = run(program, tmp_path, seed, "2000")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    words = done.stdout.split()
    said = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert said["rounds"] == 2000
    assert said["cuts"] > 100
    assert said["shared"] < 36, "three devices with 36 sectors in banks, few different contents"


@pytest.mark.parametrize("what", ["twice", "unaligned", "across", "behind", "area", "mapped", "unmap"])
def test_what_real_flash_does_not_allow_aborts(program: Path, tmp_path: Path, what: str) -> None:
    done = run(program, tmp_path, "misuse", what)
    assert done.returncode == -6, (done.returncode, done.stderr[-500:])
    assert done.stderr.startswith("pages: ")


def test_a_program_torn_before_its_first_bit_may_be_tried_again(program: Path, tmp_path: Path) -> None:
    """Nobody who reads the flash can tell: found by pairs of cuts, one torn program in 16,000."""
    done = run(program, tmp_path, "blank", "20000")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert int(done.stdout.split()[3]) > 0
