"""What a wave is judged on: counts and pairs from the database, frozen into immutable evidence rows.

A pair enters a process once, in the order of maturity, with values that never change afterwards: each
evidence row repeats the pairs of the one before it and adds the newly matured ones. The verdict recomputes
from the row alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q

from fleet.devices.models import Presence
from fleet.telemetry import queries
from fleet.telemetry.queries import Outcome, Span
from ota.assignment import pair_up
from ota.choices import JOB_TERMINAL, Arm, JobState
from ota.gates.evaluate import Evaluation, Row, evaluate, quality_row, telemetry_row
from ota.gates.failures import CLASSES, FIRST_WAVE, failure_class
from ota.models import DesiredState, Evidence, Membership, Rollout, Wave
from ota.offers import missing_count, newest_jobs
from ota.plan import ALPHA, Metric, Plan

CODE_VERSION = "gates-1"
HISTORY_LEAST = 20
"""A device's own history counts from this many outcomes on; below it the mean of its stratum stands in."""
_WINDOW_KEY, _WINDOW_DEFAULT_S = "2", 60
_SINGLES_SHOWN = 20

Inputs = dict[str, Any]


def gather(wave: Wave, rollout: Rollout, plan: Plan, *, now: datetime) -> Inputs:
    """Everything the verdict on a wave needs, as plain JSON; `ota.gates.evaluate` writes its form down."""
    before = newest(wave)
    past = _past(before.inputs if before else {}, wave)
    metrics, telemetry = _quality(wave, rollout, plan, past, now=now)
    first = rollout.waves.order_by("n").values_list("n", flat=True).first()
    return {
        "format": 1,
        "wave": wave.n,
        "restarts": wave.restarts,
        "is_first": wave.n == first,
        "is_gated": wave.is_gated,
        "reach": reach(wave, rollout, plan),
        "is_soaked": is_soaked(wave, plan, now=now),
        "hard": hard_counts(wave, plan),
        "spent": past["spent"],
        "metrics": metrics,
        "telemetry": telemetry,
    }


def newest(wave: Wave) -> Evidence | None:
    """The newest evidence of a wave."""
    return Evidence.objects.filter(wave=wave).order_by("-at", "-id").first()


def store(wave: Wave, inputs: Inputs, evaluation: Evaluation, *, now: datetime) -> Evidence:
    """Write an evidence row. Never changed afterwards."""
    return Evidence.objects.create(
        rollout_id=wave.rollout_id,
        wave=wave,
        at=now,
        verdict=evaluation.verdict,
        rows=list(evaluation.rows),
        inputs=inputs,
        inputs_sha256=digest(inputs),
        code_version=CODE_VERSION,
    )


def empty_rows(wave: Wave, rollout: Rollout, plan: Plan) -> list[Row]:
    """The quality rows of a wave before its first pair has matured; none when it is not gated."""
    if not wave.is_gated:
        return []
    possible = sum(row["pairs"] for row in rollout.summary.get("waves", []) if row["n"] == wave.n)
    alphas = plan.alphas(_gated_index(wave), _gated_count(rollout), restarts=wave.restarts)
    rows = [
        quality_row(_new_row(metric) | _settings(metric, plan, alpha) | {"possible": possible})
        for metric, alpha in zip(plan.metrics, alphas, strict=True)
    ]
    return [*rows, telemetry_row({"exposed": 0, "silent": 0})]


def recompute(evidence: Evidence) -> list[Row]:
    """The rows again, from the stored inputs only. Raises ValueError when the inputs are not those judged."""
    if digest(evidence.inputs) != evidence.inputs_sha256:
        raise ValueError("the stored inputs do not fit their digest")
    return list(evaluate(evidence.inputs).rows)


def is_automatic(evidence: Evidence) -> bool:
    """True when the evidence may roll back without a person: proof over many devices, not one's word."""
    return evaluate(evidence.inputs).is_automatic


def digest(inputs: Inputs) -> str:
    """SHA-256 of the canonical JSON, hex."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def spent_pairs(inputs: Inputs) -> int:
    """How many pairs have matured, used or dropped."""
    return max(
        (len(m["pairs"]) + m["silent"] + m["unlabelled"] for m in inputs.get("metrics", [])), default=0
    )


def hard_counts(wave: Wave, plan: Plan) -> dict[str, Any]:
    """Exposed and failed devices of a wave, by each one's newest attempt; after a restart only later ones."""
    jobs = newest_jobs(wave)
    if wave.restarted_at is not None:
        jobs = jobs.filter(Q(state_at__gte=wave.restarted_at) | Q(exposed_at__gte=wave.restarted_at))
    failed = dict.fromkeys(CLASSES, 0)
    unexposed_model = 0
    ended = jobs.values("state", "code").annotate(n=Count("pk"), exposed=Count("exposed_at")).order_by()
    for row in ended:
        if name := failure_class(row["state"], row["code"]):
            failed[name] += row["n"]
            unexposed_model += row["n"] - row["exposed"] if name == "model" else 0
    singles = jobs.filter(
        code__in=FIRST_WAVE | {"signature"}, state__in=("self_reverted", "failed", "rejected")
    )
    compat = [] if wave.n > 1 else jobs.filter(state=JobState.REJECTED).order_by("pk")[:_SINGLES_SHOWN]
    devices = {job.device_id: job.code for job in singles.order_by("pk")[:_SINGLES_SHOWN]}
    devices |= {job.device_id: job.code for job in compat if failure_class(job.state, job.code) == "compat"}
    return {
        "exposed": jobs.filter(exposed_at__isnull=False).count(),
        "unexposed_model": unexposed_model,
        "failed": failed,
        "limits": {"model": plan.r_max_model, "delivery": plan.r_max_delivery, "compat": plan.r_max_compat},
        "single": [{"device": device, "code": code} for device, code in sorted(devices.items())],
    }


def reach(wave: Wave, rollout: Rollout, plan: Plan) -> dict[str, int]:
    """Devices confirmed and seen with telemetry of the candidate, against how many are needed.

    {"reached", "needed", "of", "confirmed"}. of: reachable devices: not skipped, not removed, and not waiting
    offline. Before the last wave at least half of the wave must be reachable for the share to mean anything.
    """
    jobs = newest_jobs(wave).exclude(state__in=(JobState.SKIPPED, JobState.REMOVED))
    size = jobs.count() + missing_count(wave)
    offline = jobs.filter(state=JobState.QUEUED).exclude(device__presence=Presence.ONLINE).count()
    reachable = size - offline
    needed = math.ceil(plan.min_reach * reachable - 1e-9)
    is_last = wave.n == len(plan.waves)
    needed = max(needed, min(1, size) if is_last else math.ceil(size / 2))
    confirmed = list(jobs.filter(state=JobState.CONFIRMED).values_list("device_id", flat=True))
    reached = len(confirmed)
    if confirmed and reached >= needed and wave.opened_at is not None:
        reached = len(queries.has_window(confirmed, rollout.manifest.mid, wave.opened_at) & set(confirmed))
    return {"reached": reached, "needed": needed, "of": reachable, "confirmed": len(confirmed)}


def is_settled(wave: Wave) -> bool:
    """True when every device of an open wave has ended its last attempt and no retry is due."""
    jobs = newest_jobs(wave)
    left = jobs.exclude(state__in=JOB_TERMINAL).exists() or jobs.filter(retry_at__isnull=False).exists()
    return not left and not missing_count(wave)


def is_soaked(wave: Wave, plan: Plan, *, now: datetime) -> bool:
    """True when the wave has been observed for long enough to be judged."""
    if wave.soaking_at is None:
        return False
    return now >= soak_ends(wave, plan)


def soak_ends(wave: Wave, plan: Plan) -> datetime:
    """Earliest end of the soak: the plan's, and for a gated wave at least one whole comparison window."""
    least_s = max(plan.soak_s, plan.settle_s + plan.window_s) if wave.is_gated else plan.soak_s
    return (wave.soaking_at or wave.opened_at or wave.rollout.created_at) + timedelta(seconds=least_s)


def baselines(devices: dict[str, str], plan: Plan, *, now: datetime) -> dict[str, dict[str, list[float]]]:
    """Each device's own history: device -> metric key -> [mean, outcomes], over `history_s` before now.

    devices: device id -> id16 it runs. A device without outcomes has no entry for the metric.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    start = now - timedelta(seconds=plan.history_s)
    names = sorted(devices)
    for metric in plan.metrics:
        if metric.metric == "reporting":
            continue
        spans = [Span(device_id=name, mid=devices[name][:16], start=start, end=now) for name in names]
        outcomes = queries.device_outcomes(spans, metric=metric.metric, kind=metric.kind)
        for name, outcome in zip(names, outcomes, strict=True):
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


def _past(inputs: Inputs, wave: Wave) -> dict[str, Any]:
    """What earlier evidence of this wave used up: {"spent": [device], "metrics": {key: row}}.

    A restart begins new processes: the pairs before it are spent and enter no more.
    """
    metrics = {f"{row['metric']}:{row['kind']}": row for row in inputs.get("metrics", [])}
    spent = list(inputs.get("spent", []))
    if inputs and inputs["restarts"] != wave.restarts:
        used = {name for row in metrics.values() for name in _used(row)}
        return {"spent": sorted({*spent, *used}), "metrics": {}}
    return {"spent": spent, "metrics": metrics}


def _used(row: dict[str, Any]) -> set[str]:
    return {pair["wave"] for pair in row["pairs"]} | set(row["dropped"])


def _quality(
    wave: Wave, rollout: Rollout, plan: Plan, past: dict[str, Any], *, now: datetime
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Inputs of each quality gate, and how many exposed devices are silent."""
    if not wave.is_gated:
        return [], {"exposed": 0, "silent": 0}
    members = {
        member.device_id: member
        for member in Membership.objects.filter(rollout=rollout).filter(Q(wave=wave.n) | Q(arm=Arm.CONTROL))
    }
    pairs = dict(pair_up(_by_stratum(members, Arm.WAVE), _by_stratum(members, Arm.CONTROL)))
    ripe_s = plan.settle_s + plan.window_s + plan.grace_s
    ripe = _ripe(wave, before=now - timedelta(seconds=ripe_s))
    devices = [device_id for device_id, _ in ripe]
    interval = _intervals([*devices, *(pairs[name] for name in devices if name in pairs)])

    def span(device_id: str, mid: str | None, since: datetime) -> Span:
        start = since + timedelta(seconds=plan.settle_s)
        end = start + timedelta(seconds=plan.window_s)
        expected = max(1, int(plan.window_s / interval.get(device_id, _WINDOW_DEFAULT_S)))
        return Span(device_id=device_id, mid=mid, start=start, end=end, expected=expected)

    candidate = rollout.manifest.mid
    gated = plan.alphas(_gated_index(wave), _gated_count(rollout), restarts=wave.restarts)
    rows = []
    for metric, alpha in zip(plan.metrics, gated, strict=True):
        row = past["metrics"].get(f"{metric.metric}:{metric.kind}") or _new_row(metric)
        row = {**row, "pairs": list(row["pairs"]), "dropped": list(row["dropped"])}
        row |= _settings(metric, plan, alpha) | {"possible": len(pairs)}
        used = _used(row) | set(past["spent"])
        fresh = [(name, since) for name, since in ripe if name in pairs and name not in used]
        spans = [span(name, candidate, since) for name, since in fresh]
        spans += [
            span(pairs[name], members[pairs[name]].baseline_run[:16] or None, since) for name, since in fresh
        ]
        outcomes = queries.device_outcomes(spans, metric=metric.metric, kind=metric.kind) if spans else []
        for index, (name, since) in enumerate(fresh):
            arms = (members[name], members[pairs[name]])
            measured = (outcomes[index], outcomes[len(fresh) + index])
            _enter(row, arms, measured, metric, rollout, matured=since + timedelta(seconds=ripe_s))
        rows.append(row)
    silent = _silent([span(name, candidate, since) for name, since in ripe], plan)
    return rows, {"exposed": len(ripe), "silent": silent}


def _new_row(metric: Metric) -> dict[str, Any]:
    return {
        "metric": metric.metric,
        "kind": metric.kind,
        "silent": 0,
        "unlabelled": 0,
        "pairs": [],
        "dropped": [],
    }


def _settings(metric: Metric, plan: Plan, alpha: float) -> dict[str, Any]:
    return {
        "alpha": alpha,
        "alpha_p": ALPHA,
        "halt_margin": metric.halt_margin,
        "promote_margin": metric.promote_margin,
        "min_pairs": plan.min_pairs,
        "may_pass": metric.kind != "proxy" or plan.accept_proxy,
    }


def _enter(
    row: dict[str, Any],
    arms: tuple[Membership, Membership],
    outcomes: tuple[Outcome, Outcome],
    metric: Metric,
    rollout: Rollout,
    *,
    matured: datetime,
) -> None:
    """Add a matured pair to its process, or drop it and count why."""
    (one, zero), (out1, out0) = arms, outcomes
    if out1.mean is None or out0.mean is None:
        row["dropped"].append(one.device_id)
        row["unlabelled" if out1.windows and out0.windows else "silent"] += 1
        return
    y1, y0 = round(out1.mean, 9), round(out0.mean, 9)
    x1, x0 = _history(one, metric, rollout), _history(zero, metric, rollout)
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
        }
    )


def _history(member: Membership, metric: Metric, rollout: Rollout) -> float:
    """The device's frozen baseline; with too little of its own its stratum's mean; 0 when nobody has any."""
    mean, n = member.baseline.get(metric.key, (0.0, 0))
    if n >= HISTORY_LEAST:
        return float(mean)
    return float(rollout.summary.get("strata_means", {}).get(member.stratum, {}).get(metric.key, 0.0))


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


def _silent(spans: list[Span], plan: Plan) -> int:
    """How many of the exposed devices sent less than half of their expected windows."""
    if not spans:
        return 0
    metric = plan.metrics[0]
    outcomes = queries.device_outcomes(spans, metric=metric.metric, kind=metric.kind)
    return sum(
        2 * outcome.windows < (span.expected or 1) for span, outcome in zip(spans, outcomes, strict=True)
    )


def _intervals(device_ids: list[str]) -> dict[str, float]:
    """Seconds between a device's telemetry windows, as it was told."""
    rows = DesiredState.objects.filter(device_id__in=device_ids).values_list("device_id", "config")
    return {name: float(config.get(_WINDOW_KEY) or _WINDOW_DEFAULT_S) for name, config in rows}


def _gated_index(wave: Wave) -> int:
    return Wave.objects.filter(rollout_id=wave.rollout_id, is_gated=True, n__lt=wave.n).count()


def _gated_count(rollout: Rollout) -> int:
    return rollout.waves.filter(is_gated=True).count()
