"""Run a model in TFLM once per row of `.npz` inputs and print its outputs as JSON; it may well die doing so.

    python tests/models/run_once.py MODEL.tflite [--inputs FILE.npz] [--arena BYTES]

Only for tests, always as a child process: bad models kill it, and that is what the tests look at. Without
inputs the model runs on zeros. Prints {"rows": [[...], ...]}; exit 3 and TFLM's text when TFLM refuses the
model.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path

import numpy as np
from tflite_micro import runtime

REFUSED = 3


def main() -> int:
    """Load, allocate, run; exit 0, 3 when TFLM refuses, or by the signal that ends this process."""
    parser = argparse.ArgumentParser(description="Run a model in TFLM and print its outputs as JSON.")
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--inputs", type=Path, metavar="FILE.npz", help="array x, float32 (n, ...), real units"
    )
    parser.add_argument("--arena", type=int, default=1 << 20, metavar="BYTES")
    options = parser.parse_args()
    try:
        interpreter = runtime.Interpreter.from_bytes(options.model.read_bytes(), arena_size=options.arena)
        details = interpreter.get_input_details(0)
        shape, dtype = [int(n) for n in details["shape"]], np.dtype(details["dtype"])
        x = np.zeros([1, *shape[1:]], np.float32)
        if options.inputs is not None:
            with np.load(options.inputs, allow_pickle=False) as arrays:
                x = arrays["x"]
        if dtype == np.int8:
            scale = details["quantization_parameters"]["scales"][0]
            zero_point = details["quantization_parameters"]["zero_points"][0]
            x = np.clip(np.round(x / scale) + zero_point, -128, 127)
        rows = []
        for row in x.astype(dtype):
            interpreter.set_input(row.reshape(shape), 0)
            interpreter.invoke()
            rows.append(interpreter.get_output(0).ravel().tolist())
    except (RuntimeError, struct.error) as error:  # struct.error: the wheel's own reader met a broken file
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED
    print(json.dumps({"rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
