"""Simulated fleets for the gate's benchmark: what pairs of devices show, label by label where it matters.

S2 is the population of rollouts.md section 12. The others add what fleets have: devices whose outcomes hang
together (an intra-class correlation, ICC), seasons that devices share and feel differently, drop-outs, and
devices that break by themselves in either arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """A kind of fleet. Shares in [0, 1].

    device_sd: spread of the devices' own accuracy around .90; icc: if set, accuracies are Beta distributed so
    that two labels of one device correlate by this much. moving: part of that spread which a device's history
    does not know, because it changed since. season: amplitude of the time of day, shared by all devices, each
    of which feels 0.5 to 1.5 of it. silent: share of devices of either arm that send nothing. broken: share
    of either arm that loses 40 points by itself. window, history: labels of a device in the comparison and
    before.
    """

    name: str
    device_sd: float = 0.04
    icc: float | None = None
    moving: float = 0.0
    season: float = 0.0
    silent: float = 0.0
    broken: float = 0.0
    effect_sd: float = 0.01
    window: int = 120
    history: int = 480


POPULATIONS = (
    Population("S2"),
    Population("ICC 0", icc=0.0),
    Population("ICC 0.05", icc=0.05),
    Population("ICC 0.2", icc=0.2),
    Population("ICC 0.05, a tenth of it new", icc=0.05, moving=0.1),
    Population("season of 5 points", season=0.05),
    Population("15 % drop out", silent=0.15),
    Population("all of these", icc=0.05, season=0.05, silent=0.15),
    Population("heavy: 5 % break", broken=0.05),
    Population("few labels (20 / 60)", window=20, history=60),
)


def accuracies(population: Population, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Lasting accuracy of each device, in [0, 1]."""
    if population.icc is None:
        return np.clip(rng.normal(0.90, population.device_sd, shape), 0.0, 1.0)
    if population.icc == 0.0:
        return np.full(shape, 0.90)
    weight = 1.0 / population.icc - 1.0  # Beta(0.9 w, 0.1 w) has intra-class correlation 1 / (w + 1)
    return rng.beta(0.9 * weight, 0.1 * weight, shape)


def differences(
    population: Population, pairs: int, drop: float, runs: int, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """D of each pair and whether it entered, both (runs, pairs); a pair with a silent partner is dropped.

    drop: what the candidate truly loses, on average over devices, a share.
    """
    shape = (runs, pairs)
    hour = rng.uniform(0.0, 2.0 * np.pi, shape)  # both partners are measured in the same window
    changes, entered = [], np.ones(shape, dtype=bool)
    for is_candidate in (False, True):
        lasting = accuracies(population, shape, rng)
        later = lasting
        if population.moving:
            fresh = accuracies(population, shape, rng)
            keep = np.sqrt(1.0 - population.moving)
            later = 0.90 + keep * (lasting - 0.90) + np.sqrt(population.moving) * (fresh - 0.90)
        later = later + rng.normal(-drop if is_candidate else 0.0, population.effect_sd, shape)
        later = later + population.season * np.sin(hour) * rng.uniform(0.5, 1.5, shape)
        if population.broken:
            later = later - 0.40 * (rng.random(shape) < population.broken)
        before = rng.binomial(population.history, lasting) / population.history
        after = rng.binomial(population.window, np.clip(later, 0.0, 1.0)) / population.window
        changes.append(after - before)
        entered &= rng.random(shape) >= population.silent
    return np.where(entered, changes[0] - changes[1], 0.0), entered


@dataclass(frozen=True)
class Looks:
    """Labels of two arms at several looks, right answers of each device: int, (runs, devices, looks).

    right0: control, right1: candidate; labels: of a device at one look. history0, history1: shares over the
    history.
    """

    right0: NDArray[np.int64]
    right1: NDArray[np.int64]
    labels: int
    history0: Floats
    history1: Floats


def looks(
    population: Population,
    devices: int,
    drop: float,
    runs: int,
    rng: np.random.Generator,
    *,
    n_looks: int = 24,
    labels: int = 20,
) -> Looks:
    """S2 as the tests with a fixed horizon see it: `n_looks` looks of `labels` labels a device."""
    arms = []
    for is_candidate in (False, True):
        lasting = accuracies(population, (runs, devices), rng)
        effect = rng.normal(-drop if is_candidate else 0.0, population.effect_sd, (runs, devices))
        later = np.clip(lasting + effect, 0.0, 1.0)[..., None]
        right = rng.binomial(labels, np.broadcast_to(later, (runs, devices, n_looks)))
        arms.append((right, rng.binomial(population.history, lasting) / population.history))
    return Looks(arms[0][0], arms[1][0], labels, arms[0][1], arms[1][1])
