"""tflm_engine.cc as C++ for other places than this machine: against our stub of TFLM, and for rv32imc."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from device_firmware.host.build import CORE_DIR
from tests.firmware.engine import library
from tests.firmware.port import kconfig

STUBS = Path(__file__).parent / "include"
RISCV = "riscv64-unknown-elf-g++"
CXX_HEADERS = Path("/usr/include/newlib/c++")
ARCH = ["--specs=picolibc.specs", "-march=rv32imc", "-misa-spec=2.2", "-mabi=ilp32", "-Os"]


def chosen(target: str) -> list[str]:
    """-D flags of the operators that a build for this target links."""
    values = kconfig.settings(target)
    prefix = "TINYFLEET_OP_"
    return [f"-DCONFIG_{name}=1" for name, on in values.items() if name.startswith(prefix) and on == "y"]


def against_stubs(*flags: str) -> str:
    """The compiler's words about tflm_engine.cc."""
    includes = [f"-I{path}" for path in (library.ENGINE_DIR, library.ENGINE_DIR / "include", STUBS)]
    source = str(library.ENGINE_DIR / "tflm_engine.cc")
    command = ["g++", *library.CXX, "-DTF_LITE_STATIC_MEMORY", "-fsyntax-only", *flags, *includes]
    command += [f"-I{CORE_DIR / 'include'}", source]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stderr


@pytest.mark.parametrize("target", kconfig.TARGETS)
def test_the_engine_fits_tflms_interface(target: str) -> None:
    assert against_stubs(*chosen(target)) == ""


def test_every_operator_can_be_linked_alone_and_none_is_an_error() -> None:
    """Half of the operators each, because the report has no room for all of them."""
    everything = library.options()
    for half in (everything[::2], everything[1::2]):
        assert against_stubs(*half) == ""
    assert "no operator is selected" in against_stubs()
    assert "too many operators" in against_stubs(*everything)


def test_a_name_that_a_c_library_defines_as_a_macro_does_no_harm() -> None:
    """ARG_MAX is one in picolibc, which IDF 6 uses: it turned the operator into number 65536."""
    macros = ["-DARG_MAX=65536", "-DFLOOR=1", "-DLOG=2", "-DIF=3", "-DLogicalOr=4"]
    assert against_stubs(*macros, *(flag for flag in library.options()[:70])) == ""


def rv32_headers() -> list[str]:
    """Options for Debian's newlib C++ headers, the only ones there are without libstdc++ for this chip."""
    found = sorted(CXX_HEADERS.glob("*/arm-none-eabi/thumb/v6-m/nofp/bits/c++config.h"))
    if not shutil.which(RISCV) or not found:
        raise library.LibraryMissingError(f"{RISCV} or Debian's libstdc++-arm-none-eabi-dev is missing")
    config = found[-1].parent.parent
    general = config.parents[3]
    return ["-nostdinc++", "-isystem", str(general), "-isystem", str(config)]


def test_the_engine_compiles_for_rv32imc_and_its_size_is_known(tmp_path: Path) -> None:
    try:
        flags = [*ARCH, *rv32_headers(), *library.include_flags(library.unpacked())]
    except library.LibraryMissingError as error:
        warnings.warn(f"ENGINE NOT COMPILED FOR RV32: {error}", stacklevel=1)
        pytest.skip(str(error))
    target = tmp_path / "engine.o"
    command = [RISCV, *library.CXX[:5], "-Werror", *flags, library.NAMESPACE, *chosen("esp32c3")]
    command += ["-c", str(library.ENGINE_DIR / "tflm_engine.cc"), "-o", str(target)]
    subprocess.run(command, check=True, timeout=300)
    size = subprocess.run(
        ["riscv64-unknown-elf-size", str(target)], capture_output=True, text=True, check=True
    ).stdout
    text, data, bss = (int(number) for number in re.findall(r"\d+", size.splitlines()[1])[:3])
    print("tflm_engine.cc, rv32imc -Os   operators  .text B  RAM B")
    print(f"class esp32c3-4m              {len(chosen('esp32c3')):9} {text:8,} {data + bss:6,}")
    assert text < 8_192
    assert data + bss < 4_096
