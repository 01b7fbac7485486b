"""A plan made small and fast, and what was changed said in words: nothing is scaled silently.

Clocks are divided by the speed, down to what virtual devices need. Cohort sizes shrink with the fleet.
Margins, weights, failure ratios and the false-halt budget stay as they are: they are what is rehearsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.rehearsal.errors import RehearsalError
from ota.gates.quality import least_pairs
from ota.plan import ALPHA, NOWHERE, PREVIOUS, Plan

DEVICES_MAX = 500
CLOCKS: dict[str, float] = {
    "settle_s": 2,
    "window_s": 10,
    "history_s": 12,
    "soak_s": 0,
    "max_soak_s": 60,
    "reach_deadline_s": 60,
    "offer_ttl_s": 300,
    "trial_deadline_s": 120,
    "rollback_deadline_s": 120,
    "retry_base_s": 2,
}
"""Clock -> least seconds that make sense for a virtual device on a busy machine."""
NOT_REHEARSED: dict[str, tuple[Any, str]] = {
    "requires_approval": (False, "nobody approves a rehearsal"),
    "start_at": (None, "it starts at once"),
    "windows": ([], "virtual devices wait for no window"),
    "late": ("skip", "nobody joins"),
    "supersede": (False, "nothing else runs there"),
}
"""Part of a plan that says when and after whom it may run -> what a rehearsal has instead, and why."""
COHORT_SHARE = 0.4
"""Most of the virtual devices that the first gated wave takes, and as many that its control cohort does."""
PAIR_SD = 0.12
"""Spread of a pair's difference over windows of seconds (planning only: no gate uses it)."""


@dataclass(frozen=True)
class Small:
    """plan: as REST takes it. devices: class -> how many. notes: every change, a line each."""

    plan: dict[str, Any]
    devices: dict[str, int]
    notes: tuple[str, ...]


def scale(plan: Plan, classes: Mapping[str, int], *, devices: int, speed: float) -> Small:
    """The plan for `devices` virtual devices with clocks `speed` times as fast.

    classes: targeted devices a class. Raises RehearsalError `validation` for a number out of range,
    `too_small` when so few devices cannot hold the cohorts that a quality gate needs.
    """
    if not 2 <= devices <= DEVICES_MAX or devices < len(classes):
        least = max(2, len(classes))
        raise RehearsalError("validation", f"--devices takes {least} to {DEVICES_MAX}, not {devices}")
    if not 1 <= speed <= 100_000:
        raise RehearsalError("validation", f"--speed takes 1 to 100,000, not {speed:g}")
    total = sum(classes.values())
    small = plan.to_json()
    notes = [f"devices: {total:,} -> {devices} virtual ones ({_words(shares(classes, devices))})"]
    for name, floor_s in CLOCKS.items():
        was = float(small[name])
        small[name] = was if was <= floor_s else max(floor_s, round(was / speed, 3))
        if small[name] != was:
            floor = ", the least that virtual devices need" if small[name] == floor_s else ""
            notes.append(f"{name}: {was:g} s -> {small[name]:g} s (1/{was / small[name]:.4g}{floor})")
    for name, (none, words) in NOT_REHEARSED.items():
        if small[name] != none:
            small[name] = none
            notes.append(f"{name}: left out, {words}")
    if small["rollback_to"] not in (PREVIOUS, NOWHERE):
        small["rollback_to"] = PREVIOUS
        notes.append(f"rollback_to: {PREVIOUS}, the named version is not in the copy")
    small["timers"] = {state: max(60.0, seconds / speed) for state, seconds in plan.timers.items()}
    least_soak = small["settle_s"] + small["window_s"]
    if plan.is_gated and small["max_soak_s"] < 3 * least_soak + 60:
        small["max_soak_s"] = 3 * least_soak + 60
        notes.append(f"max_soak_s: {small['max_soak_s']:g} s, room for three comparison windows")
    _cohorts(small, plan, total, devices, notes)
    if plan.is_gated and plan.pair_sd < PAIR_SD:
        small["pair_sd"] = PAIR_SD
        notes.append(
            f"pair_sd: {plan.pair_sd:g} -> {PAIR_SD:g} (planning figure: short windows scatter more)"
        )
    return Small(small, shares(classes, devices), tuple(notes))


def shares(classes: Mapping[str, int], devices: int) -> dict[str, int]:
    """`devices` divided among the classes by their sizes, at least one each; largest remainders first."""
    total = sum(classes.values())
    exact = {name: max(1.0, devices * count / total) for name, count in classes.items()}
    found = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (found[name] - exact[name], name))
    for turn in range(devices - sum(found.values())):
        found[by_remainder[turn % len(by_remainder)]] += 1
    while sum(found.values()) > devices:
        found[max(found, key=lambda name: found[name])] -= 1
    return found


def _cohorts(small: dict[str, Any], plan: Plan, total: int, devices: int, notes: list[str]) -> None:
    """Waves and control cohort for fewer devices; a gate's cohorts keep the pairs it cannot do without."""
    least = _least_pairs(plan) if plan.is_gated else 0
    if least * 2 > devices:
        raise RehearsalError(
            "too_small",
            f"the gates of this plan need {least} pairs, so {2 * least} devices or more: raise --devices",
        )
    pairs = max(least, min(plan.min_pairs, int(devices * COHORT_SHARE))) if plan.is_gated else 0
    if plan.is_gated:
        if plan.min_pairs > pairs:
            small["min_pairs"] = pairs
            notes.append(f"min_pairs: {plan.min_pairs} -> {pairs}")
        control = min(devices - pairs, max(pairs, round(plan.control.of(total) * devices / total)))
        small["control"] = {"count": control}
        notes.append(f"control: {plan.control.of(total)} -> {control}")
    room = devices - small["control"]["count"] if plan.is_gated else devices - 1
    waves: list[dict[str, Any]] = []
    before = 0
    for n, wave in enumerate(plan.waves[:-1], start=1):
        real = wave.of(total)
        size = min(room, max(round(real * devices / total), before + max(1, pairs)))
        if size - before < max(1, pairs):
            notes.append(f"wave {n}: left out, too few devices for another step")
            continue
        waves.append({"count": size})
        notes.append(f"wave {n}: up to {real:,} devices -> {size}")
        before = size
    small["waves"] = [*waves, {"percent": 100}]


def _least_pairs(plan: Plan) -> int:
    """Least pairs with which every promotion proof can pass when no pair shows a difference."""
    return max(5, *(least_pairs(metric.promote_margin, ALPHA) or 0 for metric in plan.metrics))


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
