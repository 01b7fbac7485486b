"""Golden vectors: what a device must compute before it may keep a model.

Golden outputs are made by TFLM on the host, signed with the model, and run on the device during its trial.
They show that the device's kernels compute what the host computed; whether the model is any good is the
evaluation set's business (`ota.evaluation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2
import numpy as np
from numpy.typing import NDArray

from ota.errors import OtaError
from ota.evaluation import NPY_TYPES, TOLERANCE, read_outputs
from ota.inspector import Inspection, TensorSpec

INLINE_MAX_BYTES: Final = 1024
BLOB_MAX_BYTES: Final = 65_536
BLOB_USUAL_BYTES: Final = 16_384
"""Beyond this only as many vectors as are needed: a device downloads and stores them with every model."""
VECTORS_MIN, VECTORS_USUAL, VECTORS_MAX = 4, 8, 32
CLASSES_MAX: Final = 33
"""An output with this many values or more is taken for an image or an embedding, not for class scores."""
SEEDED_ROWS: Final = 64


class GoldenError(OtaError):
    """No honest golden set exists.

    Codes: `selftest_mismatch` when all outputs are alike or not finite, so that a self-test would pass on a
    broken kernel; `io_contract` when one vector alone exceeds what a manifest can carry.
    """


@dataclass(frozen=True, slots=True)
class Vector:
    """One golden vector: raw little-endian tensors in the order of the model's inputs and outputs."""

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]

    def plain(self) -> list[list[bytes]]:
        """The `vector` of SPEC.md: [[inputs], [outputs]]."""
        return [list(self.inputs), list(self.outputs)]


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The vectors of a model, in the order a device must run them after one state reset."""

    vectors: tuple[Vector, ...]
    tolerance: int = TOLERANCE

    @property
    def blob(self) -> bytes:
        """Deterministic CBOR array of the vectors: the second form of manifest key 15, and how they are
        stored."""
        return cbor2.dumps([vector.plain() for vector in self.vectors], canonical=True)

    @property
    def inline(self) -> list[Any] | None:
        """The first form of manifest key 15, [[vectors], tolerance]; None when it exceeds 1 KiB."""
        found = [[vector.plain() for vector in self.vectors], self.tolerance]
        return found if len(cbor2.dumps(found, canonical=True)) <= INLINE_MAX_BYTES else None


def seeded_rows(inspection: Inspection, *, count: int = SEEDED_ROWS) -> tuple[bytes, ...]:
    """Inputs for a model nobody gave data for: noise, waves and steps of several sizes, the same for the same
    file."""
    generator = np.random.Generator(np.random.PCG64(int(inspection.sha256[:16], 16)))
    return tuple(
        b"".join(_seeded(spec, index, generator) for spec in inspection.inputs) for index in range(count)
    )


def _seeded(spec: TensorSpec, index: int, generator: np.random.Generator) -> bytes:
    kind = np.dtype(NPY_TYPES[spec.dtype])
    n = spec.elements
    if kind.kind == "b":
        return generator.integers(0, 2, n).astype(kind).tobytes()
    if kind.kind == "i" and kind.itemsize >= 4 and spec.scale == 0:
        return (
            generator.integers(0, 8, n).astype(kind).tobytes()
        )  # token ids: small, so that a table holds them
    size = (1.0, 0.35, 0.1, 2.0)[index % 4]
    ramp = np.arange(n) / max(1, n)
    waves = (
        generator.normal(0, 1, n),
        np.sin(2 * np.pi * (1 + index % 7) * ramp + generator.uniform(0, 6)),
        np.repeat(generator.uniform(-1, 1, 8), -(-n // 8))[:n],
        np.full(n, generator.uniform(-1, 1)) + generator.normal(0, 0.1, n),
    )
    values = size * waves[index // 4 % 4]
    if kind.kind == "f":
        return values.astype(kind).tobytes()
    limits = np.iinfo(kind)
    middle, half = (limits.max + limits.min + 1) / 2, (limits.max - limits.min) / 2
    return np.clip(np.round(middle + half * values), limits.min, limits.max).astype(kind).tobytes()


def choose_golden(
    inspection: Inspection,
    rows: Sequence[bytes],
    outputs: Sequence[bytes],
    *,
    labels: NDArray[np.int64] | None = None,
    score_output: int = 0,
) -> tuple[int, ...]:
    """Which rows become golden vectors: indices into `rows`, 4 to 8, or as many as there are classes.

    At least one row of every class (by label where the model is right, else by its own answer), the widest
    margin between the two best scores first; then rows whose outputs are farthest from those already chosen.
    Inline (1 KiB) if that holds enough, else a blob of 16 KiB, of 64 KiB if it must be. Raises GoldenError.
    """
    values = read_outputs(outputs, inspection.outputs, score_output)
    usable = np.flatnonzero(np.isfinite(values).all(axis=1))
    if usable.size == 0:
        raise GoldenError(
            "selftest_mismatch", "the model's outputs are NaN or infinite for every input tried"
        )
    order = _by_class_then_distance(values, usable, labels)
    classes = len({int(values[i].argmax()) for i in order}) if values.shape[1] in range(2, CLASSES_MAX) else 1
    candidates = make_golden(inspection, [rows[i] for i in order], [outputs[i] for i in order])
    sizes = [len(cbor2.dumps(vector.plain())) for vector in candidates.vectors]
    least = min(max(VECTORS_MIN, classes), len(order))
    fitting = _fitting(sizes, INLINE_MAX_BYTES - 8, max(least, VECTORS_USUAL))
    if fitting < least:
        usual = _fitting(sizes, BLOB_USUAL_BYTES - 8, max(least, VECTORS_USUAL))
        fitting = max(usual, _fitting(sizes, BLOB_MAX_BYTES - 8, least))
    if fitting == 0:
        raise GoldenError(
            "io_contract",
            f"one golden vector takes {sizes[0]:,} bytes, a manifest carries at most {BLOB_MAX_BYTES:,}",
            "use a smaller input, for example a lower resolution",
        )
    chosen = order[:fitting]
    # one large vector: was it at least one of several answers?
    compared = chosen if len(chosen) > 1 else order
    check_varied(inspection, [outputs[index] for index in compared], score_output=score_output)
    return tuple(chosen)


def check_varied(inspection: Inspection, outputs: Sequence[bytes], *, score_output: int = 0) -> None:
    """Raise GoldenError `selftest_mismatch` when several outputs differ by no more than the tolerance."""
    values = read_outputs(outputs, inspection.outputs, score_output)
    step = tolerance_step(inspection.outputs[score_output]) * TOLERANCE
    if len(outputs) > 1 and float(np.ptp(values, axis=0).max()) <= step:
        raise GoldenError(
            "selftest_mismatch",
            "every input tried gives the same output: a self-test could not tell this from a constant",
            "check the conversion: a saturated or zeroed layer; or give an evaluation set with real inputs",
        )


def tolerance_step(spec: TensorSpec) -> float:
    """The unit of the golden tolerance for an output, as a real value: its scale, or 1/256 without one."""
    if spec.scale > 0:
        return spec.scale
    return 1 / 256 if spec.dtype in (0, 1) else 1.0


def make_golden(inspection: Inspection, rows: Sequence[bytes], outputs: Sequence[bytes]) -> GoldenSet:
    """The golden set of rows that were run in this order after one state reset."""
    sides = [inspection.inputs, inspection.outputs]
    vectors = []
    for row, output in zip(rows, outputs, strict=True):
        inputs, results = (
            _split(data, [spec.byte_size for spec in side])
            for data, side in zip((row, output), sides, strict=True)
        )
        vectors.append(Vector(inputs, results))
    return GoldenSet(tuple(vectors))


def _split(data: bytes, sizes: Sequence[int]) -> tuple[bytes, ...]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(data[start : start + size] for start, size in zip(starts, sizes, strict=True))


def _fitting(sizes: Sequence[int], room: int, at_most: int) -> int:
    count = 0
    for size in sizes[:at_most]:
        room -= size
        if room < 0:
            break
        count += 1
    return count


def _by_class_then_distance(
    values: NDArray[np.float64], usable: NDArray[np.intp], labels: NDArray[np.int64] | None
) -> list[int]:
    """At most VECTORS_MAX row indices: the surest of each class, then the farthest from all chosen."""
    chosen: list[int] = []
    if values.shape[1] > 1:
        top = np.sort(values[usable], axis=1)
        margin = top[:, -1] - top[:, -2]
        answers = values[usable].argmax(axis=1)
        right = np.ones(len(usable), dtype=bool) if labels is None else answers == labels[usable]
        for position in np.lexsort((-margin, ~right)):
            if len(chosen) < VECTORS_MAX and answers[position] not in values[chosen].argmax(axis=1):
                chosen.append(int(usable[position]))
    else:
        chosen.append(int(usable[0]))
    distance = np.full(len(usable), np.inf)
    for index in chosen:
        distance = np.minimum(distance, np.abs(values[usable] - values[index]).max(axis=1))
    while len(chosen) < min(VECTORS_MAX, len(usable)):
        distance[np.isin(usable, chosen)] = -1
        farthest = int(usable[int(distance.argmax())])
        chosen.append(farthest)
        distance = np.minimum(distance, np.abs(values[usable] - values[farthest]).max(axis=1))
    return chosen
