"""Runtime hints of a manifest (key 21): how a model wants to be fed and read."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

from fleet.mqtt.codec.shape import INT32_MAX, UINT16_MAX, UINT32_MAX, Shape

MAX_FEATURES = 32
MAX_CHANNELS = 12
MAX_DECIDE_SCORES = 160
"""Means of decisions times classes: what a device has room for."""


@dataclass(frozen=True)
class Hints:
    """Hints that this version knows; others in a manifest are ignored. None = not said.

    window, hop: samples per inference and between two. channels: values per sample. reset_policy: 0 never, 1
    per window, 2 per stream. front_end: (id, first 8 bytes of its digest). head: 0 none, 1 class scores.
    alarm: (n, k, refractory ms), then perhaps (m, threshold 1e-4): a decision is k of the last m means of n.
    anomaly: (kind, threshold 1e-3), then perhaps a source: 0 the embedding, 1 moments of the input. labels:
    first 8 bytes of the digest of the label list. classes: how many. distance: for anomaly kind 2, float32
    little-endian (mean, weight) of each feature. front_params: front-end 1: float32 (scale, offset) of each
    channel; 2: one byte, the slot of the model to run first. deciles: nine rising clean anomaly scores, 1e-3.
    """

    window: int | None = None
    hop: int | None = None
    channels: int | None = None
    reset_policy: int | None = None
    resource_variables: int | None = None
    latency_budget_us: int | None = None
    front_end: tuple[int, bytes] | None = None
    head: int | None = None
    embedding_output: int | None = None
    alarm: tuple[int, ...] | None = None
    anomaly: tuple[int, ...] | None = None
    labels: bytes | None = None
    classes: int | None = None
    distance: bytes | None = None
    front_params: bytes | None = None
    deciles: tuple[int, ...] | None = None

    def item(self) -> dict[int, Any]:
        """The CBOR form: only what is said."""
        said = {key: getattr(self, name) for key, (name, _) in _FIELDS.items()}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in said.items() if v is not None}


def _number(most: int, least: int = 0) -> Callable[[Any, str, Shape], Any]:
    return lambda value, what, shape: shape.integer(value, what, least, most)


def _front_end(value: Any, what: str, shape: Shape) -> tuple[int, bytes]:
    pair = shape.array(value, what, least=2, most=2)
    return shape.uint(pair[0], what, UINT32_MAX), shape.raw(pair[1], what, 8)


def _alarm(value: Any, what: str, shape: Shape) -> tuple[int, ...]:
    numbers = shape.array(value, what, least=3, most=5)
    n = shape.integer(numbers[0], what, 1, 64)
    most = (64, 64 if len(numbers) > 3 else n, UINT32_MAX, 64, 10_000)
    least = (1, 1, 0, 1, 0)
    return tuple(shape.integer(v, what, least[i], most[i]) for i, v in enumerate(numbers))


def _anomaly(value: Any, what: str, shape: Shape) -> tuple[int, ...]:
    numbers = shape.array(value, what, least=2, most=8)
    return tuple(shape.integer(number, what, -(2**31), UINT32_MAX) for number in numbers)


def _bytes(least: int, most: int) -> Callable[[Any, str, Shape], bytes]:
    def read(value: Any, what: str, shape: Shape) -> bytes:
        if type(value) is not bytes or not least <= len(value) <= most:
            raise shape.fail(f"{what} is not {least}..{most} bytes")
        return value

    return read


def _deciles(value: Any, what: str, shape: Shape) -> tuple[int, ...]:
    numbers = shape.array(value, what, least=9, most=9)
    return tuple(shape.uint(number, what, INT32_MAX) for number in numbers)


def _digest8(value: Any, what: str, shape: Shape) -> bytes:
    return shape.raw(value, what, 8)


_FIELDS: dict[int, tuple[str, Callable[[Any, str, Shape], Any]]] = {
    1: ("window", _number(UINT32_MAX)),
    2: ("hop", _number(UINT32_MAX)),
    3: ("channels", _number(UINT16_MAX, 1)),
    4: ("reset_policy", _number(UINT32_MAX)),
    5: ("resource_variables", _number(UINT16_MAX)),
    6: ("latency_budget_us", _number(UINT32_MAX)),
    7: ("front_end", _front_end),
    8: ("head", _number(1)),
    9: ("embedding_output", _number(7)),
    10: ("alarm", _alarm),
    11: ("anomaly", _anomaly),
    12: ("labels", _digest8),
    13: ("classes", _number(UINT16_MAX, 1)),
    14: ("distance", _bytes(8, 8 * MAX_FEATURES)),
    15: ("front_params", _bytes(1, 8 * MAX_CHANNELS)),
    16: ("deciles", _deciles),
}


def parse_hints(value: Any, shape: Shape) -> Hints:
    """Manifest key 21. Raises the shape's error for a hint of the wrong type or form.

    Which combinations make sense is `contradiction`'s to say.
    """
    if type(value) is not dict or any(type(key) is not int for key in value):
        raise shape.fail("hints are not a map with numbers as keys")
    known = {key: field for key, field in _FIELDS.items() if key in value}
    return Hints(**{name: read(value[key], f"hint {name}", shape) for key, (name, read) in known.items()})


def contradiction(hints: Hints) -> str | None:
    """Why no device could feed this model (`io_contract`), or None."""
    if hints.window == 0 or hints.hop == 0:
        return "window and hop are at least one sample"
    if hints.hop is not None and (hints.window is None or hints.hop > hints.window):
        return "hop is longer than the window"
    if hints.reset_policy is not None and hints.reset_policy > 2:
        return f"reset policy {hints.reset_policy} is not known"
    if hints.alarm is not None and len(hints.alarm) > 3 and hints.alarm[1] > hints.alarm[3]:
        return f"{hints.alarm[1]} of the last {hints.alarm[3]} decisions cannot be"
    if hints.deciles is not None and list(hints.deciles) != sorted(hints.deciles):
        return "clean deciles do not rise"
    return _front_end_contradiction(hints)


def _front_end_contradiction(hints: Hints) -> str | None:
    number, params = hints.front_end[0] if hints.front_end else 0, hints.front_params
    if number > 2:
        return f"front-end {number} is not known"
    if number == 1:
        channels = hints.channels or 0
        if not 1 <= channels <= MAX_CHANNELS or len(params or b"") != 8 * channels or not _finite(params):
            return "front-end 1 needs the channels, and a finite scale and offset for each"
    if number == 2 and (params is None or len(params) != 1 or params[0] > 3):
        return "front-end 2 needs the slot of the model to run first"
    return None


def misfit(
    hints: Hints, *, slot: int, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]
) -> str | None:
    """Why hints that do not contradict each other contradict these tensor shapes, or None.

    The C core refuses the same (`io_contract`).
    """
    elements, first = [prod(shape) for shape in outputs], prod(outputs[0])
    if hints.front_end and hints.front_end[0] == 2 and hints.front_params == bytes([slot]):
        return "a model cannot be its own front-end"
    if hints.alarm is not None:
        if not hints.head:
            return "decisions need class scores"
        if hints.alarm[0] * first > MAX_DECIDE_SCORES:
            return f"{hints.alarm[0]} scores of {first} classes are more than {MAX_DECIDE_SCORES}"
    kind = hints.anomaly[0] if hints.anomaly else 0
    if kind == 1 and (len(inputs) != 1 or first != prod(inputs[0])):
        return "a reconstruction is as large as the one input"
    if kind != 2 or hints.distance is None:
        return None
    source = hints.anomaly[2] if hints.anomaly and len(hints.anomaly) > 2 else 0
    features = 2 * (hints.channels or 0) if source else 0
    if not source and hints.embedding_output is not None and hints.embedding_output < len(outputs):
        features = elements[hints.embedding_output]
    if source not in (0, 1) or not features or len(hints.distance) != 8 * features:
        return f"{len(hints.distance)} bytes of distance parameters for {features} features"
    return None if _finite(hints.distance) else "a distance parameter is not finite"


def _finite(raw: bytes | None) -> bool:
    return all(isfinite(value) for (value,) in struct.iter_unpack("<f", raw or b""))
