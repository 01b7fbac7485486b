"""Evaluation sets: labelled inputs that show whether a conversion kept a model's accuracy.

An `.npz` with `x` and labels `y` (or reference outputs `expected`) is the only proof that a converted model
is right: its own golden outputs cannot show it, because a wrong model agrees with itself. The archive comes
from a person and is read as such: sizes before unpacking, no pickles, every shape checked against the model.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ota.errors import OtaError
from ota.inspector import Inspection, TensorSpec
from ota.operators import BUILTIN_CODES

EVALUATION_MAX_BYTES: Final = 32 * 1024 * 1024
ARRAYS_MAX_BYTES: Final = 128 * 1024 * 1024
EVALUATION_MAX_ROWS: Final = 20_000
CALL_ONCE: Final = BUILTIN_CODES["CALL_ONCE"]
TOLERANCE: Final = 2
"""Largest difference between two runs, in steps of the output's scale (1/256 for float outputs)."""
NPY_TYPES: Final[dict[int, str]] = {
    0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 9: "i1",
}  # fmt: skip


class EvaluationError(OtaError):
    """The evaluation set cannot be used with this model. Code: always `io_contract`."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__("io_contract", text, fix)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A parsed evaluation set, ready for the probe.

    rows: the raw input tensors of each sample, quantised with the model's input contract. labels: int64,
    (n,), class of each row, or None. expected: float64, (n, elements of the score output), or None. total:
    rows in the file, of which evenly spaced ones were taken when there were too many to run.
    """

    rows: tuple[bytes, ...]
    labels: NDArray[np.int64] | None
    expected: NDArray[np.float64] | None
    total: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How a model did on its evaluation set.

    kind: `labels` (class right), `expected_class` (same class as the reference) or `expected_value` (within 5
    % of the reference's range). ratio = right / n. majority_ratio: what always answering the commonest class
    would reach.
    """

    kind: str
    ratio: float
    right: int
    n: int
    total: int
    majority_ratio: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


def parse_evaluation(data: bytes, inspection: Inspection, *, score_output: int = 0) -> Evaluation:
    """Read an `.npz` evaluation set for a model.

    Keys: `x` (float rows, or the input's own type when already quantised), or `x0`, `x1`, ... for several
    inputs; and `y` (integer classes) or `expected` (reference outputs). Raises EvaluationError for anything
    else: pickles, other shapes or types, NaN, archives that unpack to more than 128 MiB.
    """
    arrays = _read_npz(data)
    names = ["x"] if len(inspection.inputs) == 1 else [f"x{i}" for i in range(len(inspection.inputs))]
    for name in names:
        if name not in arrays:
            raise EvaluationError(
                f"the evaluation set has no array '{name}'", "save it with numpy.savez(x=..., y=...)"
            )
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    total = counts[names[0]]
    if not 1 <= total <= EVALUATION_MAX_ROWS or len(set(counts.values())) != 1:
        raise EvaluationError(
            f"arrays of {counts} rows: equal numbers of 1 to {EVALUATION_MAX_ROWS:,} are accepted"
        )
    if not 0 <= score_output < len(inspection.outputs):
        raise EvaluationError(f"the model has no output {score_output}")
    take = (
        np.arange(total)
        if total <= (cap := rows_within_budget(inspection))
        else np.arange(cap) * total // cap
    )
    parts = [
        quantise_rows(arrays[name][take], spec, name)
        for name, spec in zip(names, inspection.inputs, strict=True)
    ]
    rows = tuple(b"".join(part[i] for part in parts) for i in range(len(take)))
    output = inspection.outputs[score_output]
    if "y" in arrays:
        return Evaluation(rows, _labels(arrays["y"], output)[take], None, total)
    if "expected" in arrays:
        return Evaluation(rows, None, _expected(arrays["expected"], output)[take], total)
    raise EvaluationError(
        "the evaluation set has neither 'y' nor 'expected'", "add the true class of every row as 'y'"
    )


def rows_within_budget(inspection: Inspection) -> int:
    """How many rows the probe runs at most: about two seconds of reference kernels and 2 MiB of outputs."""
    out_bytes = max(1, sum(spec.byte_size for spec in inspection.outputs))
    in_bytes = max(1, sum(spec.byte_size for spec in inspection.inputs))
    by_work = 200_000_000 // max(1, inspection.macs)
    if CALL_ONCE in inspection.builtin_operators:
        return 128  # every row takes a new interpreter
    return max(16, min(4096, by_work, 2 * 1024**2 // out_bytes, 16 * 1024**2 // in_bytes))


def quantise_rows(values: NDArray[Any], spec: TensorSpec, name: str) -> list[bytes]:
    """Raw tensor bytes of each row, with the input's own scale and zero point.

    values: (n, ...) with as many elements a row as the tensor. Floats are rounded half away from zero and
    clipped, as TFLM's QUANTIZE does; integers pass only when they already have the input's type. Raises
    EvaluationError.
    """
    rows = values.shape[0]
    wanted = [size for size in spec.shape if size != 1]
    if [size for size in values.shape[1:] if size != 1] not in (wanted, [spec.elements]):
        raise EvaluationError(
            f"'{name}' has rows of shape {list(values.shape[1:])}, the model takes {list(spec.shape)}"
        )
    flat = values.reshape(rows, spec.elements)
    kind = np.dtype(NPY_TYPES[spec.dtype])
    if flat.dtype == kind and kind.kind != "f":
        return [row.tobytes() for row in flat]
    if flat.dtype.kind != "f":
        raise EvaluationError(
            f"'{name}' is {flat.dtype}, the model takes {spec.dtype_name} or floats to quantise"
        )
    if not np.isfinite(flat).all():
        raise EvaluationError(f"'{name}' holds NaN or infinity")
    if kind.kind == "f":
        return [row.tobytes() for row in flat.astype(kind)]
    if kind.kind not in "iu" or spec.scale <= 0:
        raise EvaluationError(
            f"'{name}' is {flat.dtype}, but the {spec.dtype_name} input has no scale to quantise with"
        )
    scaled = flat.astype(np.float32) / np.float32(spec.scale)
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.float64) + spec.zero_point
    limits = np.iinfo(kind)
    return [row.tobytes() for row in np.clip(rounded, limits.min, limits.max).astype(kind)]


def read_outputs(outputs: Sequence[bytes], specs: Sequence[TensorSpec], which: int) -> NDArray[np.float64]:
    """Output tensor `which` of every row as real values: float64, (rows, elements); dequantised if it has a
    scale."""
    spec = specs[which]
    start = sum(other.byte_size for other in specs[:which])
    joined = b"".join(row[start : start + spec.byte_size] for row in outputs)
    values = (
        np.frombuffer(joined, dtype=NPY_TYPES[spec.dtype])
        .reshape(len(outputs), spec.elements)
        .astype(np.float64)
    )
    return (values - spec.zero_point) * spec.scale if spec.scale > 0 else values


def measure(
    evaluation: Evaluation, outputs: Sequence[bytes], inspection: Inspection, *, score_output: int = 0
) -> Accuracy:
    """Compare the probe's outputs with the evaluation set. outputs: one entry per evaluation row."""
    values = read_outputs(outputs, inspection.outputs, score_output)
    n = len(evaluation.rows)
    if evaluation.labels is not None:
        truth = evaluation.labels
        is_class = _answers_with_a_class(inspection.outputs[score_output])
        answers = values[:, 0] if is_class else values.argmax(axis=1)
        right = int((answers == truth).sum())
        majority = float(np.unique(truth, return_counts=True)[1].max()) / n
        return Accuracy("labels", right / n, right, n, evaluation.total, majority)
    expected = evaluation.expected
    if expected is None:
        raise ValueError("an evaluation has labels or expected outputs")
    if values.shape[1] > 1:
        truth = expected.argmax(axis=1)
        right = int((values.argmax(axis=1) == truth).sum())
        majority = float(np.bincount(truth).max()) / n
        return Accuracy("expected_class", right / n, right, n, evaluation.total, majority)
    near = 0.05 * float(expected.max() - expected.min()) + TOLERANCE * inspection.outputs[score_output].scale
    right = int((np.abs(values - expected) <= near).sum())
    flat = int((np.abs(np.median(expected) - expected) <= near).sum())
    return Accuracy("expected_value", right / n, right, n, evaluation.total, flat / n)


def _labels(values: NDArray[Any], output: TensorSpec) -> NDArray[np.int64]:
    flat = values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1 or flat.dtype.kind not in "iub":
        raise EvaluationError(
            f"'y' is {values.dtype} {list(values.shape)}, one integer class per row is expected"
        )
    if _answers_with_a_class(output):
        return flat.astype(np.int64)
    if output.elements < 2 or int(flat.min()) < 0 or int(flat.max()) >= output.elements:
        raise EvaluationError(
            f"'y' holds {int(flat.min())}..{int(flat.max())}, the model has {output.elements} scores"
        )
    return flat.astype(np.int64)


def _answers_with_a_class(output: TensorSpec) -> bool:
    """True for a model that ends in ARG_MAX: its one output value is the class itself."""
    return output.elements == 1 and output.dtype in (2, 4) and output.scale == 0


def _expected(values: NDArray[Any], output: TensorSpec) -> NDArray[np.float64]:
    if values.dtype.kind not in "fiu" or math.prod(values.shape[1:]) != output.elements:
        raise EvaluationError(
            f"'expected' is {values.dtype} {list(values.shape)}, rows of {output.elements} numbers are due"
        )
    flat = values.reshape(len(values), output.elements).astype(np.float64)
    if not np.isfinite(flat).all():
        raise EvaluationError("'expected' holds NaN or infinity")
    return flat


def _read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name. Sizes are checked before anything is unpacked; pickles are refused."""
    if len(data) > EVALUATION_MAX_BYTES:
        raise EvaluationError(
            f"the evaluation set is {len(data):,} bytes, at most {EVALUATION_MAX_BYTES:,} are accepted"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if len(members) > 16 or sum(info.file_size for info in members) > ARRAYS_MAX_BYTES:
                raise EvaluationError("the evaluation set unpacks to more than 16 arrays or 128 MiB")
            arrays = {}
            for info in members:
                with archive.open(info) as stream:
                    arrays[info.filename[:-4]] = _read_npy(stream, info.file_size, info.filename)
            return arrays
    except EvaluationError:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen kinds of their own on damaged bytes
        raise EvaluationError(
            f"the evaluation set is no readable .npz file ({type(error).__name__})",
            "save it with numpy.savez(x=..., y=...)",
        ) from error


def _read_npy(stream: IO[bytes], size: int, name: str) -> NDArray[Any]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise EvaluationError(f"{name} has npy version {version}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise EvaluationError(
            f"{name} holds {dtype}, only plain numbers are accepted", "store floats and integers"
        )
    count = math.prod(shape)
    if count * dtype.itemsize > size or len(shape) > 8:
        raise EvaluationError(f"{name} declares {list(shape)} {dtype}, more than the file holds")
    raw = stream.read(count * dtype.itemsize)
    array = np.frombuffer(raw, dtype=dtype, count=count)
    array = array.reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="))
