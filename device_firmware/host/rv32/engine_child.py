"""The other end of an emulated device's second serial line: the official TFLM wheel and a sensor.

A process of its own that listens on the socket `engine.sock` of its folder. QEMU connects to it; a new
connection is a chip that started anew, so nothing is loaded then. `partner.h` has the frames:

| verb | body | reply's body |
|---|---|---|
| 1 check | model | |
| 2 load | u8 slot, u8 inputs, u8 outputs, u32 reset policy, u32 head, tensors, model | u32 arena bytes |
| 3 invoke | u8 slot, u8 inputs, (u32 length, bytes) each | u32 µs, (u32 length, bytes) each output |
| 4 reset, 5 unload | u8 slot | |
| 6 sense | u8 slot | u32 µs, i32 label, u16 score in 1e-4 each |
"""

from __future__ import annotations

import argparse
import socket
import struct
from pathlib import Path

from device_firmware.host import recordings
from device_firmware.host.engine import WheelEngine
from device_firmware.host.identity import Identity
from device_firmware.host.interface import CODES, EngineError, Model, Tensor
from device_firmware.host.sensor import Sensor, Windows

SOCKET = "engine.sock"
CHECK, LOAD, INVOKE, RESET, UNLOAD, SENSE = range(1, 7)
BODY_MAX = 8 * 1024 * 1024
_TENSOR = struct.Struct("<BB5IIiI")


class Partner:
    """Answers one chip after another."""

    def __init__(self, identity: Identity, windows: Windows) -> None:
        self._identity = identity
        self._windows = windows
        self._loaded: dict[int, Model] = {}
        self._start()

    def _start(self) -> None:
        me = self._identity
        self._engine = WheelEngine(operators=me.operators, arena_bytes=me.arena_bytes)
        self._sensor = Sensor(self._windows, self._engine)
        self._loaded.clear()

    def serve(self, listener: socket.socket) -> None:
        """Serve connections for ever."""
        while True:
            connection, _ = listener.accept()
            self._start()
            with connection:
                try:
                    while True:
                        self._answer(connection)
                except ConnectionError:
                    continue  # the chip lost its power

    def _answer(self, connection: socket.socket) -> None:
        verb, length = struct.unpack("<BI", _exactly(connection, 5))
        if length > BODY_MAX:
            raise ConnectionError(f"a body of {length:,} bytes")
        body = _exactly(connection, length)
        try:
            result, reply = 0, self._do(verb, body)
        except EngineError as error:
            result, reply = -CODES[error.code], b""
        except Exception as error:
            print(f"verb {verb} failed: {error!r}", flush=True)
            result, reply = -CODES["load_failed"], b""
        connection.sendall(struct.pack("<iI", result, len(reply)) + reply)

    def _do(self, verb: int, body: bytes) -> bytes:
        if verb == CHECK:
            self._engine.check(body)
            return b""
        slot = body[0]
        if verb == LOAD:
            model, data = _model(body)
            used = self._engine.load(slot, data, model)
            self._loaded[slot] = model
            return struct.pack("<I", used)
        if verb == INVOKE:
            outputs, us = self._engine.invoke(slot, _buffers(body[2:], body[1]))
            return struct.pack("<I", us) + b"".join(struct.pack("<I", len(out)) + out for out in outputs)
        if verb == SENSE:
            sample = self._sensor.sense(self._loaded[slot], *next(self._windows))
            scores = [round(score * 10_000) for score in sample.scores]
            return struct.pack(f"<Ii{len(scores)}H", sample.us, sample.label, *scores)
        if verb == RESET:
            self._engine.reset(slot)
        elif verb == UNLOAD:
            self._engine.unload(slot)
            self._loaded.pop(slot, None)
        else:
            raise EngineError("load_failed", f"verb {verb}")
        return b""


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts, left = [], length
    while left:
        part = connection.recv(min(left, 65_536))
        if not part:
            raise ConnectionError("closed")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _buffers(body: bytes, count: int) -> list[bytes]:
    found, at = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from("<I", body, at)
        found.append(body[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _model(body: bytes) -> tuple[Model, bytes]:
    """What the wheel has to know of a model, and its bytes; the rest of a manifest stays on the chip."""
    _, inputs, outputs, reset_policy, head = struct.unpack_from("<BBBII", body)
    at, tensors = 11, []
    for _ in range(inputs + outputs):
        dtype, ndim, *dims, scale_bits, zero_point, nbytes = _TENSOR.unpack_from(body, at)
        (scale,) = struct.unpack("<f", struct.pack("<I", scale_bits))
        tensors.append(Tensor(dtype, tuple(dims[:ndim]), scale, zero_point, nbytes))
        at += _TENSOR.size
    data = body[at:]
    model = Model(
        id=bytes(32),
        name="",
        version="",
        seq=0,
        floor=0,
        size=len(data),
        arena=0,
        inputs=tuple(tensors[:inputs]),
        outputs=tuple(tensors[inputs:]),
        window=0,
        hop=0,
        channels=0,
        reset_policy=reset_policy,
        variables=0,
        latency_us=0,
        head=head,
        classes=0,
        anomaly_kind=0,
        anomaly_threshold=0,
        labels=b"",
    )
    return model, data


def main() -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="TFLM engine and sensor of an emulated device.")
    parser.add_argument("--identity", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="prepared recordings")
    parser.add_argument("--seat", type=int, default=0, help="whose recordings, and from where on")
    arguments = parser.parse_args()
    recording = recordings.load_subject(arguments.data, recordings.field_subject(arguments.seat))
    partner = Partner(Identity.load(arguments.identity), recordings.stream(recording, seed=arguments.seat))
    with socket.socket(socket.AF_UNIX) as listener:
        Path(SOCKET).unlink(missing_ok=True)
        listener.bind(SOCKET)
        listener.listen(1)
        print("ready", flush=True)
        partner.serve(listener)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
