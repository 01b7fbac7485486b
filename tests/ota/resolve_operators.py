"""Child of test_probe: for every model on stdin, does TFLM find the operator? Run with `python -I`."""

from __future__ import annotations

import os
import struct
import sys

from tflite_micro import runtime

MISSES = (b"Didn't find op", b"Failed to get registration")


def resolve(model: bytes) -> bool:
    """False when the resolver has no such operator; a crash in a kernel's own checks means it was found."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 2)
        try:
            runtime.Interpreter.from_bytes(model, arena_size=100_000)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return not any(miss in said for miss in MISSES)


def main() -> None:
    """Print `found` or `missing` for each length-prefixed model."""
    source = sys.stdin.buffer
    while head := source.read(4):
        print("found" if resolve(source.read(struct.unpack(">I", head)[0])) else "missing", flush=True)


if __name__ == "__main__":
    main()
