"""The plan of a rollout: waves, control cohort, gates and timers, parsed once into a frozen dataclass.

What a person leaves out gets the default printed here; what contradicts itself is refused with a code and the
name of the field, before a row is written. Times are seconds, so that a demonstration can say 5 s and print
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from fleet.mqtt.topics import is_device_id
from ota.errors import OtaError
from ota.gates.catalogue import METRICS, measure_of
from ota.gates.quality import least_pairs
from ota.gates.reporting import WEIGHT as REPORTING_WEIGHT

ALPHA = 0.05
"""False-halt budget of a rollout, and error of each promotion proof."""
MAX_WAVES = 20
FIRST_SHARE = 0.5
"""Part of the false-halt budget that the first gated wave gets; the others share the rest equally."""
MAX_METRICS = 6
MAX_NAMED = 1_000
"""Most devices that a wave may name; a larger first step is a group and a count."""
DAY_S = 86_400
PREVIOUS, NOWHERE = "previous", "none"
"""`rollback_to`: what each device ran at the start; no way back, for a reason. Else a manifest's digest."""
TIMERS: dict[str, float] = {
    "offered": 900,
    "accepted": 600,
    "downloading": 900,
    "downloading_total": DAY_S,
    "verifying": 300,
    "staged": 3_600,
    "cancelling": 900,
    "deferred": 7 * DAY_S,
}
"""Longest time a job may stay in a state without news, by state; `trial` is `trial_deadline_s`, and
`downloading_total` a download in all, since its offer.
"""


class PlanError(OtaError):
    """A plan that cannot run. field: the part of the plan that is wrong, as `waves[1].percent`.

    Codes: `validation`, `alpha_split` (weights do not add up to 1), `gate_unreachable` (a gate could never
    pass), `empty_target`, `no_baseline` (quality gates where nothing runs yet), `rollback_unavailable`.
    """

    def __init__(self, code: str, field: str, text: str, fix: str = "") -> None:
        super().__init__(code, text, fix)
        self.field = field


@dataclass(frozen=True)
class Size:
    """How large a wave is: a count, a percentage, or its devices by name. Exactly one is set."""

    count: int | None = None
    percent: float | None = None
    named: tuple[str, ...] = ()

    def of(self, total: int) -> int:
        """Devices this means out of `total`, rounded half up, never more than `total`."""
        if self.named:
            return min(len(self.named), total)
        if self.count is not None:
            return min(self.count, total)
        return min(total, math.floor(total * (self.percent or 0.0) / 100.0 + 0.5))

    def to_json(self) -> dict[str, Any]:
        """`{"count": n}`, `{"percent": p}` or `{"named": [id, ...]}`."""
        if self.named:
            return {"named": list(self.named)}
        return {"count": self.count} if self.count is not None else {"percent": self.percent or 0.0}


@dataclass(frozen=True)
class Metric:
    """One quality gate. Margins are shares in [0, 1]; weight is its part of the false-halt budget."""

    metric: str
    kind: str = ""
    promote_margin: float = 0.03
    halt_margin: float = 0.0
    weight: float = 1.0

    @property
    def key(self) -> str:
        """`accuracy:proxy`, `anomaly`: how baselines, evidence and rows name it."""
        return f"{self.metric}:{self.kind}" if self.kind else self.metric


@dataclass(frozen=True)
class Plan:
    """How a rollout goes onto the fleet; defaults are the production ones.

    waves: cumulative sizes of the frozen set, the last one takes everybody in, control too; a wave of named
    devices is not randomised and has hard gates only. control: devices kept on the baseline until then.
    max_in_flight: jobs between offer and end until the first gated wave passed, max_in_flight_later after
    it. min_reach: share of the reachable devices that must have confirmed. soak_s, max_soak_s: least and
    longest time of observation. offer_ttl_s: no trial begins later than this after its offer. settle_s,
    window_s: the comparison window of a pair starts settle_s after the wave device confirmed and lasts
    window_s. min_pairs: pairs that must have matured before a PASS. r_max_*: highest failure ratio per
    class. r_prove: failure ratio that must be proven not to be exceeded before a wave passes, None demands
    no proof. latency_budget_us: of one inference, None takes the manifest's. by_class: every metric is
    compared in each device class apart, with its part of the budget. pair_sd: expected spread of a pair's
    difference, for planning only: no gate uses it. supersede: the start ends live rollouts of the slot that
    hold some of its devices, instead of leaving these out. rollback_to: `previous`, the digest (hex) of a
    manifest, or `none` with rollback_reason: why there is no way back. history_s: how far back a device's own
    baseline reaches.
    """

    waves: tuple[Size, ...]
    control: Size = field(default_factory=lambda: Size(percent=5.0))
    metrics: tuple[Metric, ...] = ()
    max_in_flight: int = 20
    max_in_flight_later: int = 500
    min_reach: float = 0.95
    reach_deadline_s: float = DAY_S
    soak_s: float = 1_800
    max_soak_s: float = 7 * DAY_S
    offer_ttl_s: float = DAY_S
    trial_deadline_s: float = 1_800
    rollback_deadline_s: float = DAY_S
    min_pairs: int = 20
    settle_s: float = 600
    window_s: float = 6 * 3_600
    history_s: float = 7 * DAY_S
    accept_proxy: bool = False
    r_max_model: float = 0.10
    r_max_delivery: float = 0.20
    r_max_compat: float = 0.02
    r_prove: float | None = None
    latency_budget_us: int | None = None
    by_class: bool = False
    max_attempts: int = 3
    retry_base_s: float = 300
    on_fail: str = "rollback"
    on_inconclusive: str = "halt"
    supersede: bool = False
    rollback_to: str = PREVIOUS
    rollback_reason: str = ""
    pair_sd: float = 0.045
    timers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: Any) -> Plan:
        """Read a plan as JSON gives it. Raises PlanError naming the field that is wrong."""
        if not isinstance(data, Mapping):
            raise PlanError("validation", "plan", "a plan is an object")
        known = {item.name for item in fields(cls)}
        for name in data:
            if name not in known:
                raise PlanError("validation", str(name), f"a plan has no field {str(name)[:40]!r}")
        values: dict[str, Any] = {"waves": _waves(data.get("waves"))}
        values["metrics"] = _with_reporting(_metrics(data.get("metrics", ())))
        if "control" in data:
            values["control"] = _size(data["control"], "control", least=0)
        elif not values["metrics"]:
            values["control"] = Size(count=0)  # nothing would be compared with it
        for name, (least, most, whole) in _NUMBERS.items():
            if name in data and not (name in _OPTIONAL and data[name] is None):
                values[name] = _number(data[name], name, least, most, whole=whole)
        for name, options in _WORDS.items():
            if name in data:
                values[name] = _word(data[name], name, options)
        for name in ("accept_proxy", "by_class", "supersede"):
            if name in data:
                if not isinstance(data[name], bool):
                    raise PlanError("validation", name, f"{name} is true or false")
                values[name] = data[name]
        values |= _way_back(data)
        if "timers" in data:
            values["timers"] = _timers(data["timers"])
        plan = cls(**values)
        plan._check()
        return plan

    def to_json(self) -> dict[str, Any]:
        """Every field, defaults included: what is stored is what runs. `parse` reads it back unchanged."""
        data = asdict(self)
        data["waves"] = [size.to_json() for size in self.waves]
        data["control"] = self.control.to_json()
        data["metrics"] = [asdict(metric) for metric in self.metrics]
        data["timers"] = dict(self.timers)
        return data

    @property
    def is_gated(self) -> bool:
        """True when a wave before the last is compared with a control cohort: one that is randomised."""
        return bool(self.metrics) and any(not wave.named for wave in self.waves[:-1])

    @property
    def named(self) -> dict[str, int]:
        """Device id -> number of the wave (1, 2, ...) that names it."""
        return {device_id: n for n, wave in enumerate(self.waves, start=1) for device_id in wave.named}

    @property
    def grace_s(self) -> float:
        """Time after a comparison window in which its telemetry may still arrive."""
        return min(300.0, max(2.0, self.window_s * 0.1))

    def timer_s(self, state: str) -> float | None:
        """Longest time in a job state without news; None for a state without a deadline."""
        if state == "trial":
            return self.trial_deadline_s
        return self.timers.get(state, TIMERS.get(state))

    def cap(self, *, is_proven: bool) -> int:
        """Most jobs in flight. is_proven: a gated wave passed, or a wave of a plan without gates did."""
        return max(self.max_in_flight, self.max_in_flight_later) if is_proven else self.max_in_flight

    def alphas(self, gated_index: int, gated_waves: int, *, restarts: int = 0, parts: int = 1) -> list[float]:
        """False-halt budget of each metric in one gated wave.

        gated_index: 0 for the first gated wave, which gets FIRST_SHARE of the budget; the others share the
        rest equally. restarts: how often a person let the wave go on after a halt; each halves its share.
        parts: processes each metric is split into, one a device class.
        """
        share = FIRST_SHARE if gated_index == 0 else (1 - FIRST_SHARE) / max(1, gated_waves - 1)
        return [ALPHA * metric.weight * share / 2**restarts / max(1, parts) for metric in self.metrics]

    def proves(self, wave: int) -> bool:
        """True when wave `wave` (1, 2, ...) must prove r_prove: every one but the last, which has none after
        it to protect; the only wave of a plan does.
        """
        return self.r_prove is not None and (wave < len(self.waves) or len(self.waves) == 1)

    def _check(self) -> None:
        last = self.waves[-1]
        if last.named:
            raise PlanError("validation", "waves", "the last wave takes in everybody: it cannot name devices")
        if last.percent is not None and last.percent != 100:
            raise PlanError("validation", "waves", "the last wave takes in everybody: it must be 100 percent")
        self._check_rising()
        if self.rollback_to == NOWHERE and self.on_fail == "rollback":
            text = "there is nothing to roll back to when it fails"
            raise PlanError("rollback_unavailable", "on_fail", text, "say on_fail: halt")
        if self.max_soak_s < self.soak_s:
            raise PlanError("validation", "max_soak_s", "max_soak_s is less than soak_s")
        if not self.metrics:
            return
        if not self.is_gated:
            text = "the last wave and named ones have hard gates only: a quality gate needs one more wave"
            raise PlanError("validation", "metrics", text)
        if self.control == Size(count=0) or self.control == Size(percent=0.0):
            raise PlanError(
                "validation", "control", "a quality gate compares with a control cohort: control is 0"
            )
        if self.max_soak_s < self.settle_s + self.window_s:
            raise PlanError("validation", "max_soak_s", "max_soak_s is less than settle_s + window_s")
        for index, metric in enumerate(self.metrics):
            if metric.kind == "proxy" and not self.accept_proxy:
                raise PlanError(
                    "validation",
                    "accept_proxy",
                    "proxy accuracy is biased: it passes a gate only when the plan says accept_proxy",
                )
            least = least_pairs(metric.promote_margin, ALPHA)
            if least is None:
                raise PlanError(
                    "gate_unreachable",
                    f"metrics[{index}].promote_margin",
                    f"a margin of {metric.promote_margin:g} cannot be proven with 10,000 pairs",
                )

    def _check_rising(self) -> None:
        """Sizes are cumulative, so each is larger than the one before of its unit, and than what is named."""
        names: set[str] = set()
        largest: dict[str, float] = {}
        for index, wave in enumerate(self.waves):
            if again := names.intersection(wave.named):
                text = f"{min(again)} is named in an earlier wave already"
                raise PlanError("validation", f"waves[{index}].named", text)
            names.update(wave.named)
            for unit, value in (("count", wave.count), ("percent", wave.percent)):
                if value is None:
                    continue
                if value <= largest.get(unit, 0):
                    raise PlanError(
                        "validation", f"waves[{index}].{unit}", "wave sizes are cumulative and rise"
                    )
                largest[unit] = value
            if wave.count is not None and wave.count <= len(names):
                text = f"wave sizes are cumulative, and {len(names)} devices are named before this one"
                raise PlanError("validation", f"waves[{index}].count", text)


_OPTIONAL = frozenset({"r_prove", "latency_budget_us"})
_NUMBERS: dict[str, tuple[float, float, bool]] = {
    "max_in_flight": (1, 5_000, True),
    "max_in_flight_later": (1, 5_000, True),
    "min_reach": (0.01, 1.0, False),
    "reach_deadline_s": (1, 30 * DAY_S, False),
    "soak_s": (0, 30 * DAY_S, False),
    "max_soak_s": (0, 90 * DAY_S, False),
    "offer_ttl_s": (1, 30 * DAY_S, False),
    "trial_deadline_s": (1, 7 * DAY_S, False),
    "rollback_deadline_s": (1, 30 * DAY_S, False),
    "min_pairs": (5, 10_000, True),
    "settle_s": (0, 7 * DAY_S, False),
    "window_s": (1, 30 * DAY_S, False),
    "history_s": (1, 90 * DAY_S, False),
    "r_max_model": (0.001, 0.99, False),
    "r_max_delivery": (0.001, 0.99, False),
    "r_max_compat": (0.001, 0.99, False),
    "r_prove": (0.001, 0.99, False),
    "latency_budget_us": (1, 3_600_000_000, True),
    "max_attempts": (1, 10, True),
    "retry_base_s": (0, DAY_S, False),
    "pair_sd": (0.001, 1.0, False),
}
_WORDS = {"on_fail": ("rollback", "halt"), "on_inconclusive": ("halt", "manual")}


def _number(value: Any, name: str, least: float, most: float, *, whole: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PlanError("validation", name, f"{name} is not a number")
    if whole and value != int(value):
        raise PlanError("validation", name, f"{name} is not a whole number")
    if not least <= value <= most:
        raise PlanError("validation", name, f"{name} is {value:g}, it must be {least:g} to {most:g}")
    return int(value) if whole else value


def _word(value: Any, name: str, options: tuple[str, ...]) -> str:
    if value not in options:
        raise PlanError(
            "validation", name, f"{name} is one of {', '.join(filter(None, options)) or 'nothing'}"
        )
    return str(value)


def _way_back(data: Mapping[str, Any]) -> dict[str, str]:
    goal, why = data.get("rollback_to", PREVIOUS), data.get("rollback_reason", "")
    is_digest = isinstance(goal, str) and len(goal) == 64 and not set(goal) - set("0123456789abcdef")
    if goal not in (PREVIOUS, NOWHERE) and not is_digest:
        text = f"rollback_to is {PREVIOUS}, {NOWHERE}, or the id of a manifest: 64 hexadecimal digits"
        raise PlanError("validation", "rollback_to", text)
    if not isinstance(why, str) or len(why) > 500 or (goal == NOWHERE) != bool(why.strip()):
        text = f"rollback_reason says, in 1 to 500 characters, why rollback_to is {NOWHERE}, and only then"
        raise PlanError("validation", "rollback_reason", text)
    return {"rollback_to": goal, "rollback_reason": why.strip()}


def _size(value: Any, name: str, *, least: int) -> Size:
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in ("count", "percent"):
        raise PlanError("validation", name, f'{name} is {{"count": n}} or {{"percent": p}}')
    if "count" in value:
        return Size(count=int(_number(value["count"], f"{name}.count", least, 10_000_000, whole=True)))
    percent = _number(value["percent"], f"{name}.percent", 0, 100)
    if least and percent <= 0:
        raise PlanError("validation", f"{name}.percent", f"{name}.percent must be more than 0")
    return Size(percent=float(percent))


def _waves(value: Any) -> tuple[Size, ...]:
    if not isinstance(value, list | tuple) or not value or len(value) > MAX_WAVES:
        raise PlanError("validation", "waves", f"waves is a list of 1 to {MAX_WAVES} sizes")
    return tuple(_wave(item, f"waves[{index}]") for index, item in enumerate(value))


def _wave(value: Any, name: str) -> Size:
    if not isinstance(value, Mapping) or "named" not in value:
        return _size(value, name, least=1)
    ids = value["named"]
    if len(value) != 1 or not isinstance(ids, list | tuple) or not 1 <= len(ids) <= MAX_NAMED:
        raise PlanError("validation", f"{name}.named", f"named is a list of 1 to {MAX_NAMED} device ids")
    for device_id in ids:
        if not isinstance(device_id, str) or not is_device_id(device_id):
            raise PlanError("validation", f"{name}.named", f"{str(device_id)[:40]!r} is no device id")
    if len(set(ids)) != len(ids):
        raise PlanError("validation", f"{name}.named", "a device is named twice")
    return Size(named=tuple(ids))


def _metrics(value: Any) -> tuple[Metric, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_METRICS:
        raise PlanError("validation", "metrics", f"metrics is a list of at most {MAX_METRICS} gates")
    metrics = tuple(_metric(item, f"metrics[{index}]") for index, item in enumerate(value))
    if len({metric.key for metric in metrics}) != len(metrics):
        raise PlanError("validation", "metrics", "a metric is named twice")
    return metrics


def _metric(value: Any, name: str) -> Metric:
    if not isinstance(value, Mapping) or set(value) - {item.name for item in fields(Metric)}:
        raise PlanError(
            "validation", name, f"{name} has metric, kind, promote_margin, halt_margin, weight only"
        )
    metric = _word(value.get("metric"), f"{name}.metric", tuple(METRICS))
    kind = _word(value.get("kind", METRICS[metric][0]), f"{name}.kind", METRICS[metric])
    measure = measure_of(metric, kind)
    if measure.refusal:
        raise PlanError("validation", f"{name}.kind", f"{metric} of kind {kind}: {measure.refusal}")
    given = value.get("promote_margin", measure.promote_margin)
    promote = _number(given, f"{name}.promote_margin", 0.0, 1.0)
    halt = _number(value.get("halt_margin", 0.0), f"{name}.halt_margin", 0.0, 1.0)
    if halt > promote:
        raise PlanError("validation", f"{name}.halt_margin", "halt_margin is more than promote_margin")
    weight = _number(value.get("weight", 1.0), f"{name}.weight", 0.0, 1.0)
    if weight <= 0:
        raise PlanError(
            "alpha_split", f"{name}.weight", "a weight of 0 leaves the gate no budget to halt with"
        )
    return Metric(metric, kind, float(promote), float(halt), float(weight))


def _with_reporting(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Missing telemetry is a required metric of every gated plan: one that does not name it gets it.

    Its weight comes out of the others in proportion, so that weights that add up to 1 still do.
    """
    if not metrics:
        return metrics
    total = sum(metric.weight for metric in metrics)
    if abs(total - 1.0) > 1e-6:
        raise PlanError("alpha_split", "metrics", f"the weights of the metrics add up to {total:g}, not to 1")
    if not any(measure_of(metric.metric, metric.kind).may_pass for metric in metrics):
        raise PlanError(
            "validation",
            "metrics",
            "no metric of the plan could ever pass: an estimate only halts",
            "name another kind of accuracy, anomaly, latency, resets or reporting too",
        )
    if any(metric.metric == "reporting" for metric in metrics):
        return metrics
    kept = tuple(replace(metric, weight=metric.weight * (1 - REPORTING_WEIGHT)) for metric in metrics)
    margin = measure_of("reporting", "").promote_margin
    return (*kept, Metric("reporting", "", margin, 0.0, REPORTING_WEIGHT))


def _timers(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or set(value) - set(TIMERS):
        raise PlanError("validation", "timers", f"timers names only {', '.join(TIMERS)}")
    return {
        str(name): _number(seconds, f"timers.{name}", 1, 90 * DAY_S)
        for name, seconds in sorted(value.items())
    }
