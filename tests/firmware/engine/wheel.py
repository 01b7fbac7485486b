"""The official wheel as the other side of a comparison, always as a child process.

    python tests/firmware/engine/wheel.py MODEL.tflite <inputs.bin >outputs.bin

Standard input: records of 'I' and the raw bytes of input 0, or 'R' for a reset. Standard output: the raw
bytes of output 0 for every 'I'.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tflite_micro import runtime


def main() -> int:
    """0, or by the signal that ends this process."""
    interpreter = runtime.Interpreter.from_bytes(Path(sys.argv[1]).read_bytes(), arena_size=1 << 20)
    details = interpreter.get_input_details(0)
    shape, dtype = [int(n) for n in details["shape"]], np.dtype(details["dtype"])
    bytes_each = int(np.prod(shape)) * dtype.itemsize
    while what := sys.stdin.buffer.read(1):
        if what == b"R":
            interpreter.reset()
            continue
        raw = sys.stdin.buffer.read(bytes_each)
        interpreter.set_input(np.frombuffer(raw, dtype).reshape(shape), 0)
        interpreter.invoke()
        sys.stdout.buffer.write(np.ascontiguousarray(interpreter.get_output(0)).tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
