"""Run one int8 model in TFLM over prepared recordings and print what was measured, as JSON.

    python deploy/models/measure.py MODEL.tflite FILE.npz [FILE.npz ...]

A child process of the training script and of the tests, never imported: a model that crashes TFLM takes this
process with it. Each FILE holds x, float32 (n, ...) in the model's real units, and y, int64 (n,). It needs
only numpy and the `tflite-micro` wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tflite_micro import runtime
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

ARENA_BYTES = 1 << 20
ARENA_STEP = 16
_ARENA_LINE = re.compile(rb"Arena allocation (total|head|tail) (\d+) bytes")


def _name(builtin_code: int) -> str:
    names: dict[int, str] = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    return names.get(builtin_code, str(builtin_code))


def operators(model: bytes) -> tuple[dict[str, int], int]:
    """Count the first subgraph's operators by name, and the MACs of its CONV_2D and FULLY_CONNECTED."""
    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    graph = parsed.subgraphs[0]
    counts: dict[str, int] = {}
    macs = 0
    for operator in graph.operators:
        code = parsed.operatorCodes[operator.opcodeIndex]
        name = _name(max(code.builtinCode, code.deprecatedBuiltinCode))
        counts[name] = counts.get(name, 0) + 1
        if name in ("CONV_2D", "FULLY_CONNECTED"):
            out = int(np.prod(graph.tensors[operator.outputs[0]].shape))
            macs += out * int(np.prod(graph.tensors[operator.inputs[1]].shape[1:]))
    return counts, macs


def tensor_contract(details: dict[str, Any]) -> dict[str, Any]:
    """One side of the model's I/O contract: dtype, shape, scale, zero point."""
    quantisation = details["quantization_parameters"]
    return {
        "dtype": np.dtype(details["dtype"]).name,
        "shape": [int(n) for n in details["shape"]],
        "scale": float(quantisation["scales"][0]),
        "zero_point": int(quantisation["zero_points"][0]),
    }


def recorded_arena(interpreter: runtime.Interpreter) -> dict[str, int]:
    """What TFLM recorded for an interpreter that has run, in bytes; it prints it to the C stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        try:
            os.dup2(captured.fileno(), 2)
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        captured.seek(0)
        return {name.decode(): int(n) for name, n in _ARENA_LINE.findall(captured.read())}


def smallest_arena(model: bytes, sample: npt.NDArray[Any]) -> int:
    """The least arena, to 16 bytes, in which the model allocates and runs here; a device needs its own."""
    low, high = 0, ARENA_BYTES
    while high - low > ARENA_STEP:
        size = (low + high) // 2 // ARENA_STEP * ARENA_STEP
        try:
            interpreter = runtime.Interpreter.from_bytes(model, arena_size=size)
            interpreter.set_input(sample, 0)
            interpreter.invoke()
            high = size
        except RuntimeError:
            low = size
    return high


def measure(model: bytes, files: list[Path]) -> dict[str, Any]:
    """All that this program prints: contract, operators, arena and, per file, the right answers."""
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=ARENA_BYTES)
    given, wanted = interpreter.get_input_details(0), interpreter.get_output_details(0)
    contract = tensor_contract(given)
    scale, zero_point, shape = contract["scale"], contract["zero_point"], contract["shape"]
    results: dict[str, Any] = {}
    sample = np.zeros(shape, np.int8)
    for path in files:
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
        quantised = np.clip(np.round(x / scale) + zero_point, -128, 127).astype(np.int8)
        answers = np.empty((len(x), wanted["shape"][-1]), np.int8)
        for row in range(len(x)):
            sample = quantised[row].reshape(shape)
            interpreter.set_input(sample, 0)
            interpreter.invoke()
            answers[row] = interpreter.get_output(0)[0]
        correct = int((answers.argmax(axis=1) == y).sum())
        results[path.stem] = {
            "n": len(x),
            "correct": correct,
            "accuracy": round(correct / len(x), 4),
            "outputs_sha256": hashlib.sha256(answers.tobytes()).hexdigest(),
        }
    counts, macs = operators(model)
    return {
        "sha256": hashlib.sha256(model).hexdigest(),
        "bytes": len(model),
        "input": contract,
        "output": tensor_contract(wanted),
        "operators": counts,
        "macs": macs,
        "arena": {**recorded_arena(interpreter), "smallest": smallest_arena(model, sample)},
        "results": results,
    }


def main() -> int:
    """Measure the model named on the command line; exit 0 and print JSON, or end as TFLM ends."""
    parser = argparse.ArgumentParser(description="Run an int8 model in TFLM over .npz files and print JSON.")
    parser.add_argument("model", type=Path)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.npz")
    options = parser.parse_args()
    print(json.dumps(measure(options.model.read_bytes(), options.files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
