"""Run scripts of calls into the core on an emulated rv32imc chip, each answered with its result and cost.

`rig.c` is the device, `bench.c` reads the script. The program is built from the very sources of `fleet_core`
and the real libsodium.
"""

from __future__ import annotations

import enum
import fcntl
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_firmware.host.build import CORE_DIR, HOST_DIR, BuildError
from device_firmware.host.rv32 import sodium, toolchain

SOURCES = ("bench.c", "board.c", "crypto.c", "flash.c", "rig.c")
DEADLINE_S = 240.0


class Verb(enum.IntEnum):
    """What a record of a script asks for; the numbers are those of `bench.c`."""

    IDENTITY = 0
    BOOT = 1
    LINK = 2
    MESSAGE = 3
    CBOR = 4
    MANIFEST = 5
    VERIFY = 6
    SHA256 = 7
    HMAC = 8
    CLOCK = 9
    STATE = 10
    SAVE = 11
    RESTORE = 12
    RETAIN = 13
    DRIVE = 14
    RESET_COST = 15


@dataclass(frozen=True)
class Answer:
    """What one call did. result: 0 or a negative code; instructions: exact; stack: bytes written below the
    caller's frame; fields: what the verb tells besides, a list because some keys come more than once.
    """

    result: int
    instructions: int
    stack: int
    fields: list[tuple[str, str]]

    def __getitem__(self, key: str) -> str:
        """The first value of `key`. Raises KeyError."""
        for name, value in self.fields:
            if name == key:
                return value
        raise KeyError(key)

    def number(self, key: str) -> int:
        """The first value of `key` as a number."""
        return int(self[key])

    def every(self, key: str) -> list[str]:
        """All values of `key`."""
        return [value for name, value in self.fields if name == key]


@dataclass
class Script:
    """Calls to make, in order. Each method returns the number of its answer."""

    records: list[bytes] = field(default_factory=list)

    def add(self, verb: Verb, payload: bytes = b"", topic: str = "") -> int:
        """Add any record."""
        raw = topic.encode()
        head = struct.pack("<BH", verb, len(raw)) + raw + struct.pack("<I", len(payload))
        self.records.append(head + payload)
        return len(self.records) - 1

    def identity(
        self,
        device_id: str,
        *,
        installation_id: bytes,
        class_id: bytes,
        mac_key: bytes,
        roots: Sequence[bytes],
        root_threshold: int,
        capacity: int,
        operators: bytes,
        least_trust_version: int = 1,
    ) -> int:
        """A blank device. operators: the CBOR array of manifest key 12."""
        payload = installation_id + class_id + mac_key
        payload += struct.pack("<BBI", len(roots), root_threshold, least_trust_version)
        payload += b"".join(roots) + struct.pack("<I", capacity) + operators
        return self.add(Verb.IDENTITY, payload, device_id)

    def boot(self, reason: int = 0) -> int:
        """Start the core; reason as in SPEC.md section 5."""
        return self.add(Verb.BOOT, bytes((reason,)))

    def link(self, up: bool) -> int:
        """The connection comes up or goes down."""
        return self.add(Verb.LINK, bytes((up,)))

    def message(self, topic: str, payload: bytes) -> int:
        """A message arrives."""
        return self.add(Verb.MESSAGE, payload, topic)

    def retain(self, topic: str, payload: bytes) -> int:
        """The broker holds a message for whoever subscribes."""
        return self.add(Verb.RETAIN, payload, topic)

    def clock(self, ms: int, unix_s: int) -> int:
        """Set uptime and network time; 0 = no network time."""
        return self.add(Verb.CLOCK, struct.pack("<QQ", ms, unix_s))

    def drive(self, rounds: int) -> int:
        """Deliver, step, infer, let time pass."""
        return self.add(Verb.DRIVE, struct.pack("<I", rounds))

    def save(self, number: int) -> int:
        """Take a snapshot."""
        return self.add(Verb.SAVE, bytes((number,)))

    def restore(self, number: int) -> int:
        """Go back to a snapshot of the same device."""
        return self.add(Verb.RESTORE, bytes((number,)))


def source_hash(core_dir: Path = CORE_DIR) -> str:
    """SHA-256 over everything the builds here read, in hex."""
    digest = hashlib.sha256(" ".join((*toolchain.COMPILE, *toolchain.LINK, sodium.SHA256)).encode())
    folders = (core_dir / "src", core_dir / "include" / "fleet_core", HOST_DIR, toolchain.RV32_DIR)
    for path in sorted(path for folder in folders for path in folder.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def build_program(
    name: str,
    sources: Sequence[Path],
    *,
    defines: Sequence[str] = (),
    kept: Sequence[str] = toolchain.PIPELINE,
) -> Path:
    """Build `name`.elf of the core, libsodium and these sources, unless it is current.

    defines: compiler options that choose another build of the core; such a build has its own name. kept:
    functions of the core that are linked although no source here calls them.
    Its objects lie beside it, the core's in the folder `core` there. Safe from several processes. Raises
    Missing, BuildError.
    """
    toolchain.require()
    folder = toolchain.RV32_BUILD_DIR / name
    folder.mkdir(parents=True, exist_ok=True)
    target, stamp = folder / f"{name}.elf", folder / "stamp"
    crypto = sodium.objects()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = source_hash()
        if target.exists() and stamp.exists() and stamp.read_text() == wanted:
            return target
        stamp.unlink(missing_ok=True)
        for old in folder.glob("**/*.*"):  # or an object of a source that is gone would be counted
            old.unlink()
        flags = [*toolchain.includes(), *sodium.includes(), *toolchain.CALL_GRAPH, *defines]
        core = toolchain.compile_objects(folder / "core", toolchain.core_sources(), flags)
        port = toolchain.compile_objects(folder, sources, flags)
        toolchain.link(target, [*port, *core, *crypto], kept)
        stamp.write_text(wanted)
    return target


def build() -> Path:
    """The bench program, built if needed. Raises as `build_program`."""
    return build_program("bench", _sources())


def build_without_pipeline() -> Path:
    """The same for an application that infers by itself: what it does not call is not linked."""
    return build_program("bench-telemetry", _sources(), kept=())


def build_update_only() -> Path:
    """The same without the pipeline and without telemetry (FC_TELEMETRY 0)."""
    return build_program("bench-update", _sources(), defines=("-DFC_TELEMETRY=0",), kept=())


def _sources() -> list[Path]:
    return [toolchain.RV32_DIR / name for name in SOURCES]


def run(script: Script, folder: Path, *, deadline_s: float = DEADLINE_S) -> list[Answer]:
    """Run a script in `folder` (made if needed); one answer per record.

    Raises BuildError `run_failed` when the program fails or answers fewer records than asked.
    """
    program = build()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.bin").write_bytes(b"FCRV" + b"".join(script.records))
    lines = toolchain.run(program, folder, deadline_s=deadline_s).splitlines()
    if not lines or lines[-1] != f"end {len(script.records)}":
        raise BuildError("run_failed", f"the bench ended early: {lines[-1:]}")
    return [_answer(number, line) for number, line in enumerate(lines[:-1])]


def _answer(number: int, line: str) -> Answer:
    index, result, instructions, stack, *rest = line.split(" ")
    if int(index) != number:
        raise BuildError("run_failed", f"answer {number} is {line[:80]!r}")
    pairs = [(key, value) for key, _, value in (word.partition("=") for word in rest)]
    return Answer(int(result), int(instructions), int(stack), pairs)
