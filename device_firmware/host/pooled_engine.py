"""A virtual device's engine that runs in a shared worker (`engine_pool.py`) instead of its own process.

To the device nothing is different: a model that crashes TFLM is a panic of this device, one that hangs is its
hang. When a worker is lost through another device's model, this one's models are loaded again elsewhere.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from device_firmware.host.core import EngineError, Model
from device_firmware.host.devicelog import say
from device_firmware.host.engine import check_operators
from device_firmware.host.engine_pool import (
    HANG_S,
    Busy,
    FrameError,
    busy_path,
    receive_frame,
    send_frame,
    short_path,
    socket_path,
    spec_record,
)
from device_firmware.host.identity import Operator

TRIES = 4
ANSWER_S = HANG_S + 3  # behind one request that hangs, and still below the supervisor's patience


class PooledEngine:
    """Same face as `engine.WheelEngine`. folder: where the pool of `count` workers listens."""

    def __init__(
        self, folder: Path, count: int, *, device_id: str, operators: Sequence[Operator], arena_bytes: int
    ) -> None:
        self.before_load: Callable[[Model], None] | None = None
        self.moves = 0
        """How often a worker was lost through somebody else's model."""
        self._folder = folder
        self._count = count
        self._device_id = device_id
        self._operators = frozenset(operators)
        self._arena_bytes = arena_bytes
        self._index = zlib.crc32(device_id.encode()) % count
        self._sock: socket.socket | None = None
        self._busy: Busy | None = None
        self._loaded: dict[int, tuple[bytes, Model]] = {}

    def check(self, model: bytes) -> None:
        """As `WheelEngine.check`."""
        check_operators(model, self._operators)

    def load(self, slot: int, model: bytes, spec: Model) -> int:
        """As `WheelEngine.load`; the arena is the worker's."""
        self._loaded.pop(slot, None)
        if self.before_load is not None:
            self.before_load(spec)
        answer, _ = self._ask(_load_request(slot, spec), [model])
        self._loaded[slot] = model, spec
        return int(answer["arena"])

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        """As `WheelEngine.invoke`; µs are those of the invoke in the worker."""
        answer, outputs = self._ask({"do": "invoke", "slot": slot}, inputs)
        return outputs, int(answer["us"])

    def reset(self, slot: int) -> None:
        """As `WheelEngine.reset`."""
        self._ask({"do": "reset", "slot": slot})

    def unload(self, slot: int) -> None:
        """As `WheelEngine.unload`."""
        if self._loaded.pop(slot, None) is not None:
            self._ask({"do": "unload", "slot": slot})

    def _ask(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        """One request, asked again elsewhere when a worker was lost. Raises EngineError."""
        for _ in range(TRIES):
            try:
                sock = self._connected()
                send_frame(sock, header, blobs)
                answer, out = receive_frame(sock)
            except (FrameError, OSError) as error:
                self._lost(error)
                continue
            if "code" in answer:
                raise EngineError(str(answer["code"]), str(answer.get("text", "")))
            return answer, out
        raise EngineError("load_failed", f"{TRIES} workers were lost one after another")

    def _connected(self) -> socket.socket:
        """A connection with the loaded models behind it."""
        if self._sock is not None:
            return self._sock
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(ANSWER_S)
        self._sock = sock
        with short_path(socket_path(self._folder, self._index)) as address:
            sock.connect(address)
        greeting, _ = receive_frame(sock)
        self._busy = Busy(busy_path(self._folder, self._index, int(greeting["pid"])))
        send_frame(sock, {"do": "hello", "device": self._device_id, "arena_bytes": self._arena_bytes})
        for slot, (model, spec) in self._loaded.items():
            send_frame(sock, _load_request(slot, spec), [model])
            receive_frame(sock)
        return sock

    def _lost(self, error: Exception) -> None:
        """The worker is gone: was it our model? Then this device ends as the worker did."""
        device_id, _, hung = self._busy.read() if self._busy is not None else ("", 0.0, False)
        if self._sock is not None:
            self._sock.close()
        self._sock = self._busy = None
        if device_id == self._device_id:
            if hung:
                say("model_hangs", device=self._device_id)
                time.sleep(3600)
            os.kill(os.getpid(), signal.SIGSEGV)
        self.moves += 1
        self._index = (self._index + 1) % self._count
        say("engine_moved", device=self._device_id, text=str(error))


def _load_request(slot: int, spec: Model) -> dict[str, Any]:
    return {"do": "load", "slot": slot, "spec": spec_record(spec)}
