"""The Python side of the C callbacks: an exception is printed and becomes FC_ERR_PORT, never success."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from device_firmware.host.interface import CODES, ERR_FULL, ERR_PORT, Engine, EngineError, Model, Port, Tensor


@dataclass(slots=True)
class Anchor:
    """What C holds a pointer to while a core is open."""

    engine: Engine
    port: Port
    keep: list[Any] = field(default_factory=list)


def model_of(ffi: Any, raw: Any) -> Model:
    """The Python form of a `struct fh_model`."""

    def tensors(items: Any, count: int) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(
                t.dtype,
                tuple(t.dim[0 : t.ndim]),
                struct.unpack("<f", struct.pack("<I", t.scale_bits))[0],
                t.zero_point,
                t.bytes,
            )
            for t in (items[i] for i in range(count))
        )

    return Model(
        id=bytes(raw.id),
        name=ffi.string(raw.name).decode(),
        version=ffi.string(raw.version).decode(),
        inputs=tensors(getattr(raw, "in"), raw.nin),
        outputs=tensors(raw.out, raw.nout),
        labels=bytes(raw.labels),
        **{name: getattr(raw, name) for name in _MODEL_NUMBERS},
    )


_MODEL_NUMBERS = (
    *("seq", "floor", "size", "arena", "window", "hop", "channels", "reset_policy", "variables"),
    *("latency_us", "head", "classes", "anomaly_kind", "anomaly_threshold"),
)


def bind(module: Any) -> None:
    """Register the Python callbacks, once per process."""
    if getattr(module, "fleet_bound", False):
        return
    module.fleet_bound = True
    ffi = module.ffi

    def code_of(error: EngineError) -> int:
        return -CODES.get(error.code, -ERR_PORT)

    def send(ctx: Any, topic: Any, payload: Any, n: int, qos: int, retain: int) -> int:
        data = bytes(ffi.buffer(payload, n))
        token = ffi.from_handle(ctx).port.send(ffi.string(topic).decode(), data, qos, bool(retain))
        return ERR_FULL if token is None else int(token)

    def watch(ctx: Any, topic_filter: Any, qos: int) -> int:
        ffi.from_handle(ctx).port.watch(ffi.string(topic_filter).decode(), qos)
        return 0

    def unwatch(ctx: Any, topic_filter: Any) -> int:
        ffi.from_handle(ctx).port.unwatch(ffi.string(topic_filter).decode())
        return 0

    def reconnect(ctx: Any) -> int:
        ffi.from_handle(ctx).port.reconnect()
        return 0

    def may_switch(ctx: Any) -> int:
        answer = ffi.from_handle(ctx).port.may_switch()
        return 0 if answer is None else -CODES[answer]

    def reboot(ctx: Any) -> None:
        ffi.from_handle(ctx).port.reboot()

    def identify(ctx: Any) -> None:
        ffi.from_handle(ctx).port.identify()

    def log(ctx: Any, level: int, event: int, a: int, b: int) -> None:
        ffi.from_handle(ctx).port.log(level, event, a, b)

    def check(ctx: Any, model: Any, n: int) -> int:
        try:
            ffi.from_handle(ctx).engine.check(bytes(ffi.buffer(model, n)))
        except EngineError as error:
            return code_of(error)
        return 0

    def load(ctx: Any, slot: int, model: Any, n: int, spec: Any, arena_used: Any) -> int:
        try:
            used = ffi.from_handle(ctx).engine.load(slot, bytes(ffi.buffer(model, n)), model_of(ffi, spec))
        except EngineError as error:
            return code_of(error)
        arena_used[0] = used
        return 0

    def invoke(
        ctx: Any,
        slot: int,
        ins: Any,
        in_len: Any,
        nin: int,
        out: Any,
        out_cap: int,
        out_len: Any,
        nout: int,
        us: Any,
    ) -> int:
        inputs = [bytes(ffi.buffer(ins[i], in_len[i])) for i in range(nin)]
        try:
            outputs, took = ffi.from_handle(ctx).engine.invoke(slot, inputs)
        except EngineError as error:
            return code_of(error)
        joined = b"".join(outputs)
        if len(outputs) != nout or len(joined) > out_cap:
            return -CODES["io_contract"]
        ffi.memmove(out, joined, len(joined))
        for i, item in enumerate(outputs):
            out_len[i] = len(item)
        us[0] = max(0, int(took))
        return 0

    def reset(ctx: Any, slot: int) -> int:
        ffi.from_handle(ctx).engine.reset(slot)
        return 0

    def unload(ctx: Any, slot: int) -> int:
        ffi.from_handle(ctx).engine.unload(slot)
        return 0

    def probe(ctx: Any, slot: int, model: Any, n: int, spec: Any, least: Any) -> int:
        try:
            found = ffi.from_handle(ctx).engine.probe(slot, bytes(ffi.buffer(model, n)), model_of(ffi, spec))
        except EngineError as error:
            return code_of(error)
        least[0] = found
        return 0

    def capture(ctx: Any, slot: int) -> int:
        ffi.from_handle(ctx).port.capture(slot)
        return 0

    functions = (
        send,
        watch,
        unwatch,
        reconnect,
        may_switch,
        check,
        load,
        invoke,
        reset,
        unload,
        probe,
        capture,
    )
    for function in functions:
        ffi.def_extern(name=f"fc_py_{function.__name__}", error=ERR_PORT)(function)
    for procedure in (reboot, identify, log):
        ffi.def_extern(name=f"fc_py_{procedure.__name__}")(procedure)
