"""Runs a model in TFLM inside a sandboxed child process and reports what it did.

TFLM trusts its input: a changed byte in a model can crash it, hang it or make it ask for gigabytes. So native
code only ever runs in a child (`ota.probe_child`): a fresh interpreter with an empty environment, limits on
CPU, memory and files, no core dump, its own process group, and a wall clock that kills the group. Whatever
happens there arrives here as a result or as a ProbeError with a code. What the child writes is not trusted
either: sizes are bounded and types checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from ota.errors import OtaError
from ota.inspector import Inspection
from ota.operators import BUILTIN_CODES

CHILD: Final = Path(__file__).with_name("probe_child.py")
ANSWER_MAX: Final = 64 * 1024
ROWS_MAX_BYTES: Final = 4 * 1024 * 1024
STDERR_MAX: Final = 64 * 1024
TEXT_MAX: Final = 300
CALL_ONCE: Final = BUILTIN_CODES["CALL_ONCE"]
ARENA_MAX_BYTES: Final = 16 * 1024 * 1024


class ProbeError(OtaError):
    """The model did not run.

    Codes: `probe_crash` (a signal), `probe_timeout`, `probe_memory`, `load_failed` (TFLM said no, in its
    words), `arena_too_small` (needs more than 16 MiB), `unavailable` (this machine has no TFLM; says nothing
    of the model).
    """


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """What the child may use. cpu_s and wall_s in seconds, memory_bytes of address space."""

    cpu_s: int = 8
    wall_s: int = 10
    memory_bytes: int = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What to run. rows: each the raw input tensors one after another; input_bytes and output_bytes: their
    sizes.

    reset_each_row, renew_each_row: forget the model's state after every row, by Reset() or by a new
    interpreter; with neither the rows are one sequence. find_arena: also bisect the smallest arena.
    """

    rows: tuple[bytes, ...]
    input_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]
    reset_each_row: bool = False
    renew_each_row: bool = False
    find_arena: bool = True

    @classmethod
    def of(
        cls,
        inspection: Inspection,
        rows: tuple[bytes, ...],
        *,
        independent: bool = True,
        find_arena: bool = True,
    ) -> ProbeJob:
        """The job for a model's own input and output sizes. Raises ValueError for a row of another size."""
        inputs = tuple(spec.byte_size for spec in inspection.inputs)
        if any(len(row) != sum(inputs) for row in rows):
            raise ValueError(f"a row must have {sum(inputs)} bytes")
        outputs = tuple(spec.byte_size for spec in inspection.outputs)
        # Reset() zeroes resource variables and does not run CALL_ONCE again.
        renew = independent and CALL_ONCE in inspection.builtin_operators
        reset = independent and inspection.is_stateful and not renew
        return cls(rows, inputs, outputs, reset, renew, find_arena)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What TFLM did on this machine. Every figure is a host figure, not a device's.

    arena_head_bytes (activations) and arena_tail_bytes (structures) as TFLM recorded them; arena_min_bytes:
    the smallest arena that ran, 0 when not asked for, an upper bound unless arena_is_exact. invoke_us: median
    of one inference. outputs: one entry per row, the raw output tensors one after another; empty after
    from_json.
    """

    arena_head_bytes: int
    arena_tail_bytes: int
    arena_min_bytes: int
    arena_is_exact: bool
    arena_attempts: int
    invoke_us: int
    duration_s: float
    outputs: tuple[bytes, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the outputs, as JSON types."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "outputs"}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> ProbeResult:
        """What `to_json` wrote; further keys are ignored. Raises KeyError for a missing one."""
        return cls(**{name: found[name] for name in cls.__slots__ if name != "outputs"})


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a child ended: its output, its messages, its exit status, or that the deadline killed it."""

    stdout: bytes
    messages: str
    returncode: int
    timed_out: bool
    duration_s: float


def run_probe(
    model: bytes, job: ProbeJob, *, limits: ProbeLimits | None = None, child: Path = CHILD
) -> ProbeResult:
    """Load, allocate and invoke `model` in a child process.

    Takes at most twice limits.wall_s: a deadline missed without using up the CPU limit may be the machine's
    fault and is tried once more, anything else never. Raises ProbeError; leaves no process behind. child: the
    script to run.
    """
    limits = limits or ProbeLimits()
    if not job.rows:
        raise ValueError("a job needs at least one row")
    if len(job.rows) * sum(job.output_bytes) > ROWS_MAX_BYTES:
        raise ValueError(f"outputs of {len(job.rows)} rows exceed {ROWS_MAX_BYTES:,} bytes")
    request = _request(model, job, limits)
    ended = _run(request, job, limits, child)
    if ended.timed_out:
        ended = _run(request, job, limits, child)
    return _judge(ended, job, limits)


def _request(model: bytes, job: ProbeJob, limits: ProbeLimits) -> bytes:
    head = {
        "model_bytes": len(model),
        "rows": len(job.rows),
        "input_bytes": job.input_bytes,
        "output_bytes": job.output_bytes,
        "reset_each_row": job.reset_each_row,
        "renew_each_row": job.renew_each_row,
        "find_arena": job.find_arena,
        "arena_max_bytes": ARENA_MAX_BYTES,
        "cpu_s": limits.cpu_s,
        "wall_s": limits.wall_s,
        "memory_bytes": limits.memory_bytes,
    }
    text = json.dumps(head).encode()
    return b"".join([struct.pack(">I", len(text)), text, model, *job.rows])


def _run(request: bytes, job: ProbeJob, limits: ProbeLimits, child: Path) -> _Ended:
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-I", str(child)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd="/",
        start_new_session=True,
    )
    try:
        stdout_max = 8 + ANSWER_MAX + len(job.rows) * sum(job.output_bytes)
        out, err, finished = _exchange(process, request, started + limits.wall_s, stdout_max)
    finally:
        # The group may outlive the child (a hanging grandchild); until wait() its number is not reused.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        returncode = process.wait()
    return _Ended(out, _printable(err), returncode, not finished, time.monotonic() - started)


def _exchange(
    process: subprocess.Popen[bytes], request: bytes, deadline: float, stdout_max: int
) -> tuple[bytes, bytes, bool]:
    """Feed stdin, collect stdout and stderr up to their limits. Last: False when the deadline came first."""
    stdin, stdout, stderr = _open(process.stdin), _open(process.stdout), _open(process.stderr)
    kept = {stdout.fileno(): bytearray(), stderr.fileno(): bytearray()}
    at_most = {stdout.fileno(): stdout_max + 1, stderr.fileno(): STDERR_MAX}
    left = memoryview(request)
    finished = True
    with selectors.DefaultSelector() as selector:
        for stream, event in (
            (stdin, selectors.EVENT_WRITE),
            (stdout, selectors.EVENT_READ),
            (stderr, selectors.EVENT_READ),
        ):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream.fileno(), event)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                finished = False
                break
            for key, _ in selector.select(remaining):
                if key.fd in kept:
                    data = os.read(key.fd, 1 << 16)
                    kept[key.fd] += data[: max(0, at_most[key.fd] - len(kept[key.fd]))]
                    if not data:
                        selector.unregister(key.fd)
                    continue
                try:
                    left = left[os.write(key.fd, left[: 1 << 16]) :]
                except BrokenPipeError:
                    left = left[len(left) :]  # the child ended early; its status tells why
                if not left:
                    selector.unregister(key.fd)
                    stdin.close()
    return bytes(kept[stdout.fileno()]), bytes(kept[stderr.fileno()]), finished


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the child has no pipe")
    return stream


def _printable(text: bytes) -> str:
    """The last lines of a child's messages, cut and free of control characters."""
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    joined = "; ".join(lines[-4:])
    return "".join(character if character.isprintable() else "?" for character in joined)[:TEXT_MAX]


def _judge(ended: _Ended, job: ProbeJob, limits: ProbeLimits) -> ProbeResult:
    """A result, or the ProbeError that fits how the child ended."""
    if ended.timed_out:
        raise _timeout(f"no answer within {limits.wall_s} s, twice")
    answer, rows = _parse(ended.stdout, job)
    stopped: int | None = answer.get("signal", -ended.returncode if ended.returncode < 0 else None)
    if stopped is not None:
        raise _stopped(stopped, ended.messages, limits)
    if not answer:
        said = f": {ended.messages}" if ended.messages else ""
        raise ProbeError("probe_crash", f"the probe ended without an answer{said}")
    if "error" in answer:
        raise _refused(
            str(answer["error"]), _printable(str(answer.get("text", "")).encode()), ended.messages, limits
        )
    per_row = sum(job.output_bytes)
    try:
        return ProbeResult(
            arena_head_bytes=_count(answer, "arena_head_bytes"),
            arena_tail_bytes=_count(answer, "arena_tail_bytes"),
            arena_min_bytes=_count(answer, "arena_min_bytes") if job.find_arena else 0,
            arena_is_exact=answer.get("arena_exact") is True,
            arena_attempts=_count(answer, "arena_attempts") if job.find_arena else 0,
            invoke_us=_count(answer, "invoke_us"),
            duration_s=round(ended.duration_s, 3),
            outputs=tuple(rows[at : at + per_row] for at in range(0, len(rows), per_row)) if per_row else (),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise ProbeError("probe_crash", f"the probe's answer makes no sense ({problem})") from problem


def _count(answer: dict[str, Any], key: str) -> int:
    value = answer[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise ValueError(f"{key} = {value!r}"[:60])
    return value


def _parse(stdout: bytes, job: ProbeJob) -> tuple[dict[str, Any], bytes]:
    """(answer, rows) of a whole and well-formed answer; ({}, b"") of anything else."""
    if len(stdout) < 8:
        return {}, b""
    text_bytes, row_bytes = struct.unpack(">II", stdout[:8])
    if text_bytes > ANSWER_MAX or len(stdout) != 8 + text_bytes + row_bytes:
        return {}, b""
    try:
        answer = json.loads(stdout[8 : 8 + text_bytes])
    except (ValueError, RecursionError):
        return {}, b""
    if not isinstance(answer, dict):
        return {}, b""
    if answer.get("signal", 1) not in range(1, 65):
        return {}, b""
    has_failed = "error" in answer or "signal" in answer
    if row_bytes != (0 if has_failed else len(job.rows) * sum(job.output_bytes)):
        return {}, b""
    return answer, stdout[8 + text_bytes :]


def _timeout(text: str) -> ProbeError:
    return ProbeError(
        "probe_timeout", text, "a loop without an end, or far too much work for a microcontroller"
    )


def _stopped(number: int, messages: str, limits: ProbeLimits) -> ProbeError:
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return _timeout(f"the model used more than {limits.cpu_s} s of processor time")
    if "bad_alloc" in messages or number == signal.SIGKILL:
        return _memory(limits)
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    said = f" after saying: {messages}" if messages else ""
    return ProbeError(
        "probe_crash",
        f"TFLM crashed with {name}{said}",
        "the file is damaged or uses an operator in a way TFLM does not check: export it again",
    )


def _memory(limits: ProbeLimits) -> ProbeError:
    return ProbeError(
        "probe_memory",
        f"the model asked for more than {limits.memory_bytes // 1024**2:,} MiB",
        "a tensor is far larger than a microcontroller's memory",
    )


def _refused(error: str, text: str, messages: str, limits: ProbeLimits) -> ProbeError:
    if error in ("ImportError", "ModuleNotFoundError"):
        return ProbeError(
            "unavailable",
            "TFLM is not installed here, so nothing was run",
            "the tflite-micro wheel exists for x86-64 Linux only: inspect there, or accept 'unproven'",
        )
    if error == "MemoryError" or "bad_alloc" in text:
        return _memory(limits)
    if "missing:" in messages:
        return ProbeError(
            "arena_too_small",
            f"the model needs an arena of more than {ARENA_MAX_BYTES // 1024**2} MiB: {messages}",
            "shrink the activations: smaller input, fewer channels, int8",
        )
    said = f"{text}: {messages}" if messages and text else text or messages
    return ProbeError("load_failed", f"TFLM refused the model: {said}"[: TEXT_MAX * 2])
