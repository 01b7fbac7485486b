"""Runs many models in the wheel, each in a forked child, and prints how each child ended.

    python tests/firmware/engine/survive.py <models.bin

Standard input: models as u32 length and bytes. Standard output: one word a model: ran, refused, died, hung.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
import time

import numpy as np
from tflite_micro import runtime

PATIENCE_S = 5.0


def run(model: bytes) -> None:
    """Load and invoke once on zeros. Raises what the wheel raises."""
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=1 << 18)
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros([int(n) for n in details["shape"]], details["dtype"]), 0)
    interpreter.invoke()
    interpreter.get_output(0)


def outcome(model: bytes) -> str:
    """How a child ends that runs the model."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            run(model)
            code = 0
        except Exception:
            code = 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return "died"
            return "ran" if os.WEXITSTATUS(status) == 0 else "refused"
        os.sched_yield()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"


def main() -> int:
    """0."""
    while head := sys.stdin.buffer.read(4):
        model = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
        print(outcome(model), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
