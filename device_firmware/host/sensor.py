"""What a virtual device senses: windows of real recordings, quantised for the running model, with labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from device_firmware.host.core import Model, Tensor
from device_firmware.host.engine import dequantise, quantise

CLASSES_MAX = 256
"""The core keeps counts of so many classes (FC_CLASSES_MAX)."""
RESET_PER_WINDOW = 1
_HEAD_SCORES = 1
Window = np.ndarray[Any, Any]
Windows = Iterator[tuple[Window, int]]
Distort = Callable[[Window], Window]


class Runtime(Protocol):
    """What runs a loaded model: `engine.WheelEngine`, or a pool of workers behind the same face."""

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        """Run once on raw tensors: outputs and microseconds."""

    def reset(self, slot: int) -> None:
        """Clear streaming state."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One inference as the core counts it: scores in [0, 1], label -1 = none."""

    us: int
    scores: Sequence[float]
    label: int


def _as_it_is(window: Window) -> Window:
    return window


class Sensor:
    """Feeds the model in slot 0 with one window after another.

    A model made for another sensor gets the same numbers, cut or repeated to its inputs' sizes, and no
    labels:
    its latency and its survival are real, its answers mean nothing.
    """

    def __init__(self, windows: Windows, engine: Runtime, *, distort: Distort = _as_it_is) -> None:
        """distort: what the board's sensor makes of a window."""
        self._windows = windows
        self._engine = engine
        self._distort = distort

    def sense(self, model: Model) -> Sample:
        """Run the model on the next window. Raises what the engine raises."""
        window, label = next(self._windows)
        window = self._distort(window)
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
