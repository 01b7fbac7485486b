"""What real models answer to recorded wear, clean and with faults of the sensor, and the sketches of it.

Answers come from the TFLM wheel on quantised windows of five people no model was trained on; sketches come
from the shipped C. One inference of each recorded window and fault is enough: a device draws from them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from device_firmware.host.recordings import FIELD_SUBJECTS, TRAIN_SUBJECTS, load_subject
from fleet.mqtt.codec.cbor import decode_strict
from fleet.mqtt.codec.sketch import Sketch, parse_sketch
from fleet.telemetry import shifts
from fleet.telemetry.histograms import CLASS, DISTANCE, empty
from tests.firmware.stages import Stages
from tests.models.watch import ROOT, watch_dir

Floats = npt.NDArray[np.float32]
CLASSES, CHANNELS, SAMPLES = 7, 6, 100
SCALE = 1 / 16
INT8 = 9


def _noise(windows: Floats) -> Floats:
    rng = np.random.default_rng(4)
    return windows + rng.normal(0, 1, windows.shape).astype(np.float32)


def _stuck(windows: Floats) -> Floats:
    stuck = windows.copy()
    stuck[..., 0] = 0
    return stuck


FAULTS: Final[Mapping[str, Callable[[Floats], Floats]]] = {
    "none": lambda windows: windows,
    "channel 0 = 0": _stuck,
    "x 2": lambda windows: windows * np.float32(2),
    "axes [1,2,0,4,5,3]": lambda windows: windows[..., [1, 2, 0, 4, 5, 3]],
    "+ N(0,1)": _noise,
    "+ 1.5": lambda windows: windows + np.float32(1.5),
}
"""The five faults of the design, in standard deviations of the training data."""


@dataclass(frozen=True)
class Wear:
    """A person's recorded windows under one fault, with what the model makes of each.

    windows: float32 (n, 100, 6). scores: uint16 (n, 7), 1e-4. labels, distances: int64 (n,), the latter 1e-3.
    sums, squares, ends, outside: float64 (n, 6), of quantised steps and of elements at or beyond the ends.
    """

    windows: Floats
    scores: npt.NDArray[np.uint16]
    labels: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    outside: npt.NDArray[np.float64]

    @property
    def top(self) -> npt.NDArray[np.int64]:
        """The class the model decides for, (n,)."""
        found: npt.NDArray[np.int64] = self.scores.argmax(axis=1)
        return found


@functools.cache
def table() -> npt.NDArray[np.float64]:
    """Mean and weight of each feature of the anomaly score, from the people models were trained on."""
    clean = _features(np.concatenate([load_subject(watch_dir(), one).x for one in TRAIN_SUBJECTS]))
    return np.stack([clean.mean(axis=0), 1 / clean.std(axis=0)])


@functools.cache
def cuts() -> tuple[int, ...]:
    """Clean deciles of the anomaly score, 1e-3: what the manifest would carry."""
    clean = np.concatenate([load_subject(watch_dir(), one).x for one in TRAIN_SUBJECTS])
    return tuple(int(value) for value in np.quantile(distance(clean), np.arange(1, 10) / 10))


def _features(windows: Floats) -> npt.NDArray[np.float64]:
    """Mean and mean deviation of each channel (anomaly kind 2, source 1)."""
    mean = windows.mean(axis=1)
    spread = np.abs(windows - mean[:, None, :]).mean(axis=1)
    return np.stack([mean, spread], axis=2).reshape(len(windows), -1).astype(np.float64)


def distance(windows: Floats) -> npt.NDArray[np.int64]:
    """Anomaly scores of windows, 1e-3."""
    centre, weight = table()
    found: npt.NDArray[np.int64] = np.rint(
        1000 * (((_features(windows) - centre) * weight) ** 2).mean(axis=1)
    ).astype(np.int64)
    return found


@functools.cache
def wear(subject: int, fault: str = "none", *, model: str = "activity-v2", every: int = 1) -> Wear:
    """One person's windows under a fault, every so many of them, through the real runtime."""
    from tflite_micro.python.tflite_micro import runtime

    recording = load_subject(watch_dir(), subject)
    windows = np.ascontiguousarray(FAULTS[fault](recording.x[::every]))
    steps = np.sign(windows) * np.floor(np.abs(windows / SCALE) + 0.5)
    raw = np.clip(steps, -128, 127).astype(np.int8)
    path = ROOT / "deploy" / "models" / f"{model}.tflite"
    interpreter = runtime.Interpreter.from_bytes(path.read_bytes())
    scores = np.empty((len(raw), CLASSES), np.uint16)
    for row, window in enumerate(raw):
        interpreter.set_input(window[None], 0)
        interpreter.invoke()
        scores[row] = np.rint((interpreter.get_output(0)[0].astype(np.float64) + 128) / 256 * 10_000)
    whole = raw.astype(np.float64)
    return Wear(
        windows,
        scores,
        recording.y[::every],
        distance(windows),
        whole.sum(axis=1),
        (whole**2).sum(axis=1),
        ((raw == -128) | (raw == 127)).sum(axis=1).astype(np.float64),
        ((steps < -128) | (steps > 127)).sum(axis=1).astype(np.float64),
    )


def subject_of(device: int) -> int:
    """Whom a virtual device wears."""
    return FIELD_SUBJECTS[device % len(FIELD_SUBJECTS)]


class Wearer:
    """A device: it replays its own three fifths of a person's windows, in a new order on each pass."""

    def __init__(self, device: int, *, every: int = 1) -> None:
        self.subject = subject_of(device)
        self._every = every
        self._rng = np.random.default_rng([7, device])
        labels = wear(self.subject, every=every).labels
        own = []
        for label in range(CLASSES):
            rows = np.flatnonzero(labels == label)
            kept = max(1, round(0.6 * len(rows)))
            first = int(self._rng.integers(0, len(rows) - kept + 1))
            own.append(rows[first : first + kept])
        self._own = np.concatenate(own)
        self._waiting = np.empty(0, np.int64)

    def rows(self, n: int) -> npt.NDArray[np.int64]:
        """The next n windows, by row."""
        while len(self._waiting) < n:
            self._waiting = np.concatenate([self._waiting, self._rng.permutation(self._own)])
        taken, self._waiting = self._waiting[:n], self._waiting[n:]
        return taken

    def seen(self, n: int, fault: str = "none") -> shifts.Seen:
        """A window of n inferences as the backend reads it from a sketch."""
        worn = wear(self.subject, fault, every=self._every)
        rows = self.rows(n)
        elements = n * SAMPLES
        mean = worn.sums[rows].sum(axis=0) / elements
        classes, distances = empty(CLASS), empty(DISTANCE)
        classes[:CLASSES] = np.bincount(worn.top[rows], minlength=CLASSES)
        bins = np.searchsorted(cuts(), worn.distances[rows], side="right")
        distances[:] = np.bincount(bins, minlength=len(distances))
        tenths = np.minimum(worn.scores[rows].max(axis=1) // 1000, 9)
        return shifts.Seen(
            n,
            shifts.Moments(
                mean,
                worn.squares[rows].sum(axis=0) / elements - mean**2,
                worn.ends[rows].sum(axis=0) / elements,
                worn.outside[rows].sum(axis=0) / elements,
            ),
            classes=classes,
            distances=distances,
            confidence=float((tenths + 0.5).mean() / 10),
        )

    def accuracy(self, n: int, fault: str = "none") -> float:
        """Share of n further windows that the model gets right."""
        worn, rows = wear(self.subject, fault, every=self._every), self.rows(n)
        return float((worn.top[rows] == worn.labels[rows]).mean())

    def sketch(self, stages: Stages, n: int, fault: str = "none", *, seq: int = 0) -> Sketch:
        """The same of n further windows as the shipped C writes it."""
        worn = wear(self.subject, fault, every=self._every)
        stages.sketch_open(0)
        for row in self.rows(n):
            stages.sketch_inputs(0, worn.windows[row], dtype=INT8, scale=SCALE, zero=0)
            scores = tuple(int(value) for value in worn.scores[row])
            stages.sketch_put(
                0, us=3_000, scores=scores, label=int(worn.labels[row]), heap=100_000,
                score=int(worn.distances[row]), limit=0, cuts=cuts(),
            )  # fmt: skip
        item: Any = decode_strict(stages.sketch_bytes(0), max_bytes=4096)
        return parse_sketch(item, seq=seq, before_ms=0)
