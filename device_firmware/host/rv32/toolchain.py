"""The compiler, linker and emulator of rv32imc, the ESP32-C3's instruction set.

Debian's `gcc-riscv64-unknown-elf` and `picolibc-riscv64-unknown-elf` build the very sources of `fleet_core`;
`qemu-system-misc` runs them. Where one is missing, `Missing` says which package has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from device_firmware.host.build import BUILD_DIR, CORE_DIR, HOST_DIR, STRICT, BuildError, run_compiler

RV32_DIR = HOST_DIR / "rv32"
RV32_BUILD_DIR = BUILD_DIR / "rv32"
PREFIX = "riscv64-unknown-elf-"
PACKAGES = {
    f"{PREFIX}gcc": "gcc-riscv64-unknown-elf",
    "qemu-system-riscv32": "qemu-system-misc",
}
_SPECS = Path("/usr/lib/picolibc/riscv64-unknown-elf/picolibc.specs")

# `_zicsr` in -march would select 64-bit libraries: the older instruction set specification has it inside.
MACHINE = ("-march=rv32imc", "-misa-spec=2.2", "-mabi=ilp32")
# `-msave-restore` is what ESP-IDF's CONFIG_COMPILER_SAVE_RESTORE_LIBCALLS adds on its RISC-V chips, and what
# sdkconfig.defaults.esp32c3 sets: registers are saved by shared routines of libgcc.
COMPILE = (
    *(*MACHINE, "--specs=picolibc.specs", "-Os", "-msave-restore"),
    *("-ffunction-sections", "-fdata-sections"),
)
# .su and .ci files beside each object: frames, and who calls whom
CALL_GRAPH = ("-fstack-usage", "-fcallgraph-info=su")
RAM_BYTES = 0x1000000
LINK = (
    *MACHINE,
    "--specs=picolibc.specs",
    "--oslib=semihost",
    "--crt0=hosted",
    "-Wl,--gc-sections",
    "-Wl,--defsym=__flash=0x80000000",
    "-Wl,--defsym=__flash_size=0x200000",
    "-Wl,--defsym=__ram=0x80200000",
    f"-Wl,--defsym=__ram_size={RAM_BYTES:#x}",
    "-Wl,--defsym=__stack_size=0x10000",
)
# What an application calls of the pipeline: linked although the programs here bring their own inferences, so
# that its code counts.
PIPELINE = (
    "fc_app_open",
    "fc_app_ready",
    "fc_app_step",
    "fc_stream_open",
    "fc_stream_put",
    "fc_stream_gap",
    "fc_pieces_begin",
    "fc_pieces_put",
)
EMULATOR = (
    *("qemu-system-riscv32", "-machine", "virt", "-cpu", "rv32,a=false,f=false,d=false", "-bios", "none"),
    *("-m", "32M", "-display", "none", "-monitor", "none"),
    *("-chardev", "stdio,id=console,signal=off"),
    *("-semihosting-config", "enable=on,target=native,chardev=console"),
)


class Missing(Exception):
    """A tool of this proof is not installed; the text names the Debian packages."""


def require() -> None:
    """Return when compiler, C library and emulator are installed. Raises Missing."""
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if not _SPECS.exists():
        missing.append("picolibc-riscv64-unknown-elf")
    if missing:
        raise Missing(f"the proof on rv32imc needs Debian's {' '.join(sorted(missing))}")


def includes(core_dir: Path = CORE_DIR) -> list[str]:
    """Compiler options for the core's headers and those of this port."""
    return [f"-I{core_dir / 'include'}", f"-I{core_dir / 'src'}", f"-I{HOST_DIR}", f"-I{RV32_DIR}"]


def core_sources(core_dir: Path = CORE_DIR) -> list[Path]:
    """The portable core's C files, the same ones that every other build takes."""
    return sorted((core_dir / "src").glob("*.c"))


def compile_objects(
    folder: Path, sources: Sequence[Path], flags: Sequence[str], *, strict: bool = True
) -> list[Path]:
    """Compile each source into `folder`, as strictly as on the host unless it is not ours.

    Raises BuildError `compile_failed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    objects = [folder / f"{source.stem}.o" for source in sources]
    strictness = STRICT if strict else ()

    def one(pair: tuple[Path, Path]) -> None:
        command = [f"{PREFIX}gcc", *strictness, *COMPILE, *flags, "-c", str(pair[0]), "-o", str(pair[1])]
        run_compiler(command)

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(one, zip(sources, objects, strict=True)))
    return objects


def link(target: Path, objects: Sequence[Path], kept_names: Sequence[str] = PIPELINE) -> Path:
    """Link a program that QEMU loads; a map file goes beside it. kept_names: linked although nobody calls
    them. Raises BuildError `compile_failed`.
    """
    kept = [f"-Wl,--undefined={name}" for name in kept_names]
    run_compiler(
        [f"{PREFIX}gcc", *LINK, *kept, *map(str, objects), f"-Wl,-Map={target}.map", "-o", str(target)],
    )
    return target


def tool(name: str, *arguments: str) -> str:
    """What a tool of the toolchain (`size`, `nm`) prints. Raises BuildError `compile_failed`."""
    done = subprocess.run([f"{PREFIX}{name}", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError("compile_failed", f"{name}: {done.stderr[-2000:]}")
    return done.stdout


def run(program: Path, folder: Path, *, deadline_s: float) -> str:
    """Run a program to its end in `folder`, where it finds its files; returns what it printed.

    One instruction takes one nanosecond of the emulated clock, so counts are exact and the same in each run.
    Raises BuildError `run_failed` for another exit status than 0, subprocess.TimeoutExpired at the deadline.
    """
    done = subprocess.run(
        [*EMULATOR, "-icount", "shift=0", "-serial", "none", "-kernel", str(program)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        last = (done.stdout + done.stderr)[-2000:]
        raise BuildError("run_failed", f"{program.name} ended with {done.returncode}:\n{last}")
    return done.stdout
