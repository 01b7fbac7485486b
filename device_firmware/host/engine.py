"""The TFLM engine of a virtual device: the official wheel, held to the operator set of the device's class.

The wheel links every TFLM operator, so its pass says nothing about a board; `check` refuses what the class
does not link. A model that
crashes TFLM takes the whole process down, as a panic takes a board: the supervisor restarts it with that
reset reason.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tflite_micro.python.tflite_micro import runtime

from device_firmware.host.core import EngineError, Model, Tensor
from device_firmware.host.identity import Operator
from ota.errors import OtaError
from ota.inspector import inspect

_DTYPES: dict[int, Any] = {
    0: np.float32,
    1: np.float16,
    2: np.int32,
    3: np.uint8,
    4: np.int64,
    6: np.bool_,
    7: np.int16,
    9: np.int8,
}
_TOTAL = re.compile(rb"Arena allocation total (\d+) bytes")


class WheelEngine:
    """Runs models for one device. operators: what the class links, (32, name) for a custom one; arena_bytes:
    its largest tensor arena.
    """

    def __init__(self, *, operators: Sequence[Operator], arena_bytes: int) -> None:
        self._operators = frozenset(operators)
        self._arena_bytes = arena_bytes
        self._loaded: dict[int, tuple[Any, Model]] = {}
        self.before_load: Callable[[Model], None] | None = None
        """Called with a model that is about to be loaded: where a fault may strike."""

    def check(self, model: bytes) -> None:
        """See `check_operators`."""
        check_operators(model, self._operators)

    def load(self, slot: int, model: bytes, spec: Model) -> int:
        """Allocate a fresh interpreter. Returns arena bytes used; a 64-bit host figure, never a board's.

        Raises EngineError `load_failed` with TFLM's text, or `io_contract` when tensors differ from the
        manifest's.
        """
        self.unload(slot)
        if self.before_load is not None:
            self.before_load(spec)
        try:
            interpreter = runtime.Interpreter.from_bytes(model, arena_size=self._arena_bytes)
        except RuntimeError as error:
            raise EngineError("load_failed", str(error)) from error
        for side, tensors in (("input", spec.inputs), ("output", spec.outputs)):
            for index, tensor in enumerate(tensors):
                _compare(getattr(interpreter, f"get_{side}_details")(index), tensor, f"{side} {index}")
        self._loaded[slot] = interpreter, spec
        return _arena_used(interpreter)

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        """Run once on raw little-endian tensors; inputs are copied in before every invoke. Returns outputs
        and µs.
        """
        interpreter, spec = self._loaded[slot]
        for index, (raw, tensor) in enumerate(zip(inputs, spec.inputs, strict=True)):
            interpreter.set_input(np.frombuffer(raw, _DTYPES[tensor.dtype]).reshape(tensor.shape), index)
        began = time.perf_counter_ns()
        try:
            interpreter.invoke()
        except RuntimeError as error:
            raise EngineError("load_failed", str(error)) from error
        took = (time.perf_counter_ns() - began) // 1000
        return [
            np.ascontiguousarray(interpreter.get_output(i)).tobytes() for i in range(len(spec.outputs))
        ], took

    def reset(self, slot: int) -> None:
        """Clear streaming state."""
        self._loaded[slot][0].reset()

    def unload(self, slot: int) -> None:
        """Drop the slot's interpreter and its arena."""
        self._loaded.pop(slot, None)


def check_operators(model: bytes, operators: frozenset[Operator]) -> None:
    """Walk the FlatBuffer's indices. Raises EngineError `schema`, or `op_missing` for an operator that is not
    among those of the class.
    """
    try:
        found = inspect(model)
    except OtaError as error:
        raise EngineError(error.code if error.code == "op_missing" else "schema", error.text) from error
    wanted: list[Operator] = [(op.builtin, op.custom) if op.custom else op.builtin for op in found.operators]
    missing = [operator for operator in wanted if operator not in operators]
    if missing:
        raise EngineError("op_missing", f"operators {missing} are not linked")


def quantise(values: np.ndarray[Any, Any], tensor: Tensor) -> bytes:
    """Raw tensor bytes of real values: round half away from zero, clamp; float tensors pass through."""
    dtype = np.dtype(_DTYPES[tensor.dtype])
    if dtype.kind == "f":
        return bytes(values.astype(dtype).tobytes())
    scaled = values.astype(np.float64) / (tensor.scale or 1.0)
    rounded = np.trunc(scaled + np.copysign(0.5, scaled)) + tensor.zero_point
    bounds = np.iinfo(dtype)
    return bytes(np.clip(rounded, bounds.min, bounds.max).astype(dtype).tobytes())


def dequantise(raw: bytes, tensor: Tensor) -> np.ndarray[Any, Any]:
    """Real values of raw tensor bytes, float64, flat."""
    values = np.frombuffer(raw, _DTYPES[tensor.dtype]).astype(np.float64)
    if np.dtype(_DTYPES[tensor.dtype]).kind == "f":
        return values
    return (values - tensor.zero_point) * (tensor.scale or 1.0)


def _compare(details: dict[str, Any], tensor: Tensor, where: str) -> None:
    shape = tuple(int(n) for n in details["shape"])
    if np.dtype(details["dtype"]) != np.dtype(_DTYPES[tensor.dtype]) or shape != tensor.shape:
        raise EngineError(
            "io_contract", f"{where} is {details['dtype']} {shape}, the manifest says {tensor.shape}"
        )


def _arena_used(interpreter: Any) -> int:
    """Total the recording allocator prints to C stderr: read from file descriptor 2 while it prints."""
    sink, saved = os.memfd_create("allocations"), os.dup(2)
    try:
        os.dup2(sink, 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(saved, 2)
        found = _TOTAL.search(os.pread(sink, 65_536, 0))
    finally:
        os.close(saved)
        os.close(sink)
    return int(found.group(1)) if found else 0
