"""Scenarios: which virtual devices suffer which faults when. A TOML file, checked whole before it is run.

    name = "attic"              # letters, digits, -; devices are called attic-0000, attic-0001, ..
    devices = 20
    class = "host-a"
    seed = 7                    # everything random follows from it
    duration_s = 600            # 0 = until somebody stops it

    [[fault]]
    kind = "power_cut"          # one of FAULTS
    share = 0.1                 # of the devices; or count = 2, or names = ["attic-0003"]
    start_s = 30                # since the start (0)
    duration_s = 300            # 0 = until the end
    seed = 3                    # its own, so that other faults can change around it
    per_hour = 60               # what the kind takes

Unknown keys are refused, so that a mistyped one does not silently do nothing.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from device_firmware.host.faults import FOREVER_S, Fault
from device_firmware.host.scenario_kinds import FACES, FAULTS, STEPS_MAX, Rule, number_in

FILE_BYTES_MAX = 65_536
FAULTS_MAX = 64
DEVICES_MAX = 2000
SCENARIOS = Path(__file__).parent / "scenarios"
DEFAULT = SCENARIOS / "field-failures.toml"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,26}")  # it begins the device ids
_CLASS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class ScenarioError(Exception):
    """A scenario file cannot be used.

    code: `unreadable`, `syntax` (text has line and column), `unknown_key`, `missing_key`, `bad_value`,
    `too_many`. where: the key, such as `fault[2].per_hour`; empty for the file as a whole.
    """

    def __init__(self, code: str, where: str, text: str) -> None:
        super().__init__(f"{code}: {where + ': ' if where else ''}{text}")
        self.code = code
        self.where = where


@dataclasses.dataclass(frozen=True)
class Step:
    """At `at_s` seconds of the run, one fault for one device; rule: which [[fault]] it comes from."""

    at_s: float
    device_id: str
    fault: Fault
    rule: int


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A checked scenario."""

    name: str
    title: str
    devices: int
    device_class: str
    seed: int
    duration_s: float
    rules: tuple[Rule, ...]

    def changed(self, **values: Any) -> Scenario:
        """The scenario with other numbers; None keeps the file's. Raises ScenarioError `bad_value`."""
        given = {key: value for key, value in values.items() if value is not None}
        for key, check in _CHANGEABLE.items():
            if key in given:
                try:
                    check(key, given[key])
                except ValueError as error:
                    raise ScenarioError("bad_value", key, str(error).partition(": ")[2]) from error
        return dataclasses.replace(self, **given)

    def steps(self, ids: Sequence[str], *, run_s: float | None = None) -> list[Step]:
        """Every fault of a run with these devices, by time; the same for the same seed and devices.

        run_s: how long the run lasts, by default `duration_s`; an endless run gets the faults of a day.
        Raises ScenarioError `bad_value` for a name that no device has, `too_many`.
        """
        end_s = (self.duration_s if run_s is None else run_s) or 86_400.0
        steps: list[Step] = []
        for index, rule in enumerate(self.rules):
            seed = f"{self.seed} {index}" if rule.seed is None else f"own {rule.seed}"
            luck = random.Random(seed)  # noqa: S311 - repeatable, not secret
            strangers = sorted(set(rule.names) - set(ids))
            if strangers:
                raise ScenarioError("bad_value", f"fault[{index}].names", f"no device is {strangers[0]}")
            last_s = min(end_s, rule.start_s + (rule.duration_s or FOREVER_S))
            for device_id in rule.members(ids, luck):
                own = random.Random(f"{seed} {device_id}")  # noqa: S311
                made = FACES[rule.kind].make(rule, last_s, own)
                steps += [Step(at, device_id, fault, index) for at, fault in made if at < end_s]
                if len(steps) > STEPS_MAX:
                    raise ScenarioError("too_many", f"fault[{index}]", f"over {STEPS_MAX:,} single faults")
        return sorted(steps, key=lambda step: (step.at_s, step.rule, step.device_id))


_CHANGEABLE: Mapping[str, Callable[[str, object], float]] = {
    "devices": number_in(1, DEVICES_MAX, is_whole=True),
    "duration_s": number_in(0, 30 * 86_400),
    "seed": number_in(0, 2**63 - 1, is_whole=True),
}


def read(path: Path) -> Scenario:
    """Read and check a scenario file. Raises ScenarioError (all its codes)."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise ScenarioError("too_many", "", f"{path.name} is {size:,} bytes, at most {FILE_BYTES_MAX:,}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError("unreadable", "", f"{path}: {error}") from error
    return parse(text)


def parse(text: str) -> Scenario:
    """Check the text of a scenario. Raises ScenarioError."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ScenarioError("syntax", "", str(error)) from error
    top = _Table("", raw, ("name", "title", "devices", "class", "seed", "duration_s", "fault"))
    faults = raw.get("fault", [])
    if not isinstance(faults, list) or any(not isinstance(item, dict) for item in faults):
        raise ScenarioError("bad_value", "fault", "each fault is a [[fault]] table")
    if len(faults) > FAULTS_MAX:
        raise ScenarioError("too_many", "fault", f"{len(faults)} faults, at most {FAULTS_MAX}")
    return Scenario(
        name=top.text("name", pattern=_NAME),
        title=top.text("title", default=""),
        devices=int(top.number("devices", 1, DEVICES_MAX, is_whole=True)),
        device_class=top.text("class", default="host-a", pattern=_CLASS),
        seed=int(top.number("seed", 0, 2**63 - 1, is_whole=True, default=1)),
        duration_s=top.number("duration_s", 0, 30 * 86_400, default=0),
        rules=tuple(_rule(index, item) for index, item in enumerate(faults)),
    )


_WHOM = ("share", "count", "names")


def _rule(index: int, raw: dict[str, Any]) -> Rule:
    where = f"fault[{index}]"
    kind = raw.get("kind")
    if kind is None:
        raise ScenarioError("missing_key", f"{where}.kind", f"one of {', '.join(FAULTS)}")
    if not isinstance(kind, str) or kind not in FACES:
        raise ScenarioError("bad_value", f"{where}.kind", f"one of {', '.join(FAULTS)}, not {kind!r}")
    keys = FACES[kind].keys
    table = _Table(where, raw, ("kind", *_WHOM, "start_s", "duration_s", "seed", *keys))
    given = [key for key in _WHOM if key in raw]
    if len(given) != 1:
        code = "missing_key" if not given else "bad_value"
        raise ScenarioError(code, f"{where}.{(given or ['share'])[-1]}", "give one of share, count, names")
    numbers = {}
    for key, rule in keys.items():
        if key in raw:
            numbers[key] = table.checked(key, rule.check)
        elif rule.is_needed:
            raise ScenarioError("missing_key", f"{where}.{key}", f"{kind} needs it")
        else:
            numbers[key] = rule.default
    if kind == "power_cut" and numbers["at_op"] and (numbers["per_hour"] or numbers["tear"] < 0):
        raise ScenarioError("bad_value", f"{where}.at_op", "goes with neither per_hour nor tear any")
    return Rule(
        kind=kind,
        start_s=table.number("start_s", 0, 30 * 86_400, default=0),
        duration_s=table.number("duration_s", 0, 30 * 86_400, default=0),
        share=table.number("share", 0, 1, default=0),
        count=int(table.number("count", 1, DEVICES_MAX, is_whole=True, default=0)),
        names=table.names("names"),
        seed=int(table.number("seed", 0, 2**63 - 1, is_whole=True)) if "seed" in raw else None,
        numbers=numbers,
    )


class _Table:
    """A TOML table being read: refuses keys that it does not know."""

    def __init__(self, where: str, raw: dict[str, Any], known: Sequence[str]) -> None:
        self._where = where
        self._raw = raw
        for key in raw:
            if key not in known:
                raise ScenarioError("unknown_key", self._path(key), f"known here: {', '.join(known)}")

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def checked(self, key: str, check: Callable[[str, object], Any]) -> Any:
        """A value that `check` accepts."""
        try:
            return check(key, self._raw[key])
        except ValueError as error:
            raise ScenarioError("bad_value", self._path(key), str(error).partition(": ")[2]) from error

    def number(
        self, key: str, least: float, most: float, *, is_whole: bool = False, default: float = math.nan
    ) -> float:
        """A number in its range; without a default it is needed."""
        if key not in self._raw:
            if math.isnan(default):
                raise ScenarioError("missing_key", self._path(key), "is needed")
            return default
        return float(self.checked(key, number_in(least, most, is_whole=is_whole)))

    def text(self, key: str, *, default: str | None = None, pattern: re.Pattern[str] | None = None) -> str:
        """A text of at most 200 characters."""
        value = self._raw.get(key, default)
        if value is None:
            raise ScenarioError("missing_key", self._path(key), "is needed")
        if not isinstance(value, str) or len(value) > 200 or (pattern and not pattern.fullmatch(value)):
            raise ScenarioError("bad_value", self._path(key), f"{value!r} is no {key}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Device ids, each once."""
        value = self._raw.get(key, [])
        is_list = isinstance(value, list) and (bool(value) or key not in self._raw)
        if not is_list or any(not isinstance(one, str) or not _DEVICE_ID.fullmatch(one) for one in value):
            raise ScenarioError("bad_value", self._path(key), "a list of device ids, at least one")
        if len(set(value)) != len(value):
            raise ScenarioError("bad_value", self._path(key), "a device is named twice")
        return tuple(value)
