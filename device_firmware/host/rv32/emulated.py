"""An emulated device: an ESP32-C3's instruction set in QEMU, its serial line on the broker's plain listener.

The folder holds what a board holds: `identity.json` from enrolment, the boot counter, `flash.bin`,
`keep.bin`. Killing the emulator is a power cut: flash keeps the pages that were programmed by then. TFLM runs
in `engine_child`, the partner on the second serial line.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from device_firmware.host.build import HOST_DIR
from device_firmware.host.core import Reset, State, encode_operators
from device_firmware.host.home import Home
from device_firmware.host.identity import Identity
from device_firmware.host.rv32 import bench, engine_child, toolchain

SOURCES = ("board.c", "crypto.c", "device.c", "flash.c", "partner.c", "session.c", "uart.c")
SECTOR = 4096
META_SECTORS = 8
SLOTS = 4
PROBATION = (5, 5)  # the floor of class chip `host`: inferences, seconds
EXIT_REBOOT, EXIT_WATCHDOG = 80, 81  # device.h
# Whoever starts the two processes takes them along when it dies.
_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


class EmulatorError(Exception):
    """The emulator or its partner ended as no board would; the text has the last lines it printed."""


@dataclass(frozen=True)
class Look:
    """Slot 0 as the device last showed it in this life. seq: of the confirmed model, 0 = none, -1 = the
    device has shown nothing yet.
    """

    state: State = State.IDLE
    code: int = 0
    have: int = 0
    total: int = 0
    phase: int = 0
    seq: int = -1


def build() -> Path:
    """The device's program, built if needed. Raises Missing, BuildError."""
    sources = [toolchain.RV32_DIR / name for name in SOURCES]
    return bench.build_program("device", [*sources, HOST_DIR / "mqtt_mini.c"])


def flash_bytes(slot_bytes: tuple[int, ...]) -> int:
    """Bytes of the flash: metadata, then two banks a slot of manifest, leaf and chunk sectors."""
    total = META_SECTORS * SECTOR
    for capacity in slot_bytes:
        chunks = capacity // SECTOR
        total += 2 * (chunks + 1 + (2 if chunks > SECTOR // 8 else 1)) * SECTOR if chunks else 0
    return total


def identity_record(me: Identity, *, boot: int, reason: Reset) -> bytes:
    """`identity.bin` as `device.c` reads it."""
    texts = (
        *(me.device_id.encode(), me.firmware.encode(), me.esp_nn.encode()),
        *(me.broker_user.encode(), me.broker_secret.encode(), encode_operators(me.operators)),
        *(b"".join(me.roots), me.mac_key, me.installation_id),
    )
    build_id = hashlib.sha256(f"{me.firmware}\0{me.esp_nn}\0host".encode()).digest()[:4]
    slots = (*me.slot_bytes, 0, 0, 0, 0)[:SLOTS]
    return b"".join(
        (
            b"FCID",
            *(struct.pack("<H", len(text)) + text for text in texts),
            me.class_id + build_id + hashlib.sha256(me.mac_key).digest()[:4],
            struct.pack("<BBB", me.root_threshold, 0, reason),
            struct.pack("<3H", *map(int, me.firmware.split("."))),
            struct.pack("<5I", boot, me.least_trust_version, me.arena_bytes, *PROBATION),
            struct.pack("<4I", *slots),
        )
    )


class EmulatedDevice:
    """One board on the bench. `with` leaves neither emulator nor partner behind."""

    def __init__(self, home: Home, *, broker_port: int, data: Path, seat: int = 0) -> None:
        """home: holds `identity.json`. broker_port: the plain listener on loopback. data: recordings."""
        self.home = home
        self.starts: list[Reset] = []
        self._identity = Identity.load(home.identity_file)
        self._broker_port = broker_port
        self._program = build()
        self._emulator: subprocess.Popen[bytes] | None = None
        self._console = home.path / "console.log"
        self._console.write_bytes(b"")
        self._read_to = 0
        self._look = Look()
        if not home.flash_file.exists():
            part = home.path / "flash.part"
            part.write_bytes(b"\xff" * flash_bytes(self._identity.slot_bytes))
            part.replace(home.flash_file)
        self._partner_log = (home.path / "engine.log").open("ab")
        command = [*_WITH_PARENT, sys.executable, "-m", engine_child.__name__, "--seat", str(seat)]
        command += ["--identity", str(home.identity_file), "--data", str(data)]
        self._partner = self._start(command, self._partner_log)

    def __enter__(self) -> EmulatedDevice:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.cut_power()
        self._partner.kill()
        self._partner.wait()
        self._partner_log.close()

    def _start(self, command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join((str(HOST_DIR.parents[1]), os.environ.get("PYTHONPATH", "")))
        return subprocess.Popen(
            command,
            cwd=self.home.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def power_on(self, reason: Reset = Reset.POWER) -> None:
        """Start the emulator. It finds the flash as the last life left it."""
        if self._emulator is not None:
            raise EmulatorError("it runs already")
        record = identity_record(self._identity, boot=self.home.next_boot(), reason=reason)
        (self.home.path / "identity.bin").write_bytes(record)
        keep = self.home.path / "keep.bin"
        if reason in (Reset.POWER, Reset.BROWNOUT) or not keep.exists():
            keep.write_bytes(bytes(64))
        serial = f"socket,id=mqtt,host=127.0.0.1,port={self._broker_port},reconnect=1"
        partner = f"socket,id=partner,path={engine_child.SOCKET},reconnect=1"
        command = [
            *(*_WITH_PARENT, *toolchain.EMULATOR, "-kernel", str(self._program)),
            *("-chardev", serial, "-serial", "chardev:mqtt"),
            *("-chardev", partner, "-device", "pci-serial,chardev=partner"),
        ]
        self.look()  # what the life before said last is read now, and forgotten
        self._look = Look()
        with self._console.open("ab") as log:
            self._emulator = self._start(command, log)
        self.starts.append(reason)

    def cut_power(self) -> None:
        """Kill the emulator, wherever it is."""
        if self._emulator is not None:
            self._emulator.kill()
            self._emulator.wait()
            self._emulator = None

    def look(self) -> Look:
        """Slot 0 as last shown. A device that ended as a board may is started again.

        Raises EmulatorError for any other end.
        """
        with self._console.open("rb") as log:
            log.seek(self._read_to)
            fresh = log.read()
        whole = fresh.rfind(b"\n") + 1
        self._read_to += whole
        for line in fresh[:whole].decode(errors="replace").splitlines():
            words = line.split()
            if words[:1] == ["slot"]:
                state, *numbers = map(int, words[1:])
                self._look = Look(State(state), *numbers)
        if self._partner.poll() is not None:
            raise EmulatorError(f"the engine's process ended: {self._last(self.home.path / 'engine.log')}")
        status = self._emulator.poll() if self._emulator is not None else None
        if status is not None:
            self._emulator = None  # first: starting it again looks once more
            if status not in (EXIT_REBOOT, EXIT_WATCHDOG):
                raise EmulatorError(f"the emulator ended with {status}: {self._last(self._console)}")
            self.power_on(Reset.EXPECTED if status == EXIT_REBOOT else Reset.WATCHDOG)
        return self._look

    def console(self) -> str:
        """Everything that the device printed, in all its lives."""
        return self._console.read_text(errors="replace")

    def wait_until_ready(self, *, deadline_s: float = 30.0) -> None:
        """Return once the partner listens. Raises EmulatorError."""
        end = time.monotonic() + deadline_s
        while not (self.home.path / engine_child.SOCKET).exists():
            if self._partner.poll() is not None or time.monotonic() > end:
                raise EmulatorError(f"the engine does not start: {self._last(self.home.path / 'engine.log')}")
            time.sleep(0.05)

    @staticmethod
    def _last(path: Path) -> str:
        return path.read_text(errors="replace")[-1500:]
