"""Enough of Kconfig to give the application its `sdkconfig.h`: symbols, types, defaults by target."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from device_firmware.host.build import FIRMWARE_DIR
from ota.operators import BUILTIN_CODES

FILES = (
    FIRMWARE_DIR / "main" / "Kconfig.projbuild",
    FIRMWARE_DIR / "components" / "tflm_engine" / "Kconfig",
    FIRMWARE_DIR / "components" / "fleet_core" / "Kconfig",
)
TARGETS = ("esp32", "esp32s3", "esp32c3")


@dataclass
class Symbol:
    """A `config` entry. defaults: (value, condition) in order, condition "" when there is none."""

    name: str
    kind: str = ""
    defaults: list[tuple[str, str]] = field(default_factory=list)
    depends: list[str] = field(default_factory=list)
    range: tuple[int, int] | None = None

    def value(self, on: frozenset[str]) -> str:
        """The default's value where the symbols `on` are set; "n" for an unset bool."""
        if any(need not in on for need in self.depends):
            return "n"
        for value, condition in self.defaults:
            if not condition or condition in on:
                return value
        return "n"


def symbols() -> dict[str, Symbol]:
    """Every symbol that the project defines. A choice's default is given to its member."""
    found: dict[str, Symbol] = {}
    chosen: set[str] = set()
    for path in FILES:
        entry: Symbol | None = None
        for line in path.read_text().splitlines():
            words = line.split()
            if match := re.match(r"\s*config (\w+)$", line):
                assert match[1] not in found, f"{match[1]} is defined twice"
                entry = found[match[1]] = Symbol(match[1])
            elif match := re.match(r"\s*choice (\w+)$", line):
                entry = None
            elif entry is None:
                if match := re.match(r"\s*default (TINYFLEET_\w+)$", line):
                    chosen.add(match[1])
            elif words[:1] and words[0] in ("bool", "int", "string"):
                entry.kind = words[0]
            elif match := re.match(r'\s*default ("[^"]*"|\S+)(?: if (\w+))?$', line):
                entry.defaults.append((match[1], match[2] or ""))
            elif match := re.match(r"\s*range (-?\d+) (-?\d+)$", line):
                entry.range = int(match[1]), int(match[2])
            elif match := re.match(r"\s*depends on (\w+)$", line):
                entry.depends.append(match[1])
    for name in chosen:
        found[name].defaults.append(("y", ""))
    return found


def defaults_file(target: str) -> dict[str, str]:
    """CONFIG lines of sdkconfig.defaults and the target's own, without the prefix."""
    lines = (FIRMWARE_DIR / "sdkconfig.defaults").read_text().splitlines()
    lines += (FIRMWARE_DIR / f"sdkconfig.defaults.{target}").read_text().splitlines()
    return dict(line.removeprefix("CONFIG_").split("=", 1) for line in lines if line.startswith("CONFIG_"))


def settings(target: str) -> dict[str, str]:
    """All values for a target: Kconfig defaults, then sdkconfig.defaults; "n" for an unset bool."""
    given = defaults_file(target)
    on = frozenset({f"IDF_TARGET_{target.upper()}", *(name for name, value in given.items() if value == "y")})
    values = {name: symbol.value(on) for name, symbol in symbols().items()}
    return values | {name: value for name, value in given.items() if name in values}


IDF = {
    "FREERTOS_HZ": "100",
    "LWIP_SNTP_MAX_SERVERS": "1",
    "SOC_RTC_FAST_MEM_SUPPORTED": "1",
}
"""What ESP-IDF itself defines and the application or the stub headers read."""


def sdkconfig_h(target: str, **changes: str) -> str:
    """The header as ESP-IDF generates it: a bool that is off has no line."""
    lines = [f'#define CONFIG_IDF_TARGET "{target}"', f"#define CONFIG_IDF_TARGET_{target.upper()} 1"]
    for name, value in (IDF | settings(target) | changes).items():
        if value != "n":
            lines.append(f"#define CONFIG_{name} {'1' if value == 'y' else value}")
    return "\n".join(["#pragma once", *lines, ""])


def operators(target: str) -> list[int]:
    """Builtin operators that a build for this target links. No custom one is on by default."""
    prefix = "TINYFLEET_OP_"
    on = [name for name, value in settings(target).items() if name.startswith(prefix) and value == "y"]
    return sorted(BUILTIN_CODES[name.removeprefix(prefix)] for name in on)
