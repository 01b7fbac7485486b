"""Faults seeded by hand in named functions of the product; the machine must find each of them.

A mutant replaces one attribute where the product looks it up. `found_by` names what may notice: an invariant
of `invariants.py`, or words of what a rule asserts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fleet.accounts.audit import person_of
from ota import (
    approval,
    delivery,
    evidence,
    frozen,
    offers,
    rollback_target,
    rollouts,
    ticking,
    transitions,
    waves,
)
from ota.choices import WAVE_TERMINAL, Arm, RolloutState


@dataclass(frozen=True)
class Mutant:
    """A fault. change: makes the replacement from the original. rules: those that the machine plays, for what
    lies in a corner that all of them together seldom reach; () is all. is_long: for the long form
    only (FLEET_MACHINE_MUTANTS=all): each takes half a minute.

    Four faults were planted in vain, and are no part of this: a report that may lead to any state (what moves
    a job refuses it a second time, so nothing comes of it), a verdict that passes while it is open and a
    rollout that begins in more than one transaction (20 examples seldom come to the moment), and a step of a
    tick without its transaction (Django refuses the first lock in it).
    """

    name: str
    owner: Any
    attribute: str
    change: Callable[[Any], Any]
    found_by: tuple[str, ...]
    rules: tuple[str, ...] = ()
    is_long: bool = False

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


def _unfenced(take: Any) -> Any:
    def taken(rollout_id: Any, now: Any) -> Any:
        ticking.Rollout.objects.filter(pk=rollout_id).update(lease_until=None)
        return take(rollout_id, now)

    return taken


def _retries_for_ever(retry_due: Any) -> Any:
    def due(rollout: Any, *, now: Any) -> int:
        jobs = offers.install_jobs(rollout).filter(retry_at__lte=now)
        was = dict(jobs.values_list("pk", "retry_at"))
        made = retry_due(rollout, now=now)
        for pk, at in was.items():
            offers.Job.objects.filter(pk=pk).update(retry_at=at)
        return int(made)

    return due


_GOES_ON = ("tick", "everyone_goes_on", "wait")

MUTANTS: tuple[Mutant, ...] = (
    Mutant("the cap is skipped", ticking, "make_offers",
           lambda f: lambda r, p, cap, *, now: f(r, p, 1_000, now=now), ("i16",)),
    Mutant("offers go on while paused", ticking, "_STEPS", _offers_while_paused, ("i9",),
           (*_GOES_ON, "a_pause")),
    Mutant("a pause leaves its offers out", rollouts, "withdraw",
           lambda f: lambda *a, **k: 0, ("left offers out",)),
    Mutant("control is offered with the first wave", frozen, "assign", _control_first, ("i7",)),
    Mutant("a wave opens before the last one passed", waves, "current", _first_pending, ("i8",)),
    Mutant("a counter follows the clock alone", delivery, "next_counter",
           lambda f: lambda version, now, stored=0, reported=0: f(version, now), ("i2", "i13", "i15")),
    Mutant("nobody is asked for an approval", approval, "needed", lambda f: lambda plan, eligible: [],
           ("i10",), ("a_plan_of_two_authors_is_approved", "tick")),
    Mutant("only who made a plan is its author", approval, "authors",
           lambda f: lambda rollout: {person_of(rollout.created_by)}, ("i10",),
           ("a_plan_of_two_authors_is_approved", "tick")),
    Mutant("a job's move leaves no audit row", transitions, "_record",
           lambda f: lambda actor, kind, *a: None if kind == "job" else f(actor, kind, *a), ("i4",),
           (*_GOES_ON, "device_will_fail"), is_long=True),
    Mutant("a revert names the candidate", rollback_target, "goals",
           lambda f: lambda rollout, ids: dict.fromkeys(ids, rollout.manifest_id), ("i12", "i3"),
           (*_GOES_ON, "device_will_fail", "person"), is_long=True),
    Mutant("a retry stays due", ticking, "retry_due", _retries_for_ever, ("i5", "stuck: "),
           (*_GOES_ON, "device_will_fail"), is_long=True),
    Mutant("two workers hold one rollout", ticking, "_take", _unfenced, ("two workers hold",),
           (*_GOES_ON, "worker_dies_in_a_tick"), is_long=True),
    Mutant("evidence is stored with other inputs", evidence, "digest",
           lambda f: lambda inputs: f({**inputs, "wave": 0}), ("i17",), _GOES_ON, is_long=True),
)  # fmt: skip
