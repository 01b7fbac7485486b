"""The parts of a plan, each read once from JSON: sizes of waves, metrics, timers, numbers and words.

What is wrong is refused with a code and the name of the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from fleet.mqtt.topics import is_device_id
from ota.errors import OtaError
from ota.gates.catalogue import METRICS, measure_of
from ota.gates.reporting import WEIGHT as REPORTING_WEIGHT

MAX_WAVES = 20
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
    pass), `empty_target`, `no_baseline` (quality gates where nothing runs yet), `window_never_opens`,
    `rollback_unavailable` (the plan leaves no way back and asks for one).
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


def margin_words(share: float) -> str:
    """A margin as people and plans write it: `3 points (0.03)`."""
    return f"{round(share * 100, 6):g} points ({share:g})"


def read_number(value: Any, name: str, least: float, most: float, *, whole: bool = False) -> float:
    """A number in [least, most]; whole: an int. Raises PlanError `validation`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise PlanError("validation", name, f"{name} is not a number")
    if whole and value != int(value):
        raise PlanError("validation", name, f"{name} is not a whole number")
    if not least <= value <= most:
        got = f"{name} is {value:g}, it" if abs(value) < 1e15 else name  # an int may be too large for a float
        raise PlanError("validation", name, f"{got} must be {least:g} to {most:g}")
    return int(value) if whole else value


def read_word(value: Any, name: str, options: tuple[str, ...]) -> str:
    """One of the options. Raises PlanError `validation`."""
    if value not in options:
        raise PlanError(
            "validation", name, f"{name} is one of {', '.join(filter(None, options)) or 'nothing'}"
        )
    return str(value)


def read_time(value: Any, name: str) -> datetime:
    """A time with its offset, as aware UTC in whole seconds. Raises PlanError `validation`."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value)[:40])
    except ValueError:
        found = None
    if found is None or found.utcoffset() is None or not 1970 < found.year < 2100:
        text = f"{name} is a time with its offset, as 2026-05-02T22:00:00Z"
        raise PlanError("validation", name, text)
    return found.astimezone(UTC).replace(microsecond=0)


def read_way_back(data: Mapping[str, Any]) -> dict[str, str]:
    """`rollback_to`, and `rollback_reason` that says why there is no way back."""
    goal, why = data.get("rollback_to", PREVIOUS), data.get("rollback_reason", "")
    is_digest = isinstance(goal, str) and len(goal) == 64 and not set(goal) - set("0123456789abcdef")
    if goal not in (PREVIOUS, NOWHERE) and not is_digest:
        text = f"rollback_to is {PREVIOUS}, {NOWHERE}, or the id of a manifest: 64 hexadecimal digits"
        raise PlanError("validation", "rollback_to", text)
    if not isinstance(why, str) or len(why) > 500 or (goal == NOWHERE) != bool(why.strip()):
        text = f"rollback_reason says, in 1 to 500 characters, why rollback_to is {NOWHERE}, and only then"
        raise PlanError("validation", "rollback_reason", text)
    return {"rollback_to": goal, "rollback_reason": why.strip()}


def read_size(value: Any, name: str, *, least: int) -> Size:
    """A count or a percentage. Raises PlanError `validation`."""
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in ("count", "percent"):
        raise PlanError("validation", name, f'{name} is {{"count": n}} or {{"percent": p}}')
    if "count" in value:
        return Size(count=int(read_number(value["count"], f"{name}.count", least, 10_000_000, whole=True)))
    percent = read_number(value["percent"], f"{name}.percent", 0, 100)
    if least and percent <= 0:
        raise PlanError("validation", f"{name}.percent", f"{name}.percent must be more than 0")
    return Size(percent=float(percent))


def read_waves(value: Any) -> tuple[Size, ...]:
    """Sizes of 1 to MAX_WAVES waves. Raises PlanError `validation`."""
    if not isinstance(value, list | tuple) or not value or len(value) > MAX_WAVES:
        raise PlanError("validation", "waves", f"waves is a list of 1 to {MAX_WAVES} sizes")
    return tuple(_wave(item, f"waves[{index}]") for index, item in enumerate(value))


def _wave(value: Any, name: str) -> Size:
    if not isinstance(value, Mapping) or "named" not in value:
        return read_size(value, name, least=1)
    ids = value["named"]
    if len(value) != 1 or not isinstance(ids, list | tuple) or not 1 <= len(ids) <= MAX_NAMED:
        raise PlanError("validation", f"{name}.named", f"named is a list of 1 to {MAX_NAMED} device ids")
    for device_id in ids:
        if not isinstance(device_id, str) or not is_device_id(device_id):
            raise PlanError("validation", f"{name}.named", f"{str(device_id)[:40]!r} is no device id")
    if len(set(ids)) != len(ids):
        raise PlanError("validation", f"{name}.named", "a device is named twice")
    return Size(named=tuple(ids))


def read_metrics(value: Any) -> tuple[Metric, ...]:
    """Quality gates, each metric once. Raises PlanError `validation`, `alpha_split`."""
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
    metric = read_word(value.get("metric"), f"{name}.metric", tuple(METRICS))
    kind = read_word(value.get("kind", METRICS[metric][0]), f"{name}.kind", METRICS[metric])
    measure = measure_of(metric, kind)
    if measure.refusal:
        raise PlanError("validation", f"{name}.kind", f"{metric} of kind {kind}: {measure.refusal}")
    given = value.get("promote_margin", measure.promote_margin)
    promote = read_number(given, f"{name}.promote_margin", 0.0, 1.0)
    halt = read_number(value.get("halt_margin", 0.0), f"{name}.halt_margin", 0.0, 1.0)
    if halt > promote:
        raise PlanError("validation", f"{name}.halt_margin", "halt_margin is more than promote_margin")
    weight = read_number(value.get("weight", 1.0), f"{name}.weight", 0.0, 1.0)
    if weight <= 0:
        raise PlanError(
            "alpha_split", f"{name}.weight", "a weight of 0 leaves the gate no budget to halt with"
        )
    return Metric(metric, kind, float(promote), float(halt), float(weight))


def with_reporting(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Missing telemetry is a required metric of every gated plan: one that does not name it gets it.

    Its weight comes out of the others in proportion, so that weights that add up to 1 still do. Raises
    PlanError `alpha_split`, and `validation` when no metric could ever pass.
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


def read_timers(value: Any) -> dict[str, float]:
    """Longest times in job states. Raises PlanError `validation`."""
    if not isinstance(value, Mapping) or set(value) - set(TIMERS):
        raise PlanError("validation", "timers", f"timers names only {', '.join(TIMERS)}")
    return {
        str(name): read_number(seconds, f"timers.{name}", 1, 90 * DAY_S)
        for name, seconds in sorted(value.items())
    }
