"""port_flash.c over a partition that is encrypted as a chip does it: erased metadata must read as erased.

The core looks for a blank place before it writes a record; on an encrypted partition, read through the
decryption, nothing is ever blank.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from device_firmware.host import build
from tests.firmware.port.test_syntax import MAIN, includes

HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_the_metadata_area_reads_as_it_was_left(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "flash"
    sources = [str(HERE / "flash.c"), str(MAIN / "port_flash.c")]
    flags = [*build.SANITIZE, "-std=gnu2x", "-Wall", "-Wextra", "-Werror", "-g", "-O1"]
    build.run_compiler(
        [build.compiler(), *flags, *includes(tmp_path, "esp32c3"), *sources, "-o", str(target)]
    )
    done = subprocess.run([target, kind], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout + done.stderr[-2000:]
