"""The optional TFLM library for engine checks, and the index walk built under sanitizers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from device_firmware.host import build
from tests.firmware.engine import library

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def bench_program() -> Path:
    """The engine with the optional library. Skips the test, and says so in a warning, without it."""
    try:
        return library.build_bench()
    except library.LibraryMissingError as error:
        text = f"ENGINE CHECK SKIPPED, tflm_engine.cc was not run against any TFLM: {error}"
        warnings.warn(text, stacklevel=1)
        pytest.skip(text)


@pytest.fixture(scope="session")
def walk_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`walk.c` with the index walk, under ASan and UBSan."""
    target = tmp_path_factory.mktemp("walk") / "walk"
    sources = [library.ENGINE_DIR / "flat.c", library.ENGINE_DIR / "model_check.c", HERE / "walk.c"]
    includes = [
        f"-I{path}"
        for path in (library.ENGINE_DIR, library.ENGINE_DIR / "include", build.CORE_DIR / "include")
    ]
    files = [str(path) for path in sources]
    flags = [*build.STRICT, *build.SANITIZE, "-O1", "-g", *includes]
    build.run_compiler([build.compiler(), *flags, *files, "-o", str(target)])
    return target
