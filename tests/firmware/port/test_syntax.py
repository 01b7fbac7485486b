"""`main/` type-checked for three chips and two generations of ESP-IDF, against stub headers of our own.

This is all that the application has been through here: no test builds it with Espressif's toolchain.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from device_firmware.host.build import CORE_DIR, FIRMWARE_DIR
from tests.firmware.port import kconfig

MAIN = FIRMWARE_DIR / "main"
ENGINE = FIRMWARE_DIR / "components" / "tflm_engine"
INCLUDE = Path(__file__).parent / "include"
SOURCES = sorted(MAIN.glob("*.c"))
WARN = ["-std=gnu2x", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
RISCV = "riscv64-unknown-elf-gcc"
GENERATIONS = {"IDF 5.3": ["-DSTUB_IDF_5"], "IDF 6": []}
VARIANTS = {
    "as it comes": {},
    "own authority and a lamp": {
        "TINYFLEET_ENROL_CA_FILE": "y",
        "TINYFLEET_ENROL_CA_BUNDLE": "n",
        "TINYFLEET_LED_GPIO": "8",
    },
    "arena in PSRAM": {"TINYFLEET_ARENA_IN_PSRAM": "y"},
    "update only": {"TINYFLEET_TELEMETRY": "n"},
    "no RTC memory": {"SOC_RTC_FAST_MEM_SUPPORTED": "n"},
}


def includes(folder: Path, target: str, **changes: str) -> list[str]:
    """Options for our headers, the stubs and a generated sdkconfig.h, and for the core's build."""
    (folder / "sdkconfig.h").write_text(kconfig.sdkconfig_h(target, **changes))
    paths = (MAIN, CORE_DIR / "include", ENGINE / "include", INCLUDE, folder)
    values = kconfig.settings(target) | changes
    telemetry = int(values["TINYFLEET_TELEMETRY"] == "y")
    return [
        *(f"-I{path}" for path in paths),
        *(f"-DFC_SLOTS={values['TINYFLEET_SLOTS']}u", f"-DFC_TELEMETRY={telemetry}"),
    ]


def check(compiler: str, *flags: str) -> str:
    """The compiler's words, "" when it has none."""
    done = subprocess.run([compiler, *flags], capture_output=True, text=True, check=False, timeout=120)
    return done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("target", kconfig.TARGETS)
def test_the_application_fits_the_api(target: str, generation: str, variant: str, tmp_path: Path) -> None:
    flags = [*WARN, *GENERATIONS[generation], *includes(tmp_path, target, **VARIANTS[variant])]
    assert check("gcc", *flags, *map(str, SOURCES)) == ""


def test_the_application_fits_the_api_with_32_bit_types(tmp_path: Path) -> None:
    """On the chips uint32_t is unsigned long: what printf is given must fit there too."""
    if not shutil.which(RISCV):
        text = f"NOT CHECKED with 32-bit types: {RISCV} (Debian: gcc-riscv64-unknown-elf) is missing"
        assert not os.environ.get("FLEET_REQUIRE_RV32"), text
        warnings.warn(text, stacklevel=1)
        pytest.skip(text)
    flags = [*WARN, "--specs=picolibc.specs", "-march=rv32imc", "-misa-spec=2.2", "-mabi=ilp32"]
    assert check(RISCV, *flags, *includes(tmp_path, "esp32c3"), *map(str, SOURCES)) == ""


def test_a_wrong_call_is_seen(tmp_path: Path) -> None:
    """The check itself: with one argument changed it must speak."""
    broken = tmp_path / "port_flash.c"
    text = (MAIN / "port_flash.c").read_text()
    assert "esp_partition_erase_range(part, off, FC_SECTOR)" in text
    broken.write_text(text.replace("(part, off, FC_SECTOR)", "(part, FC_SECTOR)"))
    assert "too few arguments" in check("gcc", *WARN, *includes(tmp_path, "esp32"), str(broken))


def test_the_engine_is_plain_c_outside(tmp_path: Path) -> None:
    sources = [str(ENGINE / name) for name in ("flat.c", "model_check.c")]
    assert check("gcc", *WARN, f"-I{ENGINE}", *includes(tmp_path, "esp32"), *sources) == ""


def stub_lines() -> list[str]:
    """The stub headers' text, a line for each macro or declaration."""
    text = "\n".join(path.read_text() for path in INCLUDE.rglob("*.h")).replace("\\\n", " ")
    macros = [line for line in text.splitlines() if line.startswith("#define")]
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    while (shorter := re.sub(r"\{[^{}]*\}", " ", plain)) != plain:
        plain = shorter
    return [*macros, *(" ".join(part.split()) for part in plain.split(";"))]


def test_every_stub_is_one_that_the_application_calls() -> None:
    """A signature that nothing uses would be one that nothing checks."""
    lines = stub_lines()
    macros = " ".join(line.split(")", 1)[1] for line in lines if line.startswith("#define") and ")" in line)
    functions = [
        line
        for line in lines
        if "(" in line and not line.startswith(("#", "typedef", "_Static", "ESP_EVENT_"))
    ]
    names = {match[1] for line in functions if (match := re.search(r"(\w+)\s*\(", line))}
    used = " ".join(path.read_text() for path in [*MAIN.glob("*.c"), *ENGINE.glob("*.cc")]) + macros
    assert len(names) > 80
    assert {name for name in names if not re.search(rf"\b{name}\b", used)} == set()


def test_every_option_that_the_code_reads_is_defined_and_every_own_one_is_read() -> None:
    texts = [
        path.read_text() for path in [*MAIN.glob("*.[ch]"), *ENGINE.glob("*.cc"), *ENGINE.glob("*.[ch]")]
    ]
    cmake = [path.read_text() for path in FIRMWARE_DIR.glob("*/CMakeLists.txt")]
    cmake += [path.read_text() for path in FIRMWARE_DIR.glob("components/*/CMakeLists.txt")]
    read = set(re.findall(r"\bCONFIG_(\w+)", "\n".join([*texts, *cmake])))
    own = {name for name in read if name.startswith("TINYFLEET_")} - {"TINYFLEET_OP_"}
    defined = set(kconfig.symbols())
    assert own - defined == set()
    assert defined - own - {"TINYFLEET_ENROL_CA_BUNDLE"} == set()  # the other side of a choice
    others = read - own
    assert others <= {
        *kconfig.IDF,
        *(f"IDF_TARGET_{name}" for name in ("ESP32", "ESP32S2", "ESP32S3", "ESP32C3", "ESP32C6", "ESP32P4")),
        "IDF_TARGET",
        "SOC_RTC_SLOW_MEM_SUPPORTED",
    }


def test_every_option_has_a_value_within_its_range() -> None:
    for name, symbol in kconfig.symbols().items():
        assert symbol.kind, name
        for value, _ in symbol.defaults:
            if symbol.range and symbol.kind == "int":
                assert symbol.range[0] <= int(value) <= symbol.range[1], name
