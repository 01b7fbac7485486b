"""How many devices and hours a plan needs, found with the very processes that will judge it.

Pairs are simulated with normal differences of a given spread, seeded, so the same question has the same
answer: an expectation for planning, no promise. What a gate guarantees does not rest on it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ota.gates.quality import least_pairs, log_process
from ota.plan import ALPHA, Metric, Plan

POWER = 0.8
"""Share of rollouts in which the least detectable drop halts."""
SURE = 0.95
MOST_PAIRS = 1_000
_RUNS = 1_000
_GRID = 0.005


@dataclass(frozen=True)
class Detectable:
    """What a cohort can show.

    pairs: pairs it has at most. drop: least true drop (share, 0..1) that halts in 80 % of rollouts with these
    pairs, None when even 0.5 is not caught that often. least_pairs: pairs that pass the promotion proof when
    no pair shows any difference. pass_pairs: pairs with which a candidate that is just as good passes in 95 %
    of rollouts, None when 1,000 do not. power and pair_sd: what was assumed.
    """

    pairs: int
    drop: float | None
    least_pairs: int | None
    pass_pairs: int | None
    power: float
    pair_sd: float

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Size:
    """What one length of the comparison window asks for.

    window_h: hours each pair is compared. outcomes: labels of a device in that time. pair_sd: expected spread
    of a pair. halt_pairs, pass_pairs: devices per arm that halt a true drop, and pass an equal candidate,
    with the wanted probability; None when 1,000 do not. hours: from the offer to the last matured pair at
    most.
    """

    window_h: float
    outcomes: int
    pair_sd: float
    halt_pairs: int | None
    pass_pairs: int | None
    hours: float

    @property
    def pairs(self) -> int | None:
        """Devices per arm that do both."""
        if self.halt_pairs is None or self.pass_pairs is None:
            return None
        return max(self.halt_pairs, self.pass_pairs)

    def to_json(self) -> dict[str, Any]:
        """The fields and `pairs` as a JSON object."""
        return asdict(self) | {"pairs": self.pairs}


def least_detectable(plan: Plan, n_control: int, *, parts: int = 1) -> Detectable | None:
    """Least drop that `n_control` pairs can show under this plan; None without a quality gate.

    Of several metrics the one that sees least decides. Metric `reporting` is left out: it is the same on
    nearly every device, so the spread of the others says nothing about it. parts: processes each metric is
    split into, one a device class; then `n_control` is the pairs of the class that has fewest.
    """
    if not plan.is_gated or n_control < 1:
        return None
    judged = [index for index, metric in enumerate(plan.metrics) if metric.metric != "reporting"]
    judged = judged or list(range(len(plan.metrics)))
    alphas = plan.alphas(0, 1, parts=parts)
    pairs = min(n_control, MOST_PAIRS)
    drops = [
        _least_drop(pairs, alphas[index], plan.metrics[index].halt_margin, plan.pair_sd) for index in judged
    ]
    least = [least_pairs(metric.promote_margin, ALPHA) for metric in plan.metrics]
    passing = [_pass_of(plan.metrics[index], plan) for index in judged]
    return Detectable(
        pairs=n_control,
        drop=None if None in drops else max(drop for drop in drops if drop is not None),
        least_pairs=max((pairs for pairs in least if pairs is not None), default=None),
        pass_pairs=None if None in passing else max(pairs for pairs in passing if pairs is not None),
        power=POWER,
        pair_sd=plan.pair_sd,
    )


def pair_spread(accuracy: float, outcomes: float, history: float, effect_sd: float) -> float:
    """Expected standard deviation of a pair's difference, a share.

    accuracy: of a typical device. outcomes, history: labels a device gives in the window and before it.
    effect_sd: how much devices differ in what the new model changes for them. Labels of one device are taken
    as independent given its own accuracy, which its history removes.
    """
    noise = accuracy * (1.0 - accuracy)
    return math.sqrt(2.0 * (noise / max(1.0, outcomes) + noise / max(1.0, history) + effect_sd**2))


@lru_cache(maxsize=256)
def halt_pairs(
    drop: float, pair_sd: float, *, alpha: float, power: float = SURE, halt_margin: float = 0.0
) -> int | None:
    """Least pairs with which a true drop halts with this probability; None when 1,000 do not."""
    path = log_process(np.clip(_noise(pair_sd) + drop, -2.0, 2.0) - halt_margin)
    return _quantile(path >= math.log(1.0 / alpha), power)


@lru_cache(maxsize=256)
def pass_pairs(promote_margin: float, pair_sd: float, *, power: float = SURE, least: int = 1) -> int | None:
    """Least pairs with which an equal candidate passes with this probability; None when 1,000 do not.

    least: pairs that must have matured; later pairs may still bring the proof, so every look counts.
    """
    path = log_process(promote_margin - np.clip(_noise(pair_sd), -2.0, 2.0))
    is_over = path >= math.log(1.0 / ALPHA)
    is_over[:, : least - 1] = False
    return _quantile(is_over, power)


def sizes_for(
    drop: float,
    *,
    promote_margin: float,
    per_hour: float,
    accuracy: float = 0.9,
    effect_sd: float = 0.01,
    history_h: float = 168.0,
    settle_s: float = 600.0,
    confirm_s: float = 1_800.0,
    max_in_flight: int = 20,
    power: float = SURE,
    alpha: float | None = None,
    windows_h: tuple[float, ...] = (1.0, 3.0, 6.0, 12.0, 24.0),
) -> list[Size]:
    """Devices per arm and hours for several lengths of the comparison window.

    per_hour: labels a device gives in an hour. confirm_s: from an offer to the device's confirm.
    max_in_flight: devices under way at once in the first wave. alpha: false-halt budget of the metric; None
    is the production one, of a plan with one metric. Other arguments as above.
    """
    budget = alpha if alpha is not None else production_alpha(promote_margin)
    found = []
    for window_h in windows_h:
        outcomes = per_hour * window_h
        spread = round(pair_spread(accuracy, outcomes, per_hour * history_h, effect_sd), 4)
        halt = halt_pairs(drop, spread, alpha=budget, power=power)
        passing = pass_pairs(promote_margin, spread, power=power, least=20)
        devices = max(halt or MOST_PAIRS, passing or MOST_PAIRS)
        rounds = math.ceil(devices / max_in_flight)
        hours = (rounds * confirm_s + settle_s) / 3600.0 + window_h * 1.1
        found.append(Size(window_h, round(outcomes), spread, halt, passing, round(hours, 1)))
    return found


def production_alpha(promote_margin: float = 0.03) -> float:
    """False-halt budget of accuracy in the first gated wave of a plan with that one metric."""
    plan = Plan.parse(
        {
            "waves": [{"count": 20}, {"percent": 100}],
            "metrics": [{"metric": "accuracy", "kind": "proxy", "promote_margin": promote_margin}],
            "accept_proxy": True,
        }
    )
    return plan.alphas(0, 1)[0]


def _pass_of(metric: Metric, plan: Plan) -> int | None:
    return pass_pairs(metric.promote_margin, plan.pair_sd, least=plan.min_pairs)


@lru_cache(maxsize=8)
def _noise(pair_sd: float) -> NDArray[np.float64]:
    """float64, (runs, 1,000 pairs): pair differences of equal arms."""
    return np.random.default_rng(1).normal(0.0, pair_sd, (_RUNS, MOST_PAIRS))


def _quantile(is_over: NDArray[np.bool_], power: float) -> int | None:
    """The pair by which a share `power` of the runs (rows) has crossed."""
    first = np.where(is_over.any(axis=1), is_over.argmax(axis=1) + 1, MOST_PAIRS + 1)
    needed = int(np.sort(first)[math.ceil(power * len(first)) - 1])
    return needed if needed <= MOST_PAIRS else None


@lru_cache(maxsize=64)
def _least_drop(pairs: int, alpha: float, halt_margin: float, pair_sd: float) -> float | None:
    noise = _noise(pair_sd)[:400, :pairs]
    limit = math.log(1.0 / alpha)
    low, high = 0, 100  # half percentage points
    while low < high:
        middle = (low + high) // 2
        differences = np.clip(noise + middle * _GRID, -2.0, 2.0)
        caught = (log_process(differences - halt_margin).max(axis=-1) >= limit).mean()
        low, high = (low, middle) if caught >= POWER else (middle + 1, high)
    return low * _GRID if low < 100 else None
