"""What a device did before the rollout: its own history per metric, frozen at the start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from fleet.telemetry import queries
from fleet.telemetry.queries import Outcome, Span
from ota.gates.catalogue import measure_of
from ota.models import Membership, Rollout
from ota.plan import Metric, Plan
from ota.signed_hints import latency_budget_us

HISTORY_LEAST = 20
"""A device's own history counts from this many outcomes on; below it the mean of its stratum stands in."""
RESET_SLOT_S = 3_600.0


def outcomes(spans: Sequence[Span], metric: Metric, plan: Plan, rollout: Rollout) -> list[Outcome]:
    """How devices did by one metric, as the plan defines it (budget, length of a reset slot)."""
    if not spans:
        return []
    is_latency = metric.metric == "latency"
    return queries.device_outcomes(
        spans,
        metric=metric.metric,
        kind=metric.kind,
        budget_us=latency_budget_us(plan.latency_budget_us, rollout.manifest.message) if is_latency else None,
        slot_s=min(RESET_SLOT_S, plan.window_s) if metric.metric == "resets" else None,
    )


def baselines(
    devices: dict[str, str], plan: Plan, rollout: Rollout, *, now: datetime
) -> dict[str, dict[str, list[float]]]:
    """Each device's own history: device -> metric key -> [mean, outcomes], over `history_s` before now.

    devices: device id -> id16 it runs. A device without outcomes has no entry for the metric.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    start = now - timedelta(seconds=plan.history_s)
    names = sorted(devices)
    for metric in plan.metrics:
        if not measure_of(metric.metric, metric.kind).has_history:
            continue
        spans = [Span(device_id=name, mid=devices[name][:16], start=start, end=now) for name in names]
        for name, outcome in zip(names, outcomes(spans, metric, plan, rollout), strict=True):
            if outcome.mean is not None and outcome.n:
                found[name][metric.key] = [round(outcome.mean, 9), outcome.n]
    return dict(found)


def strata_means(members: Sequence[Membership]) -> dict[str, dict[str, float]]:
    """Mean history per stratum and metric key over devices with enough outcomes of their own."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for member in members:
        for key, (mean, n) in member.baseline.items():
            if n >= HISTORY_LEAST:
                sums[member.stratum, key].append(mean)
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for (stratum, key), values in sums.items():
        means[stratum][key] = round(sum(values) / len(values), 9)
    return dict(means)


def history(member: Membership, metric: Metric, summary: dict[str, Any]) -> tuple[float, int]:
    """(baseline, outcomes of its own) of a device. summary: the rollout's, with `strata_means`.

    With too little of its own its stratum's mean and 0; 0.0 when nobody has any. The same rule in both arms,
    so it cannot tilt the comparison.
    """
    mean, n = member.baseline.get(metric.key, (0.0, 0))
    if n >= HISTORY_LEAST:
        return float(mean), int(n)
    return float(summary.get("strata_means", {}).get(member.stratum, {}).get(metric.key, 0.0)), 0
