"""The emulated chip for every test here. Without its Debian packages the tests are skipped with a message;
with FLEET_REQUIRE_RV32=1, as in continuous integration, that is a failure.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from device_firmware.host.build import BuildError
from device_firmware.host.rv32 import bench, toolchain

Run = Callable[[bench.Script], list[bench.Answer]]


@pytest.fixture(scope="session")
def chip() -> None:
    """Compiler, C library and emulator are there, and the bench program is built."""
    try:
        toolchain.require()
        bench.build()
    except (toolchain.Missing, BuildError) as error:
        is_excuse = isinstance(error, toolchain.Missing) or error.code == "no_source"
        if not is_excuse or os.environ.get("FLEET_REQUIRE_RV32") == "1":
            pytest.fail(str(error))
        warnings.warn(f"NOT RUN on rv32imc: {error}", stacklevel=1)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def on_chip(chip: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a script in a folder of its own."""

    def run(script: bench.Script) -> list[bench.Answer]:
        folder: Path = tmp_path_factory.mktemp("rv32")
        answers = bench.run(script, folder)
        (folder / "script.bin").unlink()
        return answers

    return run
