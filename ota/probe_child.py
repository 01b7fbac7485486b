"""Runs one model in TFLM and says what happened. Started by `ota.probe` as a script; never imported.

The process is a fresh interpreter (`-I`, empty environment). It limits itself, reads the job from stdin,
loads the runtime once and then forks one grandchild per attempt: native code parses the model only in a
grandchild, so a crash is an observation there, and twelve arena sizes cost milliseconds instead of twelve
start-ups.

stdin:  u32be n, JSON job of n bytes, model bytes, input rows (a row: the raw input tensors, in order) stdout:
u32be n, u32be m, JSON answer of n bytes, output rows of m bytes (a row: the raw output tensors) stderr:
whatever TFLM prints during the first attempt
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # no helper threads: this process forks

TEXT_MAX = 400
ATTEMPTS_MAX = 28
ARENA_STEP = 16

Answer = tuple[dict[str, Any], bytes]
Modules = tuple[Any, Any]


class Stopped(Exception):
    """A grandchild was ended by a signal (number in args[0])."""


def limit(job: dict[str, Any]) -> None:
    """Take the limits of the job for this process and all it forks."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_s"], job["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.alarm(job["wall_s"] + 2)  # the parent kills earlier; this ends an orphan


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """`count` bytes, or EOFError."""
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"{len(data)} of {count} bytes")
    return data


class Attempt:
    """One interpreter with one arena size, in one process."""

    def __init__(self, runtime: Any, model: bytes, arena_bytes: int) -> None:
        self.interpreter = runtime.Interpreter.from_bytes(model, arena_size=arena_bytes)

    def run(self, numpy: Any, row: bytes, job: dict[str, Any]) -> bytes:
        """Set every input from one row, invoke, return the outputs' bytes. Inputs are refilled every time."""
        at = 0
        for index, size in enumerate(job["input_bytes"]):
            details = self.interpreter.get_input_details(index)
            values = numpy.frombuffer(row[at : at + size], dtype=details["dtype"])
            self.interpreter.set_input(values.reshape(tuple(details["shape"])), index)
            at += size
        self.interpreter.invoke()
        outputs = [
            numpy.ascontiguousarray(self.interpreter.get_output(index)).tobytes()
            for index in range(len(job["output_bytes"]))
        ]
        for index, output in enumerate(outputs):
            if len(output) != job["output_bytes"][index]:
                raise RuntimeError(
                    f"output {index} has {len(output)} bytes, the model declares {job['output_bytes'][index]}"
                )
        return b"".join(outputs)


def in_grandchild(work: Callable[[], Answer], patience_s: float) -> Answer:
    """Run `work` in a forked process, at most `patience_s` long. Stopped when a signal ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            nothing = os.open("/dev/null", os.O_RDWR)
            os.dup2(nothing, 0)
            os.dup2(nothing, 1)
            signal.setitimer(signal.ITIMER_REAL, patience_s)
            send(os.fdopen(writer, "wb"), *work())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    answer = None
    with os.fdopen(reader, "rb") as stream, contextlib.suppress(EOFError):
        answer = receive(stream)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise Stopped(os.WTERMSIG(status))
    return answer or ({"error": "MemoryError", "text": "the process could not even report"}, b"")


def send(stream: BinaryIO, answer: dict[str, Any], rows: bytes) -> None:
    """Write one answer with its rows."""
    text = json.dumps(answer).encode()
    stream.write(struct.pack(">II", len(text), len(rows)) + text + rows)
    stream.flush()


def receive(stream: BinaryIO) -> Answer:
    """Read what `send` wrote; EOFError when it is cut short."""
    text_bytes, row_bytes = struct.unpack(">II", read_exactly(stream, 8))
    answer = json.loads(read_exactly(stream, text_bytes))
    return answer, read_exactly(stream, row_bytes)


def describe(error: BaseException) -> Answer:
    """An exception as an answer."""
    return {"error": type(error).__name__, "text": str(error)[:TEXT_MAX]}, b""


def arena_report(interpreter: Any) -> dict[str, int]:
    """Recorded arena in bytes: total, head (activations, shared) and tail (structures, kept).

    TFLM prints it to the C library's stderr, so file descriptor 2 is a pipe meanwhile; the report is 2 kB and
    a pipe takes 64.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    kept = os.dup(2)
    os.dup2(writer, 2)
    interpreter.print_allocations()
    os.dup2(kept, 2)
    with contextlib.suppress(BlockingIOError):
        text = os.read(reader, 1 << 16).decode("utf-8", "replace")
        found = re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", text)
        return {f"arena_{part}_bytes": int(count) for part, count in found}
    return {}


def first_run(modules: Modules, model: bytes, rows: list[bytes], job: dict[str, Any]) -> Answer:
    """Load with the roomiest arena, run every row, read the arena report."""
    numpy, runtime = modules
    try:
        attempt = Attempt(runtime, model, job["arena_max_bytes"])
        outputs, spent = [], []
        for row in rows:
            started = time.perf_counter()
            outputs.append(attempt.run(numpy, row, job))
            spent.append(time.perf_counter() - started)
            if job["renew_each_row"]:
                attempt = Attempt(runtime, model, job["arena_max_bytes"])
            elif job["reset_each_row"]:
                attempt.interpreter.reset()
        found: dict[str, Any] = {"invoke_us": int(sorted(spent)[len(spent) // 2] * 1e6)}
        return found | arena_report(attempt.interpreter), b"".join(outputs)
    except BaseException as error:
        return describe(error)


def quiet_run(modules: Modules, model: bytes, row: bytes, arena: int, job: dict[str, Any]) -> Answer:
    """One inference in an arena of `arena` bytes, TFLM's messages dropped."""
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    try:
        return {}, Attempt(modules[1], model, arena).run(modules[0], row, job)
    except BaseException as error:
        return describe(error)


def smallest_arena(
    works: Callable[[int], bool], *, start: int, at_most: int, deadline: float
) -> dict[str, Any]:
    """The smallest arena that `works`, found by galloping from `start` and bisecting to 16 bytes.

    Stops early, with an upper bound and `arena_exact` false, after ATTEMPTS_MAX attempts or at the deadline
    (of time.monotonic). Assumes that `at_most` works.
    """
    attempts = 0

    def too_small(arena: int) -> bool:
        nonlocal attempts
        attempts += 1
        return not works(arena)

    def may_go_on() -> bool:
        return attempts < ATTEMPTS_MAX and time.monotonic() < deadline

    low, step = start // ARENA_STEP * ARENA_STEP, 256
    high = at_most
    while low > 0 and may_go_on() and not too_small(low):
        low, high = max(0, low - step), low
        step *= 2
    while high == at_most and low + step < at_most and may_go_on():
        if too_small(low + step):
            low, step = low + step, step * 2
        else:
            high = low + step
    while high - low > ARENA_STEP and may_go_on():
        middle = (low + high) // 2 // ARENA_STEP * ARENA_STEP
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return {"arena_min_bytes": high, "arena_attempts": attempts, "arena_exact": high - low <= ARENA_STEP}


def do(job: dict[str, Any], model: bytes, rows: list[bytes], started: float) -> Answer:
    """Everything the job asks for. A signal in the first run is answered as {"signal": number}."""
    import numpy
    from tflite_micro import runtime

    modules = (numpy, runtime)
    try:
        answer, outputs = in_grandchild(lambda: first_run(modules, model, rows, job), job["wall_s"])
    except Stopped as stop:
        return {"signal": stop.args[0]}, b""
    if "error" in answer or not job["find_arena"]:
        return answer, outputs
    expected = outputs[: sum(job["output_bytes"])]
    patience_s = 0.5 + 20e-6 * answer["invoke_us"]

    def works(arena: int) -> bool:
        # A crash counts as too small, and so does another output: some kernels go wrong when space is short.
        try:
            answer, output = in_grandchild(lambda: quiet_run(modules, model, rows[0], arena, job), patience_s)
        except Stopped:
            return False
        return "error" not in answer and output == expected

    found = smallest_arena(
        works,
        start=answer.get("arena_total_bytes", 1024) - ARENA_STEP,
        at_most=job["arena_max_bytes"],
        deadline=started + 0.6 * job["wall_s"],
    )
    return answer | found, outputs


def main() -> None:
    """Read one job from stdin, do it, answer on stdout."""
    started = time.monotonic()
    source = sys.stdin.buffer
    job = json.loads(read_exactly(source, struct.unpack(">I", read_exactly(source, 4))[0]))
    limit(job)
    model = read_exactly(source, job["model_bytes"])
    rows = [read_exactly(source, sum(job["input_bytes"])) for _ in range(job["rows"])]
    try:
        answer, outputs = do(job, model, rows, started)
    except BaseException as error:
        answer, outputs = describe(error)
    send(sys.stdout.buffer, answer, outputs)


if __name__ == "__main__":
    main()
