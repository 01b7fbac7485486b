"""The benchmark's C programs, built anew for each run: the generator of telemetry and the raw subscriber."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from device_firmware.host import build

HERE: Final = Path(__file__).parent
CODEC: Final = build.CORE_DIR / "src" / "cbor.c"
MQTT: Final = build.HOST_DIR / "mqtt_mini.c"


@dataclass(frozen=True)
class Programs:
    """Where the two are."""

    generator: Path
    acker: Path


def compile_into(folder: Path, *, sanitize: bool = False) -> Programs:
    """Build both below `folder`. Raises BuildError as `device_firmware.host.build`."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = [*build.STRICT, "-O2", "-g", *(build.SANITIZE if sanitize else ())]
    sources = [HERE / "generator.c", HERE / "acker.c", HERE / "load.c", MQTT, CODEC]
    names = [source.stem for source in sources]
    objects = dict(zip(names, build.compile_objects(folder, sources, flags), strict=True))
    made = Programs(folder / "generator", folder / "acker")
    for target, parts in (
        (made.generator, ("generator", "load", "mqtt_mini", "cbor")),
        (made.acker, ("acker", "load", "mqtt_mini")),
    ):
        command = [build.compiler(), *flags, *(objects[part] for part in parts), "-lsodium"]
        build.run_compiler([*command, "-o", str(target)])
    return made


class Running:
    """A started program that talks in lines of JSON."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def next(self, event: str) -> dict[str, Any]:
        """The next line, which has to tell of `event`. Raises RuntimeError with what it said instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate(timeout=10)
            raise RuntimeError(f"{Path(self._command[0]).name} ended: {said.strip()}")
        found: dict[str, Any] = json.loads(line)
        if found["event"] != event:
            raise RuntimeError(f"expected {event}, got {found}")
        return found

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Kill it when it still runs."""
        self._process.kill()
        self._process.communicate(timeout=10)


@contextmanager
def running(program: Path, **options: Any) -> Iterator[Running]:
    """Start a program with these options; it is ended with the block."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    started = Running([str(program), *arguments])
    try:
        yield started
    finally:
        started.end()
