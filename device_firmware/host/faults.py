"""Faults that a test, the demo or a scenario asks a virtual device to suffer.

Some happen once: a power cut, a flipped bit, a hang. Others last for `seconds`, also over the device's
restarts: slow flash, lost chunks, a clock that lies. `KINDS` names every kind with what it takes.
"""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from typing import Any

FOREVER_S = 1e9


@dataclasses.dataclass(frozen=True)
class Number:
    """A fault's parameter: its range and what it is when nobody says. is_whole: no fractions."""

    least: float
    most: float
    default: float = 0.0
    is_whole: bool = False

    @property
    def start(self) -> float:
        """The default, whole when it has to be."""
        return int(self.default) if self.is_whole else self.default

    def check(self, key: str, value: object) -> float:
        """The value as a number. Raises ValueError that names `key`."""
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else (int, float)):
            raise ValueError(f"{key}: {'a whole number' if self.is_whole else 'a number'} is needed")
        assert isinstance(value, (int, float))
        if not (math.isfinite(value) and self.least <= value <= self.most):
            raise ValueError(f"{key}: {self.least:g} to {self.most:g}, not {value!r}")
        return value


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one kind of fault takes. is_lasting: it has a duration and goes on after a restart; ends_life: it
    ends the process, so that what follows is for the device's next life.
    """

    text: str
    numbers: Mapping[str, Number]
    is_lasting: bool = False
    ends_life: bool = False


def _whole(least: float, most: float, default: float = 0.0) -> Number:
    return Number(least, most, default, is_whole=True)


_BIG = 2**31 - 1
_TEAR = _whole(0, 2, 1)

KINDS: Mapping[str, Kind] = {
    "cut": Kind(
        "lose power at the ops-th flash operation of a download, leaving mode: 0 nothing, 1 torn, 2 done",
        {"ops": _whole(1, _BIG, 1), "mode": _TEAR},
        ends_life=True,
    ),
    "power": Kind(
        "lose power at the ops-th flash operation from now, or after 3 s without so many; ops 0: at once",
        {"ops": _whole(0, _BIG, 0), "mode": _TEAR},
        ends_life=True,
    ),
    "flip": Kind("flip one bit of chunk number `chunk` on its way in", {"chunk": _whole(0, _BIG)}),
    "hang": Kind("stop answering, until the watchdog bites", {}, ends_life=True),
    "crash": Kind("die as a panic does", {}, ends_life=True),
    "rot": Kind(
        "flip `bits` random bits of flash; area: 0 metadata, 1 the running bank, 2 the other bank",
        {"area": _whole(0, 2, 2), "bits": _whole(1, 4096, 1), "seed": _whole(0, _BIG)},
    ),
    "slow_flash": Kind(
        "each flash operation takes `ms` longer", {"ms": Number(0.1, 1000, 40)}, is_lasting=True
    ),
    "lose": Kind(
        "chunks that never arrive, this share of them", {"ratio": Number(0, 1, 0.1)}, is_lasting=True
    ),
    "corrupt": Kind("chunks that arrive with a flipped bit", {"ratio": Number(0, 1, 0.1)}, is_lasting=True),
    "clock": Kind(
        "the wall clock is offset_s wrong and drifts; absent 1: there is none",
        {
            "offset_s": _whole(-(2**40), 2**40),
            "drift_ppm": Number(-1e6, 1e6),
            "absent": _whole(0, 1),
        },
        is_lasting=True,
    ),
    "wifi": Kind(
        "the radio is up for up_s, then down for down_s, and so on",
        {"up_s": Number(0, 86_400, 20), "down_s": Number(0.5, 86_400, 10)},
        is_lasting=True,
    ),
    "battery": Kind("too little power to switch models", {}, is_lasting=True),
    "heap": Kind(
        "the board has free_bytes left: below 16 KiB the core switches no model",
        {"free_bytes": _whole(0, _BIG, 8192)},
        is_lasting=True,
    ),
    "sensor": Kind(
        "what is sensed is value * gain + offset; axis >= 0: that one stands still instead",
        {"offset": Number(-1000, 1000), "gain": Number(-100, 100, 1), "axis": _whole(-1, 63, -1)},
        is_lasting=True,
    ),
    "effect": Kind(
        "while a model newer than above_seq runs: this share `wrong` of its windows gets another label, what "
        "is sensed is shifted by offset, an inference takes slow_us longer, it dies panics_per_hour times",
        {
            "above_seq": _whole(0, _BIG, 1),
            "wrong": Number(0, 1),
            "offset": Number(-1000, 1000),
            "slow_us": _whole(0, 10_000_000),
            "panics_per_hour": Number(0, 3600),
        },
        is_lasting=True,
    ),
    "model": Kind(
        "a candidate that crashes (hangs 0) or hangs (1) when it is loaded",
        {"hangs": _whole(0, 1)},
        is_lasting=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault for one device: its kind, all its numbers, and how long it lasts."""

    kind: str
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Fault":
        """Typed fault of a JSON object. Raises ValueError for an unknown kind or key, or a bad number."""
        kind = KINDS.get(raw["kind"]) if isinstance(raw.get("kind"), str) else None
        if kind is None:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        extra = sorted(set(raw) - {"kind", "seconds", *kind.numbers})
        if extra or ("seconds" in raw and not kind.is_lasting):
            raise ValueError(f"{raw['kind']} does not take {(extra or ['seconds'])[0]}")
        numbers = {
            key: rule.check(key, raw[key]) if key in raw else rule.start for key, rule in kind.numbers.items()
        }
        seconds = Number(0, FOREVER_S, FOREVER_S).check("seconds", raw.get("seconds", FOREVER_S))
        return cls(raw["kind"], numbers, seconds if kind.is_lasting else 0.0)

    @property
    def is_lasting(self) -> bool:
        """True when it stays for `seconds`."""
        return KINDS[self.kind].is_lasting

    @property
    def ends_life(self) -> bool:
        """True when it ends the device's process."""
        return KINDS[self.kind].ends_life

    def __getitem__(self, key: str) -> float:
        return self.numbers[key]

    def whole(self, key: str) -> int:
        """A number that counts something."""
        return int(self.numbers[key])

    def record(self) -> dict[str, Any]:
        """The fault as a JSON object that `parse` understands."""
        return {"kind": self.kind, **self.numbers, **({"seconds": self.seconds} if self.is_lasting else {})}

    def packet(self) -> bytes:
        """The fault as one packet for the device's control socket."""
        return json.dumps(self.record()).encode()


class Lasting:
    """The lasting faults a device suffers now, at most one of a kind: the newest."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[Fault, float, float]] = {}

    def begin(self, fault: Fault, now: float) -> None:
        """Start suffering. now: seconds of the monotonic clock, as everywhere here."""
        self._ends[fault.kind] = fault, now, now + fault.seconds

    def get(self, kind: str, now: float | None = None) -> Fault | None:
        """The fault of this kind, if one is on."""
        found = self._ends.get(kind)
        if found is None:
            return None
        if (time.monotonic() if now is None else now) < found[2]:
            return found[0]
        del self._ends[kind]
        return None

    def since(self, kind: str) -> float:
        """When the fault of this kind began; 0.0 when there is none."""
        return self._ends[kind][1] if kind in self._ends else 0.0

    def left(self, now: float) -> list[Fault]:
        """What is still on, each with the seconds it has left: for the device's next life."""
        return [dataclasses.replace(f, seconds=end - now) for f, _, end in self._ends.values() if end > now]
