"""Runtime hints of a manifest (key 21): how a model wants to be fed and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleet.mqtt.codec.shape import UINT16_MAX, UINT32_MAX, Shape


@dataclass(frozen=True)
class Hints:
    """Hints that this version knows; others in a manifest are ignored. None = not said.

    window, hop: samples per inference and between two. channels: values per sample. reset_policy: 0 never, 1
    per window, 2 per stream. front_end: (id, first 8 bytes of its digest). head: 0 none, 1 class scores.
    alarm: (n, k, refractory ms). anomaly: (kind, threshold 1e-3, ...). labels: first 8 bytes of the digest of
    the label list. classes: how many.
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
    alarm: tuple[int, int, int] | None = None
    anomaly: tuple[int, ...] | None = None
    labels: bytes | None = None
    classes: int | None = None

    def item(self) -> dict[int, Any]:
        """The CBOR form: only what is said."""
        said = {key: getattr(self, name) for key, (name, _) in _FIELDS.items()}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in said.items() if v is not None}


def _number(most: int, least: int = 0) -> Callable[[Any, str, Shape], Any]:
    return lambda value, what, shape: shape.integer(value, what, least, most)


def _front_end(value: Any, what: str, shape: Shape) -> tuple[int, bytes]:
    pair = shape.array(value, what, least=2, most=2)
    return shape.uint(pair[0], what, UINT32_MAX), shape.raw(pair[1], what, 8)


def _alarm(value: Any, what: str, shape: Shape) -> tuple[int, int, int]:
    n, k, refractory_ms = shape.array(value, what, least=3, most=3)
    shape.integer(n, what, 1, 64)
    return n, shape.integer(k, what, 1, n), shape.uint(refractory_ms, what, UINT32_MAX)


def _anomaly(value: Any, what: str, shape: Shape) -> tuple[int, ...]:
    numbers = shape.array(value, what, least=2, most=8)
    return tuple(shape.integer(number, what, -(2**31), UINT32_MAX) for number in numbers)


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
    return None
