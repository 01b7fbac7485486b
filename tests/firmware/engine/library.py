"""The engine built for this machine against a real TFLM C++ library, for tests only.

Nobody publishes TFLM as a C++ library for Linux. The package `xmos-ai-tools` happens to carry headers and a
shared object with TFLM's C++ API (namespace `tflite_micro`). It is an optional tool under another licence:
downloaded into the run folder, never installed, never shipped, never a dependency. Whoever lacks it or
Debian's libgemmlowp-dev sees a test that says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from device_firmware.host.build import CORE_DIR, FIRMWARE_DIR, STRICT, run_compiler

ENGINE_DIR = FIRMWARE_DIR / "components" / "tflm_engine"
HERE = Path(__file__).resolve().parent
PACKAGE = "xmos-ai-tools"
VERSION = "1.4.2"
GEMMLOWP = Path("/usr/include/gemmlowp")
NAMESPACE = "-DTFLM_NAMESPACE=tflite_micro"
CXX = ("-std=gnu++20", "-fno-rtti", "-fno-exceptions", "-Wall", "-Wextra", "-Wconversion", "-Werror")
# Operators whose kernels the library's shared object lacks; esp-tflite-micro 1.4.0 has them.
LACKS = re.compile(
    r"EMBEDDING_LOOKUP|BATCH_MATMUL|REVERSE_V2|REDUCE_MIN|REDUCE_ALL|DYNAMIC_UPDATE_SLICE|CUSTOM_SIGNAL_\w+"
)


class LibraryMissingError(Exception):
    """Something optional is not there; the text says what and how to get it."""


def run_dir() -> Path:
    """Where downloads and builds of the optional check live: below `$FLEET_RUN_DIR` when it is set."""
    base = os.environ.get("FLEET_RUN_DIR")
    return (Path(base) if base else FIRMWARE_DIR / "build") / "engine-check"


def options() -> list[str]:
    """Every operator option of Kconfig, as the compiler's -D flags."""
    names = re.findall(r"^\s*config (TINYFLEET_OP_\w+)$", (ENGINE_DIR / "Kconfig").read_text(), re.MULTILINE)
    return [f"-DCONFIG_{name}=1" for name in names]


def linkable() -> list[str]:
    """The operator options whose kernels the library has."""
    return [
        flag for flag in options() if not LACKS.fullmatch(flag.removeprefix("-DCONFIG_TINYFLEET_OP_")[:-2])
    ]


def unpacked() -> Path:
    """The package's folder, downloaded on first use. Raises LibraryMissingError."""
    if not GEMMLOWP.is_dir():
        raise LibraryMissingError("Debian package libgemmlowp-dev is not installed")
    folder = run_dir()
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / f"{PACKAGE}-{VERSION}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "complete").exists():
            _download(folder, root)
    return root


def _download(folder: Path, root: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    try:
        done = subprocess.run(
            [*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, timeout=180, check=False
        )
    except subprocess.TimeoutExpired:
        raise LibraryMissingError(f"{PACKAGE} {VERSION} did not arrive within 180 s") from None
    wheels = sorted(folder.glob(f"xmos_ai_tools-{VERSION}-*.whl"))
    if done.returncode or not wheels:
        raise LibraryMissingError(f"{PACKAGE} {VERSION} cannot be downloaded: {done.stderr.strip()[-300:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(root, [n for n in wheel.namelist() if "/include/" in n or "/libs/linux/" in n])
    wheels[0].unlink()
    (root / "complete").touch()


def shared_object(root: Path) -> Path:
    """The library with TFLM's C++ API."""
    return root / "xmos_ai_tools" / "xinterpreters" / "libs" / "linux" / "xtflm_python.so"


def include_flags(root: Path) -> list[str]:
    """Options for our headers and, as system headers, the library's."""
    theirs = root / "xmos_ai_tools" / "runtime" / "include"
    ours = [f"-I{path}" for path in (ENGINE_DIR, ENGINE_DIR / "include", CORE_DIR / "include")]
    return [*ours, "-isystem", str(theirs), "-isystem", str(GEMMLOWP)]


def build_bench(*, engine_dir: Path = ENGINE_DIR) -> Path:
    """The test bench (`bench.cc`) with the engine and the library; rebuilt when a source changed.

    engine_dir: another copy of the component (mutants). Raises LibraryMissingError, BuildError.
    """
    root = unpacked()
    sources = [*sorted(engine_dir.rglob("*.[ch]")), engine_dir / "tflm_engine.cc", HERE / "bench.cc"]
    digest = hashlib.sha256(repr((NAMESPACE, CXX, linkable())).encode())
    for path in [*sources, *sorted((CORE_DIR / "include").rglob("*.h")), Path(__file__)]:
        digest.update(path.read_bytes())
    folder = run_dir() / f"bench-{digest.hexdigest()[:16]}"
    target = folder / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        includes = [f"-I{engine_dir}", f"-I{engine_dir / 'include'}", *include_flags(root)]
        flags = ["-O1", "-g", NAMESPACE, *includes]
        objects = [str(folder / name) for name in ("engine.o", "bench.o", "flat.o", "check.o")]
        run_compiler(
            ["g++", *CXX, *linkable(), *flags, "-c", str(engine_dir / "tflm_engine.cc"), "-o", objects[0]]
        )
        bench = [*CXX, "-DBENCH_FIX_VARIABLES", *flags, "-c", str(HERE / "bench.cc"), "-o", objects[1]]
        run_compiler(["g++", *bench])
        for name, out in (("flat.c", objects[2]), ("model_check.c", objects[3])):
            run_compiler(["gcc", *STRICT, "-O1", "-g", *includes, "-c", str(engine_dir / name), "-o", out])
        library = shared_object(root)
        link = [*objects, str(library), f"-Wl,-rpath,{library.parent}", "-rdynamic", "-lm"]
        partial = folder / "bench.new"
        run_compiler(["g++", *link, "-o", str(partial)])
        partial.replace(target)
    return target
