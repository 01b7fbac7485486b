"""TFLM in a few worker processes that many virtual devices share.

A worker serves devices one request at a time and writes down, before it begins, for whom. So when TFLM
crashes the worker, or hangs it until the pool ends it, that one device knows that it was its model, and
panics or hangs itself. The others connect to the next worker, load again and go on, without streaming state.

Frames both ways: u32le length of a JSON header, the header, then the blobs whose lengths it names. The header
is {"do", "slot", "blobs", ..} from a device, {"blobs", ..} or {"code", "text"} from a worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import mmap
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from device_firmware.host.core import EngineError, Model, Tensor
from device_firmware.host.devicelog import say
from device_firmware.host.engine import WheelEngine

HEADER_MAX = 65_536
BLOBS_MAX = 16 * 1024 * 1024
BLOB_COUNT_MAX = 16
HANG_S = (
    5.0  # a request that takes longer hangs: half of the time after which a device would be called silent
)
BACKLOG = 4096
_RECORD = struct.Struct("<32sdB")
_PR_SET_PDEATHSIG = 1


class FrameError(Exception):
    """The other end is gone or sent what is no frame."""


def send_frame(sock: socket.socket, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Send one frame. Raises OSError."""
    raw = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    sock.sendall(b"".join((struct.pack("<I", len(raw)), raw, *blobs)))


def receive_frame(sock: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    """Receive one frame. Raises FrameError, also for one that is larger than anything we send."""
    (size,) = struct.unpack("<I", _exactly(sock, 4))
    if size > HEADER_MAX:
        raise FrameError(f"a header of {size} bytes")
    try:
        header = json.loads(_exactly(sock, size))
        sizes = header.pop("blobs")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FrameError(f"no header: {error!r}") from error
    is_sound = isinstance(sizes, list) and len(sizes) <= BLOB_COUNT_MAX
    if not is_sound or any(type(n) is not int or n < 0 for n in sizes) or sum(sizes) > BLOBS_MAX:
        raise FrameError("blobs are at most 16, 16 MiB together")
    return header, [_exactly(sock, n) for n in sizes]


def _exactly(sock: socket.socket, n: int) -> bytes:
    parts, left = [], n
    while left:
        try:
            part = sock.recv(min(left, 1 << 20))
        except OSError as error:
            raise FrameError(str(error)) from error
        if not part:
            raise FrameError("the other end closed the connection")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def spec_record(spec: Model) -> dict[str, Any]:
    """A manifest as JSON."""
    raw = dataclasses.asdict(spec)
    return {**raw, "id": spec.id.hex(), "labels": spec.labels.hex()}


def _spec(raw: dict[str, Any]) -> Model:
    def tensors(items: list[dict[str, Any]]) -> tuple[Tensor, ...]:
        return tuple(Tensor(**{**item, "shape": tuple(item["shape"])}) for item in items)

    fixed = {"id": bytes.fromhex(raw["id"]), "labels": bytes.fromhex(raw["labels"])}
    return Model(**{**raw, **fixed, "inputs": tensors(raw["inputs"]), "outputs": tensors(raw["outputs"])})


class Busy:
    """For whom a worker works, in a mapped file that outlives it."""

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        fd = os.open(path, os.O_RDWR | (os.O_CREAT if is_new else 0), 0o600)
        try:
            if is_new:
                os.ftruncate(fd, _RECORD.size)
            self._map = mmap.mmap(fd, _RECORD.size)
        finally:
            os.close(fd)

    def begin(self, device_id: str, now: float) -> None:
        """The next request is this device's."""
        self._map[:] = _RECORD.pack(device_id.encode(), now, 0)

    def end(self) -> None:
        """It is answered."""
        self._map[:] = bytes(_RECORD.size)

    def call_hung(self) -> None:
        """The request will never be answered: the pool ends the worker."""
        self._map[_RECORD.size - 1] = 1

    def read(self) -> tuple[str, float, bool]:
        """Device id ("" = idle), when its request began, and whether it hung."""
        raw, began, hung = _RECORD.unpack(self._map[:])
        return raw.rstrip(b"\0").decode(), began, bool(hung)


@dataclasses.dataclass
class _Worker:
    pid: int
    busy: Busy
    busy_file: Path


class EnginePool:
    """The worker processes, owned by the supervisor's only thread; `look` replaces dead and hung ones."""

    def __init__(self, folder: Path, count: int, *, in_child: Callable[[], None]) -> None:
        """Fork `count` workers. in_child: closes what the parent has open."""
        self.restarts = 0
        self._folder = folder
        self._in_child = in_child
        self._listeners: list[socket.socket] = []
        for index in range(count):
            listener = socket.socket(socket.AF_UNIX)
            path = socket_path(folder, index)
            path.unlink(missing_ok=True)
            with short_path(path) as address:
                listener.bind(address)
            path.chmod(0o600)
            listener.listen(BACKLOG)  # the parent keeps it: who connects while a worker restarts only waits
            self._listeners.append(listener)
        self._workers = [self._fork(index) for index in range(count)]

    def look(self, now: float) -> None:
        """Once in a while: replace workers that died, end one that hangs."""
        for index, worker in enumerate(self._workers):
            device_id, began, _ = worker.busy.read()
            if device_id and now - began > HANG_S:
                worker.busy.call_hung()
                say("engine_hangs", worker=index, device=device_id)
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
            elif not os.waitpid(worker.pid, os.WNOHANG)[0]:
                continue
            else:
                say("engine_died", worker=index, device=device_id or None)
            self.restarts += 1
            self._workers[index] = self._fork(index)

    def forget(self) -> None:
        """In a forked device: close its copies of the listening sockets."""
        for listener in self._listeners:
            listener.close()

    def close(self) -> None:
        """End the workers and remove what they left."""
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
        self.forget()
        for path in self._folder.glob("engine-*"):
            path.unlink(missing_ok=True)

    def _fork(self, index: int) -> _Worker:
        read_end, write_end = os.pipe()  # the child names its record by its pid: no two lives share one
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                os.close(write_end)
                os.read(read_end, 1)
                os.close(read_end)
                ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() == parent:
                    self._in_child()
                    for other in self._listeners:
                        if other is not self._listeners[index]:
                            other.close()
                    _serve(self._listeners[index], Busy(busy_path(self._folder, index, os.getpid())))
            except BaseException as error:
                say("engine_ended", text=repr(error))
            finally:
                os._exit(1)
        busy_file = busy_path(self._folder, index, pid)
        busy = Busy(busy_file, is_new=True)
        os.close(read_end)
        os.close(write_end)
        return _Worker(pid, busy, busy_file)


def socket_path(folder: Path, index: int) -> Path:
    """Where worker number `index` listens."""
    return folder / f"engine-{index}.sock"


def busy_path(folder: Path, index: int, pid: int) -> Path:
    """The record of one life of a worker."""
    return folder / f"engine-{index}-{pid}.busy"


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """An address of a Unix socket that fits, however deep its folder lies."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


# --- the worker ---------------------------------------------------------------------------------------------


def _serve(listener: socket.socket, busy: Busy) -> None:
    """Serve devices for ever, one request at a time."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    engines: dict[socket.socket, _Client] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                sock, _ = listener.accept()
                sock.settimeout(HANG_S)
                send_frame(sock, {"pid": os.getpid()})
                engines[sock] = _Client(sock, busy)
                selector.register(sock, selectors.EVENT_READ)
                continue
            sock = key.fileobj  # type: ignore[assignment]
            try:
                engines[sock].answer()
            except (FrameError, OSError):
                selector.unregister(sock)
                engines.pop(sock).close()


class _Client:
    """One device's engine inside a worker."""

    def __init__(self, sock: socket.socket, busy: Busy) -> None:
        self._sock = sock
        self._busy = busy
        self._device_id = ""
        self._engine: WheelEngine | None = None

    def answer(self) -> None:
        """Serve one request. Raises FrameError, OSError when the device is gone."""
        header, blobs = receive_frame(self._sock)
        if header.get("do") == "hello":
            self._device_id = str(header["device"])[:32]
            self._engine = WheelEngine(operators=(), arena_bytes=int(header["arena_bytes"]))
            return
        if self._engine is None:
            raise FrameError("no hello")
        self._busy.begin(self._device_id, time.monotonic())
        try:
            answer, out = self._run(self._engine, header, blobs)
        except EngineError as error:
            answer, out = {"code": error.code, "text": str(error)[:500]}, []
        except Exception as error:  # what a device's own engine would raise: the core calls it load_failed
            answer, out = {"code": "load_failed", "text": repr(error)[:500]}, []
        self._busy.end()
        send_frame(self._sock, answer, out)

    def close(self) -> None:
        """Free the device's interpreters."""
        self._engine = None
        self._sock.close()

    @staticmethod
    def _run(
        engine: WheelEngine, header: dict[str, Any], blobs: list[bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        slot = int(header["slot"])
        match header["do"]:
            case "load":
                return {"arena": engine.load(slot, blobs[0], _spec(header["spec"]))}, []
            case "invoke":
                outputs, us = engine.invoke(slot, blobs)
                return {"us": us}, list(outputs)
            case "reset":
                engine.reset(slot)
            case "unload":
                engine.unload(slot)
            case other:
                raise FrameError(f"do {other!r}")
        return {}, []


if __name__ == "__main__":
    sys.exit("workers are forked by device_firmware.host.supervisor --engines N")
