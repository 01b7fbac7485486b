"""Faults seeded by hand in named functions of the product; the machine must find each of them.

A mutant replaces one attribute where the product looks it up. `found_by` names what may notice: an invariant
of `invariants.py`, or a part of what a rule asserts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ota import delivery, frozen, rollouts, ticking, waves
from ota.choices import WAVE_TERMINAL, Arm, RolloutState


@dataclass(frozen=True)
class Mutant:
    """A fault. change: makes the replacement from the original."""

    name: str
    owner: Any
    attribute: str
    change: Callable[[Any], Any]
    found_by: tuple[str, ...]

    @property
    def replacement(self) -> Any:
        """What stands in the place of the original."""
        return self.change(getattr(self.owner, self.attribute))


def _offers_while_paused(steps: Any) -> Any:
    more = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED})
    return tuple((more if step is ticking._offer else states, step) for states, step in steps)


def _control_first(assign: Any) -> Any:
    return lambda *given: [replace(row, wave=1) if row.arm == Arm.CONTROL else row for row in assign(*given)]


def _first_pending(_current: Any) -> Any:
    def current(rollout: Any) -> Any:
        left = rollout.waves.exclude(state__in=[*WAVE_TERMINAL, "failed", "soaking"])
        return left.order_by("n").first()

    return current


MUTANTS: tuple[Mutant, ...] = (
    Mutant("the cap is skipped", ticking, "make_offers",
           lambda f: lambda r, p, cap, *, now: f(r, p, 1_000, now=now), ("i16",)),
    Mutant("offers go on while paused", ticking, "_STEPS", _offers_while_paused, ("i9",)),
    Mutant("a pause leaves its offers out", rollouts, "withdraw",
           lambda f: lambda *a, **k: 0, ("left offers out",)),
    Mutant("control is offered with the first wave", frozen, "assign", _control_first, ("i7",)),
    Mutant("a wave opens before the last one passed", waves, "current", _first_pending, ("i8",)),
    Mutant("a counter follows the clock alone", delivery, "next_counter",
           lambda f: lambda version, now, stored=0, reported=0: f(version, now), ("i2", "i13", "i15")),
)  # fmt: skip
