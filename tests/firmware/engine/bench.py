"""Talks to `bench.cc`: one engine in a child process, because a model may kill it."""

from __future__ import annotations

import contextlib
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ota.inspector import inspect


class BenchDiedError(Exception):
    """The child is gone; `status` is its exit status, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the engine's process ended with {status}")
        self.status = status


class Bench:
    """An engine with an arena of `arena_bytes`."""

    def __init__(self, program: Path, *, arena_bytes: int = 262_144) -> None:
        self._child = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.is_open = self._ask(b"O", _u32(arena_bytes)) == 0
        self.operators = self._blob()

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._child.kill()
        self._child.wait()

    def check(self, model: bytes) -> int:
        """The index walk."""
        return self._ask(b"C", _blob(model))

    def load(
        self, slot: int, model: bytes, *, variables: int = 64, bend: int = 0, like: bytes = b""
    ) -> tuple[int, int]:
        """Load with the contract that the inspector reads from the model; (result, arena bytes used).

        variables: the hint of manifest key 21. bend: added to the first dimension of the first input, for a
        manifest that does not fit its model. like: a model with the same contract, when the inspector refuses
        this one.
        """
        found = inspect(like or model)
        sides = []
        for number, tensors in enumerate((found.inputs, found.outputs)):
            sides.append(_u32(len(tensors)))
            for index, tensor in enumerate(tensors):
                shape = list(tensor.shape)
                if number == index == 0:
                    shape[0] += bend
                sides.append(struct.pack(f"<{2 + len(shape)}I", tensor.dtype, len(shape), *shape))
        result = self._ask(b"L", _u32(slot), _u32(variables), *sides, _blob(model))
        return result, self._number()

    def invoke(self, slot: int, inputs: Sequence[bytes], *, outputs: int = 1) -> tuple[int, list[bytes]]:
        """(result, outputs)."""
        blobs = [_blob(one) for one in inputs]
        result = self._ask(b"I", _u32(slot), _u32(len(inputs)), *blobs, _u32(outputs))
        return result, [self._blob() for _ in range(outputs)]

    def reset(self, slot: int) -> int:
        """Clear streaming state."""
        return self._ask(b"R", _u32(slot))

    def unload(self, slot: int) -> int:
        """Take a slot's model away."""
        return self._ask(b"U", _u32(slot))

    def probe(self, slot: int) -> tuple[int, int]:
        """(result, least arena bytes that load the model alone)."""
        return self._ask(b"P", _u32(slot)), self._number()

    def state_resets(self, slot: int) -> int:
        """How often the slot lost its state to a change of another."""
        return self._ask(b"S", _u32(slot))

    def profile(self, on: bool) -> None:
        """Record operators' times from now on, or no more."""
        self._ask(b"E", _u32(int(on)))

    def times(self) -> list[tuple[str, int]]:
        """Operator and µs of the last invoke, in order; "" sums what did not fit."""
        return [(self._blob().decode(), self._number()) for _ in range(self._ask(b"T"))]

    def _ask(self, what: bytes, *parts: bytes) -> int:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(what + b"".join(parts))
            self._child.stdin.flush()
        except BrokenPipeError:
            raise BenchDiedError(self._child.wait()) from None
        return int(struct.unpack("<i", self._read(4))[0])

    def _read(self, n: int) -> bytes:
        assert self._child.stdout is not None
        data = self._child.stdout.read(n)
        if len(data) != n:
            raise BenchDiedError(self._child.wait())
        return data

    def _number(self) -> int:
        return int(struct.unpack("<I", self._read(4))[0])

    def _blob(self) -> bytes:
        return self._read(self._number())


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _blob(data: bytes) -> bytes:
    return _u32(len(data)) + data
