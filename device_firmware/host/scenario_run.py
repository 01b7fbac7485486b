"""Plays a scenario on a running supervisor, and tells what every fault did.

Only the supervisor's control socket is used, so this runs beside any supervisor of the machine.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from device_firmware.host.control import ask
from device_firmware.host.faults import KINDS
from device_firmware.host.scenario import Scenario, Step

LOOK_S = 1.0
TELL_S = 5.0
Say = Callable[[str], None]
Status = dict[str, dict[str, Any]]


@dataclasses.dataclass
class Sent:
    """What became of the single faults of one [[fault]]."""

    devices: set[str] = dataclasses.field(default_factory=set)
    sent: int = 0
    unsent: int = 0
    kinds: set[str] = dataclasses.field(default_factory=set)
    error: str = ""


class ScenarioRun:
    """One run of a scenario with these devices; `drive` returns when its time is over."""

    def __init__(
        self, folder: Path, scenario: Scenario, ids: Sequence[str], *, run_s: float, say: Say
    ) -> None:
        """folder: the supervisor's. run_s: 0 = until interrupted. Raises as `Scenario.steps`."""
        self.scenario = scenario
        self.ids = list(ids)
        self._folder = folder
        self._run_s = run_s
        self._say = say
        self._steps = scenario.steps(self.ids, run_s=run_s)
        self._sent = [Sent() for _ in scenario.rules]
        self._began = 0.0
        self._ended = 0.0
        self._status: Status = {}

    def drive(self, *, is_over: Callable[[], bool] = lambda: False) -> None:
        """Send each fault when it is due and watch, until the run's time or `is_over`, asked every second.

        Raises OSError when the supervisor is gone, and what `is_over` raises.
        """
        self._began = now = time.monotonic()
        left, next_look, next_word = list(self._steps), now, now
        try:
            while not self._run_s or now - self._began < self._run_s:
                while left and left[0].at_s <= now - self._began:
                    self._send(left.pop(0))
                if now >= next_look:
                    if is_over():
                        break
                    self._status, next_look = self._ask_status(), now + LOOK_S
                if now >= next_word:
                    self._say(self._line(now - self._began, len(left)))
                    next_word = now + TELL_S
                due = self._began + left[0].at_s if left else now + LOOK_S
                time.sleep(max(0.01, min(due, next_look) - time.monotonic()))
                now = time.monotonic()
        finally:
            self._ended = time.monotonic()
        self._status = self._ask_status()

    def _ask_status(self) -> Status:
        devices: Status = ask(self._folder, {"do": "status"})["devices"]
        return devices

    def _send(self, step: Step) -> None:
        sent = self._sent[step.rule]
        sent.devices.add(step.device_id)
        sent.kinds.add(step.fault.kind)
        try:
            ask(self._folder, {"do": "fault", "device": step.device_id, **step.fault.record()})
        except RuntimeError as error:  # the device cannot listen just now: it is dying
            sent.unsent += 1
            sent.error = str(error)
        else:
            sent.sent += 1

    def _line(self, at_s: float, left: int) -> str:
        states = Counter(str(one.get("state", "starting")) if one["pid"] else "down" for one in self._mine())
        restarts = sum((Counter(one["restarts"]) for one in self._mine()), Counter[str]())
        said = ", ".join(f"{n} {state}" for state, n in states.most_common())
        again = ", ".join(f"{n} {reason}" for reason, n in restarts.most_common()) or "none"
        return f"{at_s:6.0f} s  {said}; restarts: {again}; faults to come: {left}"

    def _mine(self) -> list[dict[str, Any]]:
        return [self._status[one] for one in self.ids if one in self._status]

    def summary(self) -> dict[str, Any]:
        """What happened, for a machine. A fault's sums are those of the devices it hit, whatever else did."""
        touched = set().union(*(sent.devices for sent in self._sent)) if self._sent else set()
        return {
            "scenario": self.scenario.name,
            "title": self.scenario.title,
            "seed": self.scenario.seed,
            "seconds": round(self._ended - self._began, 1),
            "devices": len(self.ids),
            "devices_with_faults": len(touched),
            "faults": [self._rule_summary(index) for index in range(len(self._sent))],
            "without_faults": self._group(set(self.ids) - touched),
            "all": self._group(set(self.ids)),
        }

    def _rule_summary(self, index: int) -> dict[str, Any]:
        rule, sent = self.scenario.rules[index], self._sent[index]
        group = self._group(sent.devices)
        acted = {kind: count for kind, count in group["acted"].items() if kind in sent.kinds}
        numbers = {key: value for key, value in rule.numbers.items() if value not in (0, None)}
        return {
            "kind": rule.kind,
            "numbers": numbers,
            "devices_hit": sorted(sent.devices),
            "sent": sent.sent,
            "unsent": sent.unsent,
            "error": sent.error,
            **group,
            "acted": acted,
            "is_counted": any(not KINDS[kind].ends_life and kind != "model" for kind in sent.kinds),
        }

    def _group(self, ids: set[str]) -> dict[str, Any]:
        """Sums over some devices."""
        rows = [self._status[one] for one in sorted(ids) if one in self._status]
        ends: Counter[str] = Counter()
        models: Counter[str] = Counter()
        restarts: Counter[str] = Counter()
        acted: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        dropped = 0
        for row in rows:
            ends[f"{row['state']}({row['code']})" if row["pid"] and "state" in row else "down"] += 1
            models[row.get("model") or "none"] += 1
            restarts.update(row["restarts"])
            acted.update(row["acted"])
            seen.update(row["seen"])
            dropped += int(row.get("dropped_chunks", 0))
        return {
            "devices": len(rows),
            "ends": dict(ends),
            "models": dict(models),
            "restarts": dict(restarts),
            "acted": dict(acted),
            "seen": dict(seen),
            "dropped_chunks": dropped,
        }


def table(summary: dict[str, Any]) -> str:
    """The summary for a person: a line for every fault, then what all devices came to."""

    def words(counts: dict[str, int]) -> str:
        return ", ".join(f"{n} {name}" for name, n in sorted(counts.items(), key=lambda x: -x[1])) or "-"

    lines = [
        f"{summary['scenario']}: {summary['devices']} devices, {summary['devices_with_faults']} with faults, "
        f"{summary['seconds']:.0f} s, seed {summary['seed']}",
        f"{'fault':<16} {'devices':>7} {'sent':>5}  what it did; restarts of these devices; how they ended",
    ]
    for row in summary["faults"]:
        did = words(row["acted"]) if row["is_counted"] else "ends a life"
        missed = f" ({row['unsent']} not sent)" if row["unsent"] else ""
        lines.append(
            f"{row['kind']:<16} {len(row['devices_hit']):>7} {row['sent']:>5}{missed}  "
            f"{did}; {words(row['restarts'])}; {words(row['ends'])}"
        )
    for name in ("without_faults", "all"):
        group = summary[name]
        label = name.replace("_", " ")
        lines.append(
            f"{label:<16} {group['devices']:>7}        restarts {words(group['restarts'])}; "
            f"{words(group['ends'])}; running {words(group['models'])}"
        )
    return "\n".join(lines)
