"""The plan of a rollout: waves, control cohort, gates and timers, parsed once into a frozen dataclass.

What a person leaves out gets the default printed here; what contradicts itself is refused with a code and the
name of the field, before a row is written. Times are seconds, so that a demonstration can say 5 s and print
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from ota import windows as calendar
from ota.gates.quality import least_pairs
from ota.plan_parts import (
    DAY_S,
    NOWHERE,
    PREVIOUS,
    TIMERS,
    Metric,
    PlanError,
    Size,
    margin_words,
    read_metrics,
    read_number,
    read_size,
    read_time,
    read_timers,
    read_waves,
    read_way_back,
    read_word,
    with_reporting,
)
from ota.windows import Window

__all__ = ["ALPHA", "NOWHERE", "NUMBERS", "PREVIOUS", "Metric", "Plan", "PlanError", "Size"]

ALPHA = 0.05
"""False-halt budget of a rollout, and error of each promotion proof."""
FIRST_SHARE = 0.5
"""Part of the false-halt budget that the first gated wave gets; the others share the rest equally."""


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
    requires_approval: a second person must approve, whatever the installation asks for. start_at: aware UTC,
    the start happens by itself then, None = somebody starts it. zone: IANA name in which people read and
    write start_at. windows: no offer is made and no wave opens outside them, () = always. late: `tail` takes
    devices that join the target after the start into a last wave that stays open for tail_days; `skip` leaves
    them out. offers_per_minute: most offers in any minute.
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
    requires_approval: bool = False
    start_at: datetime | None = None
    zone: str = "UTC"
    windows: tuple[Window, ...] = ()
    late: str = "skip"
    tail_days: float = 30
    offers_per_minute: int = 1_000

    @classmethod
    def parse(cls, data: Any) -> Plan:
        """Read a plan as JSON gives it. Raises PlanError naming the field that is wrong."""
        if not isinstance(data, Mapping):
            raise PlanError("validation", "plan", "a plan is an object")
        known = {item.name for item in fields(cls)}
        for name in data:
            if name not in known:
                raise PlanError("validation", str(name), f"a plan has no field {str(name)[:40]!r}")
        values: dict[str, Any] = {"waves": read_waves(data.get("waves"))}
        values["metrics"] = with_reporting(read_metrics(data.get("metrics", ())))
        if "control" in data:
            values["control"] = read_size(data["control"], "control", least=0)
        elif not values["metrics"]:
            values["control"] = Size(count=0)  # nothing would be compared with it
        for name, (least, most, whole) in NUMBERS.items():
            if name in data and not (name in _OPTIONAL and data[name] is None):
                values[name] = read_number(data[name], name, least, most, whole=whole)
        for name, options in _WORDS.items():
            if name in data:
                values[name] = read_word(data[name], name, options)
        for name in ("accept_proxy", "by_class", "requires_approval", "supersede"):
            if name in data:
                if not isinstance(data[name], bool):
                    raise PlanError("validation", name, f"{name} is true or false")
                values[name] = data[name]
        values |= read_way_back(data)
        if "timers" in data:
            values["timers"] = read_timers(data["timers"])
        if data.get("start_at") is not None:
            values["start_at"] = read_time(data["start_at"], "start_at")
        if "zone" in data:
            if not isinstance(data["zone"], str) or not calendar.is_zone(data["zone"]):
                raise PlanError("validation", "zone", "zone is UTC or a name as Europe/Berlin")
            values["zone"] = data["zone"]
        if "windows" in data:
            values["windows"] = calendar.parse(data["windows"])
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
        data["windows"] = [window.to_json() for window in self.windows]
        start = self.start_at.astimezone(UTC) if self.start_at else None
        data["start_at"] = start.strftime("%Y-%m-%dT%H:%M:%SZ") if start else None
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
        return self.r_prove is not None and (wave < len(self.waves) or wave == len(self.waves) == 1)

    def is_tail(self, wave: int) -> bool:
        """True for the wave behind the last one, which takes in devices that join after the start."""
        return wave > len(self.waves)

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
                    f"a margin of {margin_words(metric.promote_margin)} cannot be proven with 10,000 pairs",
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
NUMBERS: dict[str, tuple[float, float, bool]] = {
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
    "tail_days": (0.001, 365, False),
    "offers_per_minute": (1, 30_000, True),
}
"""Least and most of each number of a plan, and whether it is whole."""
_WORDS = {
    "on_fail": ("rollback", "halt"),
    "on_inconclusive": ("halt", "manual"),
    "late": ("skip", "tail"),
}
