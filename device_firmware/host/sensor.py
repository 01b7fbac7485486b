"""What a virtual device senses: windows of real recordings with labels, fed into the shipped pipeline."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from device_firmware.host.core import Core, CoreError, EngineError, Model, Tensor
from device_firmware.host.engine import dequantise, quantise

CLASSES_MAX = 256
"""The core keeps counts of so many classes (FC_CLASSES_MAX)."""
RESET_PER_WINDOW = 1
_HEAD_SCORES = 1
Window = np.ndarray[Any, Any]
Windows = Iterator[tuple[Window, int]]
Distort = Callable[[Window], Window]
Relabel = Callable[[int, int], int]


class Runtime(Protocol):
    """What runs a loaded model: `engine.WheelEngine`, or a pool of workers behind the same face."""

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        """Run once on raw tensors: outputs and microseconds."""

    def reset(self, slot: int) -> None:
        """Clear streaming state."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One inference outside the pipeline: scores in [0, 1], label -1 = none."""

    us: int
    scores: Sequence[float]
    label: int


def _as_it_is(window: Window) -> Window:
    return window


def _label_as_it_is(label: int, classes: int) -> int:
    return label


class Sensor:
    """Feeds the model in slot 0 with one window after another.

    A model made for this sensor gets raw samples through the C pipeline, as on a board. Recorded windows do
    not follow one another, so each begins behind a gap. A model made for another sensor gets the same
    numbers, cut or repeated to its inputs' sizes, and no labels: its latency and its survival are real, its
    answers mean nothing.
    """

    def __init__(
        self,
        windows: Windows,
        engine: Runtime,
        *,
        distort: Distort = _as_it_is,
        relabel: Relabel = _label_as_it_is,
    ) -> None:
        """distort: what the sensor makes of a window. relabel: (label, classes) -> the label scored by."""
        self._windows = windows
        self._engine = engine
        self._distort = distort
        self._relabel = relabel
        self._foreign_id = b""

    def infer(self, core: Core, model: Model) -> None:
        """One inference of the model that runs in slot 0, counted by the core.

        Raises EngineError `load_failed` when the invoke failed, which is counted as well, or what the engine
        raises for a model of another sensor.
        """
        window, label = next(self._windows)
        window = self._distort(window)
        label = self._relabel(label, model.classes)
        try:
            has_pipeline = self._has_pipeline(core, model, window)
        except CoreError:
            return  # the model of its front-end does not run yet
        if has_pipeline:
            core.gap()
            core.feed(window)
            outcome = core.infer(label=label)
            if outcome is not None and outcome.failed:
                raise EngineError("load_failed", "the pipeline's invoke failed")
            return
        try:
            sample = self.sense(model, window, label)
        except Exception:
            core.sample(0, us=0, failed=True)
            raise
        core.sample(0, us=sample.us, scores=sample.scores, label=sample.label)

    def _has_pipeline(self, core: Core, model: Model, window: np.ndarray[Any, Any]) -> bool:
        if core.has_pipeline():
            return True
        if model.id == self._foreign_id:
            return False
        try:
            if core.open_pipeline() == window.shape:
                return True
        except CoreError as error:
            if error.code == "busy":
                raise
        self._foreign_id = model.id
        return False

    def sense(self, model: Model, window: np.ndarray[Any, Any], label: int) -> Sample:
        """Run a model that was made for another sensor. Raises what the engine raises."""
        is_own = len(model.inputs) == 1 and _elements(model.inputs[0]) == window.size
        if model.reset_policy == RESET_PER_WINDOW:
            self._engine.reset(0)
        inputs = [quantise(window if is_own else np.resize(window, _elements(t)), t) for t in model.inputs]
        outputs, us = self._engine.invoke(0, inputs)
        scores = _scores(model, outputs)
        return Sample(us, scores, label if is_own and scores else -1)


def _elements(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape))


def _scores(model: Model, outputs: Sequence[bytes]) -> list[float]:
    """Class scores of the first output when the manifest says that it holds class scores, else none."""
    if model.head != _HEAD_SCORES or _elements(model.outputs[0]) > CLASSES_MAX:
        return []
    return [float(value) for value in np.clip(dequantise(outputs[0], model.outputs[0]), 0.0, 1.0)]
