"""The kinds of fault that scenario files know: their keys, how those are checked, and what each becomes.

A scenario speaks of rates, shares and words (`tear = "torn"`); `faults.py` of single faults in numbers.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device_firmware.host.faults import FOREVER_S, KINDS, Fault, Number

STEPS_MAX = 200_000
"""Single faults of one run: what `per_hour` multiplies to."""
_TEARS = {"nothing": 0, "torn": 1, "done": 2}
_AREAS = {"metadata": 0, "run": 1, "other": 2}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One [[fault]]: whom it hits, when, and what it does there. seed: None = from the scenario's. numbers:
    checked values of its own keys.
    """

    kind: str
    start_s: float
    duration_s: float
    share: float
    count: int
    names: tuple[str, ...]
    seed: int | None
    numbers: Mapping[str, Any]

    def members(self, ids: Sequence[str], luck: random.Random) -> list[str]:
        """The devices it hits, in the order of `ids`."""
        if self.names:
            return [one for one in ids if one in self.names]
        wanted = self.count or max(1, round(self.share * len(ids)))
        return sorted(luck.sample(list(ids), min(wanted, len(ids))))


Made = list[tuple[float, Fault]]


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of one kind: how its value is checked, and the value when it is missing (None: needed)."""

    check: Callable[[str, object], Any]
    default: Any = None
    is_needed: bool = False


@dataclasses.dataclass(frozen=True)
class Face:
    """A kind of fault as scenario files name it."""

    text: str
    keys: Mapping[str, Key]
    make: Callable[[Rule, float, random.Random], Made]


def number_in(least: float, most: float, *, is_whole: bool = False) -> Callable[[str, object], float]:
    """A check for a number between two bounds."""
    return Number(least, most, is_whole=is_whole).check


def _of_fault(kind: str, key: str, *, is_needed: bool = False) -> Key:
    rule = KINDS[kind].numbers[key]
    return Key(rule.check, rule.start, is_needed)


def _word(words: Mapping[str, int]) -> Callable[[str, object], int]:
    def check(key: str, value: object) -> int:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"{key}: one of {', '.join(words)}, not {value!r}")
        return words[value]

    return check


def _flag(key: str, value: object) -> int:
    if not isinstance(value, bool):
        raise ValueError(f"{key}: true or false, not {value!r}")
    return int(value)


def _fault(kind: str, **numbers: Any) -> Fault:
    return Fault.parse({"kind": kind, **numbers})


def _arrivals(rule: Rule, last_s: float, luck: random.Random) -> list[float]:
    """Times of a Poisson process, or the one at the start when there is no rate."""
    rate = rule.numbers["per_hour"] / 3600
    if not rate:
        return [rule.start_s]
    found: list[float] = []
    at_s = rule.start_s + luck.expovariate(rate)
    while at_s < last_s and len(found) <= STEPS_MAX:
        found.append(at_s)
        at_s += luck.expovariate(rate)
    return found


def _power_cuts(rule: Rule, last_s: float, luck: random.Random) -> Made:
    tear, at_op = rule.numbers["tear"], rule.numbers["at_op"]
    if at_op:
        return [(rule.start_s, _fault("cut", ops=at_op, mode=tear))]
    made: Made = []
    for at_s in _arrivals(rule, last_s, luck):
        ops = luck.randrange(1, 9) if luck.random() < 0.5 else 0  # half between, half in flash operations
        made.append((at_s, _fault("power", ops=ops, mode=tear if tear >= 0 else luck.randrange(3))))
    return made


def _each(kind: str) -> Callable[[Rule, float, random.Random], Made]:
    def make(rule: Rule, last_s: float, luck: random.Random) -> Made:
        return [(at_s, _fault(kind)) for at_s in _arrivals(rule, last_s, luck)]

    return make


def _rotten(rule: Rule, last_s: float, luck: random.Random) -> Made:
    """Bits flip; a power cut follows, because only a start looks at flash again."""
    numbers = {"area": rule.numbers["area"], "bits": rule.numbers["bits"], "seed": luck.randrange(1, 2**31)}
    made = [(rule.start_s, _fault("rot", **numbers))]
    if rule.numbers["then_cut"]:
        made.append((rule.start_s + 1, _fault("power", ops=0)))
    return made


def _lasting(kind: str, **fixed: Any) -> Callable[[Rule, float, random.Random], Made]:
    def make(rule: Rule, last_s: float, luck: random.Random) -> Made:
        numbers = {**rule.numbers, **fixed}
        seconds = rule.duration_s or FOREVER_S
        return [(rule.start_s, _fault(kind, **numbers, seconds=seconds))]

    return make


_PER_HOUR = Key(number_in(0, 3600), 0.0)

FACES: Mapping[str, Face] = {
    "power_cut": Face(
        "power goes: at flash operation at_op of a download, at a random rate per_hour, or once",
        {
            "per_hour": _PER_HOUR,
            "at_op": Key(number_in(0, 2**31 - 1, is_whole=True), 0),
            "tear": Key(_word({**_TEARS, "any": -1}), 1),
        },
        _power_cuts,
    ),
    "panic": Face("the firmware dies", {"per_hour": _PER_HOUR}, _each("crash")),
    "hang": Face("the firmware hangs until the watchdog bites", {"per_hour": _PER_HOUR}, _each("hang")),
    "corrupt_flash": Face(
        "bits of flash flip; then_cut: the power goes after that, so that it is found",
        {
            "area": Key(_word(_AREAS), 2),
            "bits": _of_fault("rot", "bits"),
            "then_cut": Key(_flag, 1),
        },
        _rotten,
    ),
    "worse_model": Face(
        KINDS["effect"].text,
        {key: _of_fault("effect", key) for key in KINDS["effect"].numbers},
        _lasting("effect"),
    ),
    "slow_flash": Face(
        KINDS["slow_flash"].text, {"ms": _of_fault("slow_flash", "ms")}, _lasting("slow_flash")
    ),
    "lost_chunks": Face(
        KINDS["lose"].text, {"ratio": _of_fault("lose", "ratio", is_needed=True)}, _lasting("lose")
    ),
    "corrupt_chunks": Face(
        KINDS["corrupt"].text, {"ratio": _of_fault("corrupt", "ratio", is_needed=True)}, _lasting("corrupt")
    ),
    "lying_clock": Face(
        KINDS["clock"].text,
        {
            "offset_s": _of_fault("clock", "offset_s"),
            "drift_ppm": _of_fault("clock", "drift_ppm"),
            "absent": Key(_flag, 0),
        },
        _lasting("clock"),
    ),
    "flapping_wifi": Face(
        KINDS["wifi"].text,
        {"up_s": _of_fault("wifi", "up_s"), "down_s": _of_fault("wifi", "down_s")},
        _lasting("wifi"),
    ),
    "low_battery": Face(KINDS["battery"].text, {}, _lasting("battery")),
    "low_heap": Face(KINDS["heap"].text, {"free_bytes": _of_fault("heap", "free_bytes")}, _lasting("heap")),
    "drifted_sensor": Face(
        KINDS["sensor"].text,
        {key: _of_fault("sensor", key) for key in ("offset", "gain", "axis")},
        _lasting("sensor"),
    ),
    "crashing_model": Face("any candidate crashes when it is loaded", {}, _lasting("model", hangs=0)),
    "hanging_model": Face("any candidate hangs when it is loaded", {}, _lasting("model", hangs=1)),
}
FAULTS = tuple(FACES)


def faults_text() -> str:
    """Every kind with its keys and what it does, for --help."""
    rows = [f"{name} {{{', '.join(face.keys)}}}" for name, face in FACES.items()]
    width = max(map(len, rows))
    return "\n".join(f"  {row:<{width}}  {face.text}" for row, face in zip(rows, FACES.values(), strict=True))
