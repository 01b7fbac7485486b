"""Build the firmware core for this machine: `python -m device_firmware.host.build [--force] [--swarm]`.

The core is compiled with the project's strict C flags; cffi's generated wrapper, which does not live up to
them, is compiled apart and linked with it into one extension module below `device_firmware/build/host/`. A
stamp with the hash of every source file, of the interpreter and of this script makes a second run free. Needs
a C compiler, libsodium's and Python's headers.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

FIRMWARE_DIR = Path(__file__).resolve().parent.parent
HOST_DIR = FIRMWARE_DIR / "host"
CORE_DIR = FIRMWARE_DIR / "components" / "fleet_core"
BUILD_DIR = FIRMWARE_DIR / "build"
MODULE_NAME = "_fleet_core"

STRICT = (
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Werror",
    "-Wvla",
)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
HOST_SOURCES = ("nor.c", "hal_host.c", "fleet_host.c", "app_host.c", "stage_host.c")
CDEF_HEADERS = ("fleet_host.h", "stage_host.h")
SWARM_SOURCES = (
    *("swarm.c", "swarm_device.c", "swarm_link.c", "swarm_file.c", "swarm_report.c"),
    *("pages.c", "mqtt_mini.c"),
)

PYTHON_CALLBACKS = """
extern "Python" int fc_py_send(void *, const char *, const uint8_t *, size_t, int, int);
extern "Python" int fc_py_watch(void *, const char *, int);
extern "Python" int fc_py_unwatch(void *, const char *);
extern "Python" int fc_py_reconnect(void *);
extern "Python" int fc_py_may_switch(void *);
extern "Python" void fc_py_reboot(void *);
extern "Python" void fc_py_identify(void *);
extern "Python" void fc_py_log(void *, int, uint32_t, uint32_t, uint32_t);
extern "Python" int fc_py_check(void *, const uint8_t *, uint32_t);
extern "Python" int fc_py_load(void *, int, const uint8_t *, uint32_t, const struct fh_model *,
                               uint32_t *);
extern "Python" int fc_py_invoke(void *, int, const uint8_t *const *, const uint32_t *, int, uint8_t *,
                                 uint32_t, uint32_t *, int, uint32_t *);
extern "Python" int fc_py_reset(void *, int);
extern "Python" int fc_py_unload(void *, int);
extern "Python" int fc_py_probe(void *, int, const uint8_t *, uint32_t, const struct fh_model *, uint32_t *);
extern "Python" int fc_py_capture(void *, int);
"""


class BuildError(Exception):
    """The core could not be built; `code` is `no_compiler` or `compile_failed` with the compiler's text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def core_sources(core_dir: Path = CORE_DIR) -> list[Path]:
    """The portable core's and the host port's C files, sorted."""
    return sorted((core_dir / "src").glob("*.c")) + [HOST_DIR / name for name in HOST_SOURCES]


def includes(core_dir: Path = CORE_DIR) -> list[str]:
    """Compiler options for the folders with headers."""
    return [f"-I{core_dir / 'include'}", f"-I{core_dir / 'src'}", f"-I{HOST_DIR}"]


def source_hash() -> str:
    """SHA-256 over every file the build reads, the interpreter's tag and this script, in hex."""
    digest = hashlib.sha256(
        f"{sys.implementation.cache_tag} {sysconfig.get_config_var('EXT_SUFFIX')}".encode()
    )
    files: Iterable[Path] = [*CORE_DIR.rglob("*.[ch]"), *HOST_DIR.glob("*.[ch]"), Path(__file__)]
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cdef_text() -> str:
    """The parts of the host's headers between their cdef markers, which cffi parses as they stand."""
    texts = [(HOST_DIR / name).read_text(encoding="utf-8") for name in CDEF_HEADERS]
    return "".join(text.split("/* cdef begin */", 1)[1].split("/* cdef end */", 1)[0] for text in texts)


def compiler() -> str:
    """Path of the C compiler: `$CC`, else cc, gcc or clang. Raises BuildError `no_compiler`."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise BuildError(
        "no_compiler",
        "no C compiler found: install gcc (Debian: apt-get install gcc libsodium-dev python3-dev)",
    )


def run_compiler(command: Sequence[str]) -> None:
    """Run one compiler command; raises BuildError `compile_failed` with what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError("compile_failed", f"{' '.join(command[:1])} failed:\n{done.stderr[-4000:]}")


def compile_objects(
    folder: Path, sources: Sequence[Path], flags: Sequence[str], *, core_dir: Path = CORE_DIR
) -> list[str]:
    """Compile each source into `folder` and return the object files, in order."""
    cc = compiler()
    objects = [str(folder / f"{source.stem}.o") for source in sources]

    def one(pair: tuple[Path, str]) -> None:
        run_compiler([cc, *flags, *includes(core_dir), "-c", str(pair[0]), "-o", pair[1]])

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(one, zip(sources, objects, strict=True)))
    return objects


def build_module(*, force: bool = False) -> Path:
    """Build the cffi extension unless it is current; returns its path. Safe from many processes."""
    from cffi import FFI

    folder = BUILD_DIR / "host"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{MODULE_NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    stamp = folder / "stamp"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = source_hash()
        if not force and target.exists() and stamp.exists() and stamp.read_text() == wanted:
            return target
        ffi = FFI()
        ffi.cdef(cdef_text() + PYTHON_CALLBACKS)
        ffi.set_source(MODULE_NAME, "".join(f'#include "{name}"\n' for name in CDEF_HEADERS))
        wrapper = folder / f"{MODULE_NAME}.c"
        ffi.emit_c_code(str(wrapper))
        objects = compile_objects(folder, core_sources(), [*STRICT, "-O2", "-g", "-fPIC"])
        headers = [f"-I{sysconfig.get_paths()['include']}", *includes()]
        partial = target.with_suffix(".new")
        flags = ["-O1", "-fPIC", "-shared", *headers]
        run_compiler([compiler(), *flags, str(wrapper), *objects, "-lsodium", "-o", str(partial)])
        partial.replace(target)
        stamp.write_text(wanted)
    return target


def build_program(
    source: Path,
    target: Path,
    *,
    sanitize: bool = True,
    extra: Sequence[Path] = (),
    core_dir: Path = CORE_DIR,
    defines: Sequence[str] = (),
) -> Path:
    """Compile a C test program together with the whole core, with ASan and UBSan unless told otherwise.

    The objects go beside `target`, whose folder is made, and are compiled each time: callers choose a folder
    of their own. core_dir: another copy of the core (mutants). defines: compiler options that choose another
    build of the core.
    """
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    extras = SANITIZE if sanitize else ()
    sources = [*core_sources(core_dir), *extra, source]
    objects = compile_objects(folder, sources, [*STRICT, "-O1", "-g", *extras, *defines], core_dir=core_dir)
    run_compiler([compiler(), *extras, *objects, "-lsodium", "-o", str(target)])
    return target


def build_swarm(*, sanitize: bool = False) -> Path:
    """Build the swarm program unless it is current; returns its path. Safe from many processes."""
    folder = BUILD_DIR / ("swarm-asan" if sanitize else "swarm")
    folder.mkdir(parents=True, exist_ok=True)
    target, stamp = folder / "swarm", folder / "stamp"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = source_hash()
        if target.exists() and stamp.exists() and stamp.read_text() == wanted:
            return target
        extras = SANITIZE if sanitize else ()
        sources = sorted((CORE_DIR / "src").glob("*.c")) + [HOST_DIR / name for name in SWARM_SOURCES]
        objects = compile_objects(folder, sources, [*STRICT, "-O2", "-g", *extras])
        partial = target.with_suffix(".new")
        run_compiler([compiler(), *extras, *objects, "-lsodium", "-lm", "-o", str(partial)])
        partial.replace(target)
        stamp.write_text(wanted)
    return target


def load() -> ModuleType:
    """Build if needed and import the extension module (`.ffi`, `.lib`)."""
    if MODULE_NAME in sys.modules:
        return sys.modules[MODULE_NAME]
    path = build_module()
    loader = importlib.machinery.ExtensionFileLoader(MODULE_NAME, str(path))
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path, loader=loader)
    if spec is None:
        raise BuildError("compile_failed", f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[MODULE_NAME] = module
    return module


def main() -> int:
    """Build from the command line. 0 built or current, 1 failed."""
    parser = argparse.ArgumentParser(description="Build the firmware core for this machine.")
    parser.add_argument("--force", action="store_true", help="build although nothing changed")
    parser.add_argument("--swarm", action="store_true", help="build the swarm program instead")
    arguments = parser.parse_args()
    try:
        print(build_swarm() if arguments.swarm else build_module(force=arguments.force))
    except BuildError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
