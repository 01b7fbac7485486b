"""Pairs of a wave device and a control device: who is due, what each did, and what enters which process.

A pair enters a process once, in the order of maturity, with values that never change afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from fleet.devices.models import DeviceClass
from fleet.telemetry.queries import Outcome, Span
from ota.assignment import pair_up
from ota.baselines import history, outcomes
from ota.choices import Arm, JobState
from ota.gates import quality
from ota.gates.catalogue import contrast, measure_of
from ota.models import DesiredState, Membership, Rollout, Wave
from ota.offers import newest_jobs
from ota.plan import ALPHA, Metric, Plan
from ota.signed_hints import hints_of_run, signed_hints

_WINDOW_KEY, _WINDOW_DEFAULT_S = "2", 60


@dataclass
class _Arms:
    """Frozen members of a gated wave and its control, who is due, and how often each device reports."""

    members: dict[str, Membership]
    pairs: dict[str, str]
    ripe: list[tuple[str, datetime]]
    every_s: dict[str, float] = field(default_factory=dict)

    def class_of(self, device_id: str) -> str:
        """Name of a member's device class, as its stratum froze it."""
        return self.members[device_id].stratum.rpartition("/")[0]


def gather_metrics(
    wave: Wave, rollout: Rollout, plan: Plan, past: dict[str, Any], *, now: datetime
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Inputs of each quality gate, and how many exposed devices are silent.

    past: {"spent": [device], "metrics": {key: row}} of the evidence before (`ota.evidence`).
    """
    if not wave.is_gated:
        return [], {"exposed": 0, "silent": 0}
    arms = _arms(wave, rollout, plan, now=now)
    rows = []
    for row, metric in new_rows(wave, rollout, plan):
        only = row["class"]
        possible = sum(not only or arms.class_of(name) == only for name in arms.pairs)
        old = past["metrics"].get(row_key(row), row)
        row |= {name: old[name] for name in ("silent", "unlabelled")} | {"unlike": old.get("unlike", 0)}
        row |= {"pairs": list(old["pairs"]), "dropped": list(old["dropped"]), "possible": possible}
        used = used_devices(row) | set(past["spent"])
        fresh = [
            (name, since)
            for name, since in arms.ripe
            if name in arms.pairs and name not in used and (not only or arms.class_of(name) == only)
        ]
        _enter_all(row, metric, arms, fresh, plan, rollout)
        rows.append(row)
    exposed = [_span(arms, name, rollout.manifest.mid, since, plan) for name, since in arms.ripe]
    return rows, {"exposed": len(exposed), "silent": _silent(exposed, plan, rollout)}


def new_rows(wave: Wave, rollout: Rollout, plan: Plan) -> list[tuple[dict[str, Any], Metric]]:
    """An empty input row for each process of a gated wave: one a metric, or one a metric and class."""
    gated = Wave.objects.filter(rollout_id=wave.rollout_id, is_gated=True)
    classes = _classes(rollout) if plan.by_class else [""]
    alphas = plan.alphas(
        gated.filter(n__lt=wave.n).count(), gated.count(), restarts=wave.restarts, parts=len(classes)
    )
    return [
        (_new_row(metric, only) | _settings(metric, plan, alpha), metric)
        for metric, alpha in zip(plan.metrics, alphas, strict=True)
        for only in classes
    ]


def row_key(row: dict[str, Any]) -> str:
    """Which process an input row belongs to."""
    return f"{row['metric']}:{row['kind']}:{row.get('class', '')}"


def used_devices(row: dict[str, Any]) -> set[str]:
    """Wave devices whose pair has entered a process, or was dropped from it: neither enters again."""
    return {pair["wave"] for pair in row["pairs"]} | set(row["dropped"])


def _classes(rollout: Rollout) -> list[str]:
    found = rollout.summary.get("classes", {})
    names = sorted(name for name, entry in found.items() if entry.get("eligible"))
    return names or sorted(DeviceClass.objects.values_list("pk", flat=True))


def _arms(wave: Wave, rollout: Rollout, plan: Plan, *, now: datetime) -> _Arms:
    members = {
        member.device_id: member
        for member in Membership.objects.filter(rollout=rollout).filter(Q(wave=wave.n) | Q(arm=Arm.CONTROL))
    }
    pairs = dict(pair_up(_by_stratum(members, Arm.WAVE), _by_stratum(members, Arm.CONTROL)))
    ripe = _ripe(wave, before=now - timedelta(seconds=_ripe_s(plan)))
    due = [name for name, _ in ripe if name in members]
    every_s = _intervals([*due, *(pairs[name] for name in due if name in pairs)])
    return _Arms(members, pairs, [item for item in ripe if item[0] in members], every_s)


def _ripe_s(plan: Plan) -> float:
    return plan.settle_s + plan.window_s + plan.grace_s


def _span(arms: _Arms, device_id: str, mid: str | None, since: datetime, plan: Plan) -> Span:
    """The comparison window of a device. One window fewer than fit is expected: phase is nobody's fault."""
    start = since + timedelta(seconds=plan.settle_s)
    end = start + timedelta(seconds=plan.window_s)
    expected = max(1, int(plan.window_s / arms.every_s.get(device_id, _WINDOW_DEFAULT_S)) - 1)
    return Span(device_id=device_id, mid=mid, start=start, end=end, expected=expected)


def _enter_all(
    row: dict[str, Any],
    metric: Metric,
    arms: _Arms,
    fresh: list[tuple[str, datetime]],
    plan: Plan,
    rollout: Rollout,
) -> None:
    """Measure the pairs that have matured since, and add each one or drop it with the reason counted."""
    if not fresh:
        return
    candidate = rollout.manifest.mid
    unlike = _unlike({arms.members[arms.pairs[name]].baseline_run for name, _ in fresh}, metric, rollout)
    spans = [_span(arms, name, candidate, since, plan) for name, since in fresh]
    for name, since in fresh:
        other = arms.members[arms.pairs[name]]
        spans.append(_span(arms, other.device_id, other.baseline_run[:16] or None, since, plan))
    measured = outcomes(spans, metric, plan, rollout)
    for index, (name, since) in enumerate(fresh):
        one, zero = arms.members[name], arms.members[arms.pairs[name]]
        if zero.baseline_run in unlike:
            row["dropped"].append(name)
            row["unlike"] += 1
            continue
        both = (measured[index], measured[len(fresh) + index])
        matured = since + timedelta(seconds=_ripe_s(plan))
        _enter(row, (one, zero), both, metric, rollout.summary, matured=matured)


def _unlike(runs: set[str], metric: Metric, rollout: Rollout) -> set[str]:
    """Those of the baselines under which the metric means something else than under the candidate."""
    if not measure_of(metric.metric, metric.kind).hints:
        return set()
    told = signed_hints(rollout.manifest.message)
    known = {run: hints_of_run(run) for run in runs}
    return {
        run
        for run, hints in known.items()
        if hints is not None and contrast(metric.metric, metric.kind, told, hints)
    }


def _new_row(metric: Metric, only: str) -> dict[str, Any]:
    return {
        "metric": metric.metric,
        "kind": metric.kind,
        "class": only,
        "possible": 0,
        "silent": 0,
        "unlabelled": 0,
        "unlike": 0,
        "pairs": [],
        "dropped": [],
    }


def _settings(metric: Metric, plan: Plan, alpha: float) -> dict[str, Any]:
    measure = measure_of(metric.metric, metric.kind)
    may_pass = measure.may_pass and (metric.kind != "proxy" or plan.accept_proxy)
    return {
        "alpha": alpha,
        "alpha_p": ALPHA,
        "halt_margin": metric.halt_margin,
        "promote_margin": metric.promote_margin,
        "min_pairs": plan.min_pairs,
        "may_pass": may_pass,
        "required": measure.may_pass,
        "process": quality.PRODUCTION.to_json(),
    }


def _enter(
    row: dict[str, Any],
    arms: tuple[Membership, Membership],
    measured: tuple[Outcome, Outcome],
    metric: Metric,
    summary: dict[str, Any],
    *,
    matured: datetime,
) -> None:
    """Add a matured pair to its process, or drop it and count why."""
    (one, zero), (out1, out0) = arms, measured
    if out1.mean is None or out0.mean is None:
        row["dropped"].append(one.device_id)
        row["unlabelled" if out1.windows and out0.windows else "silent"] += 1
        return
    y1, y0 = round(out1.mean, 9), round(out0.mean, 9)
    (x1, h1), (x0, _) = history(one, metric, summary), history(zero, metric, summary)
    row["pairs"].append(
        {
            "t": len(row["pairs"]) + 1,
            "wave": one.device_id,
            "control": zero.device_id,
            "at": matured.isoformat(),
            "y1": y1,
            "x1": x1,
            "y0": y0,
            "x0": x0,
            "d": round((y0 - x0) - (y1 - x1), 9),
            "n1": out1.n,
            "h1": h1,
        }
    )


def _by_stratum(members: dict[str, Membership], arm: Arm) -> dict[str, list[str]]:
    groups: dict[str, list[Membership]] = defaultdict(list)
    for member in members.values():
        if member.arm == arm:
            groups[member.stratum].append(member)
    return {name: [m.device_id for m in sorted(rows, key=lambda m: m.rank)] for name, rows in groups.items()}


def _ripe(wave: Wave, *, before: datetime) -> list[tuple[str, datetime]]:
    """(device, start of its observation) of exposed devices whose window is over, in the order of maturity.

    A device that went silent in its trial counts from its exposure; one that reverted runs the old model
    again.
    """
    rows: list[tuple[datetime, str]] = []
    for job in newest_jobs(wave).filter(exposed_at__isnull=False).exclude(state=JobState.REMOVED):
        since = job.confirmed_at
        if since is None and job.state == JobState.TIMED_OUT:
            since = job.exposed_at
        if since is not None and since <= before:
            rows.append((since, job.device_id))
    return [(device_id, since) for since, device_id in sorted(rows)]


def _silent(spans: list[Span], plan: Plan, rollout: Rollout) -> int:
    """How many of the exposed devices sent less than half of their expected windows."""
    found = outcomes(spans, Metric("reporting"), plan, rollout)
    return sum(2 * outcome.windows < (span.expected or 1) for span, outcome in zip(spans, found, strict=True))


def _intervals(device_ids: list[str]) -> dict[str, float]:
    """Seconds between a device's telemetry windows, as it was told."""
    rows = DesiredState.objects.filter(device_id__in=device_ids).values_list("device_id", "config")
    return {name: float(config.get(_WINDOW_KEY) or _WINDOW_DEFAULT_S) for name, config in rows}
