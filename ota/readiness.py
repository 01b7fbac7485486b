"""Preflight of a rollout: who it reaches, how waves fall, what they can show, why it may not start."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from fleet.accounts.audit import Actor
from ota import approval, rollback_target, security
from ota.assignment import Sizes, is_gated, sizes
from ota.choices import RolloutState
from ota.frozen import remember, target_digest
from ota.gates.proof import least_devices
from ota.gates.quality import least_pairs
from ota.models import Rollout
from ota.plan import ALPHA, Plan, PlanError
from ota.plan_parts import margin_words
from ota.planning import least_detectable
from ota.signed_hints import latency_budget_us
from ota.supersede import check_overlap
from ota.targeting import SAMPLE, Census, Target, census
from ota.transitions import move_rollout

NO_GATES = "No quality gate: only install failures can halt this rollout."


def preview(rollout: Rollout, *, now: datetime) -> dict[str, Any]:
    """What the stored plan means for the fleet as it is now; the start compares with it.

    {"eligible": n, "baselines": n (of them with a model to compare with), "skipped": {reason: n},
     "sample": [id, ...], "target_digest": SHA-256 of the eligible ids,
     "classes": {name: {"targeted": n, "eligible": n, "skipped": {reason: n}, "verdict"?, "code"?, "text"?,
     "acknowledged"?}},
     "is_gated": bool, "by_class": bool, "control": n, "waves": [{"n", "size", "is_gated", "pairs",
     "class_pairs": {name: n} (by_class only), "proof": devices without a failure that prove r_prove | None}],
     "offers_per_minute": n, "offer_minutes": least minutes between the first offer and the last,
     "detectable": {"pairs", "drop": 0..1 | None, "least_pairs", "pass_pairs", "power", "pair_sd"} | None,
     "notes": [sentence, ...], "reasons": [{"code", "field", "text", "fix"}, ...]}
    reasons: why preflight fails; empty when the rollout may start. Raises nothing for a plan that cannot run.
    """
    return _examined(rollout, now=now)[0]


def _examined(rollout: Rollout, *, now: datetime) -> tuple[dict[str, Any], Census]:
    plan = Plan.parse(rollout.plan)
    found = Census(plan.named)
    reasons: list[dict[str, str]] = []
    placed: Sizes | None = None
    try:
        found = census(rollout, plan.named, now=now)
        reasons += _verdict_reasons(rollout, found)
        Target.parse(rollout.target).check(now=now)
        check_overlap(rollout, found.eligible, found.skipped)
        rollback_target.check(rollout, found.runs, _taking_part(found))
        placed = sizes(found.strata, plan, found.named)
        _check_named(plan, found)
        _check_proof(plan, placed)
        _check_gates(plan, found, placed)
        _check_measures(plan, rollout)
    except PlanError as problem:
        reasons.append(_reason(problem.code, problem.text, problem.fix, field=problem.field))
    gated = [n for n in range(1, len(plan.waves)) if is_gated(plan, n)]
    pairs = min((_least_pairs(plan, placed, n) for n in gated), default=0) if placed else 0
    parts = sum(1 for entry in found.classes.values() if entry.get("eligible")) if plan.by_class else 1
    detectable = least_detectable(plan, pairs, parts=parts)  # what every gated wave can show
    summary = {
        "eligible": found.eligible,
        "sample": found.ids[:SAMPLE],
        "target_digest": target_digest(found.ids),
        "baselines": found.baselines,
        "skipped": dict(sorted(found.skipped.items())),
        "classes": dict(sorted(found.classes.items())),
        "is_gated": plan.is_gated,
        "by_class": plan.by_class,
        "control": placed.control if placed else 0,
        "waves": _waves(plan, placed) if placed else [],
        "offers_per_minute": plan.offers_per_minute,
        "offer_minutes": max(0, -(-found.eligible // plan.offers_per_minute) - 1),
        "detectable": detectable.to_json() if detectable else None,
        "notes": _notes(plan, found, detectable.drop if detectable else None, pairs),
        "reasons": reasons,
    }
    return summary, found


def finish_preflight(rollout: Rollout, *, actor: Actor, now: datetime) -> bool:
    """Decide a rollout in state `preflight` and keep what was submitted; False when another was faster.

    `preflight_failed` with reasons in its summary; `awaiting_approval` when a second person must approve;
    else what follows an approval.
    """
    summary, found = _examined(rollout, now=now)
    plan = Plan.parse(rollout.plan)
    to = RolloutState.PREFLIGHT_FAILED
    if not summary["reasons"]:
        is_needed = approval.needed(plan, found.eligible)
        to = RolloutState.AWAITING_APPROVAL if is_needed else after_approval(plan)
    reason = "; ".join(f"{item['code']}: {item['text']}" for item in summary["reasons"])
    with transaction.atomic():
        if not move_rollout(rollout, to, actor=actor, now=now, reason=reason[:2000], summary=summary):
            return False
        remember(rollout, found.ids, now=now)
        if to != RolloutState.PREFLIGHT_FAILED:
            digest = summary["target_digest"]
            approval.submit(rollout, target_digest=digest, count=found.eligible, actor=actor, now=now)
    return True


def after_approval(plan: Plan) -> RolloutState:
    """Where a rollout goes that may run: `scheduled` when the plan names a start time, else `ready`."""
    return RolloutState.SCHEDULED if plan.start_at is not None else RolloutState.READY


def _taking_part(found: Census) -> list[str]:
    return [name for name, entry in found.classes.items() if entry["eligible"]]


def _waves(plan: Plan, placed: Sizes) -> list[dict[str, Any]]:
    rows = []
    for n, (size, pairs) in enumerate(zip(placed.waves, placed.pairs, strict=True), start=1):
        row: dict[str, Any] = {"n": n, "size": size, "is_gated": is_gated(plan, n), "pairs": pairs}
        if plan.by_class and row["is_gated"]:
            row["class_pairs"] = dict(sorted(placed.class_pairs[n - 1].items()))
        row["proof"] = least_devices(plan.r_prove) if plan.r_prove is not None and plan.proves(n) else None
        rows.append(row)
    return rows


def _least_pairs(plan: Plan, placed: Sizes, n: int) -> int:
    """Pairs of a gated wave that one process gets: all of it, or its smallest class."""
    return min(placed.class_pairs[n - 1].values(), default=0) if plan.by_class else placed.pairs[n - 1]


def _verdict_reasons(rollout: Rollout, found: Census) -> list[dict[str, str]]:
    reasons = []
    if why := security.untrusted(rollout.manifest):
        reasons.append(_reason("key_revoked", why, "release the version again"))
    if rollout.slot != rollout.manifest.slot:
        text = f"the manifest is signed for slot {rollout.manifest.slot}, not {rollout.slot}"
        reasons.append(_reason("io_contract", text, field="slot"))
    for name, entry in found.classes.items():
        verdict = entry.get("verdict")
        if verdict == "refuse":
            code, text = entry["code"] or "incompatible", entry["text"]
            fix = "leave the class out of the target, or upload a version that fits"
            reasons.append(_reason(code, f"{name}: {text}", fix, field="target.classes"))
        elif verdict == "unproven" and not entry["acknowledged"]:
            fix = "acknowledge it on the version page with a reason, or leave the class out"
            reasons.append(_reason("unproven", f"{name}: {entry['text']}", fix, field="target.classes"))
    return reasons


def _check_named(plan: Plan, found: Census) -> None:
    """Every device that a wave names is in the target, and a wave that names devices reaches one of them."""
    if found.outside:
        device_id = min(found.outside)
        place = f"waves[{found.waves[device_id] - 1}].named"
        raise PlanError("unknown_device", place, f"no device of the target is called {device_id!r}")
    for n, wave in enumerate(plan.waves, start=1):
        if wave.named and not found.named[n]:
            text = f"none of the devices that wave {n} names is eligible"
            raise PlanError("empty_target", f"waves[{n - 1}].named", text)


def _check_gates(plan: Plan, found: Census, placed: Sizes) -> None:
    if not plan.is_gated:
        return
    if not found.baselines:
        raise PlanError(
            "no_baseline",
            "metrics",
            "no device of the target runs a model yet: there is nothing to compare the candidate with",
            "use a plan without metrics and control for a first rollout",
        )
    for n, pairs in enumerate(placed.pairs, start=1):
        if is_gated(plan, n) and pairs < plan.min_pairs:
            raise PlanError(
                "gate_unreachable",
                f"waves[{n - 1}]",
                f"wave {n} has {placed.waves[n - 1]} devices and control {placed.control}: "
                f"{pairs} pairs, but the plan needs {plan.min_pairs}",
                f"give wave {n} and control at least {plan.min_pairs} devices each, or lower min_pairs",
            )
    _check_margins(plan, placed)


def _check_margins(plan: Plan, placed: Sizes) -> None:
    """Refuse a margin that not even equal devices could prove with the pairs a wave has."""
    for index, metric in enumerate(plan.metrics):
        least = least_pairs(metric.promote_margin, ALPHA) or 0
        for n, (pairs, by_class) in enumerate(zip(placed.pairs, placed.class_pairs, strict=True), start=1):
            if not is_gated(plan, n):
                continue
            parts = by_class if plan.by_class else {"": pairs}
            few, name = min((count, name) for name, count in parts.items())
            needed = max(least, plan.min_pairs)
            if few < needed:
                where = f" of class {name}" if name else ""
                raise PlanError(
                    "gate_unreachable",
                    f"metrics[{index}].promote_margin",
                    f"wave {n} has {few} pairs{where}: a margin of {margin_words(metric.promote_margin)} for "
                    f"{metric.key} needs at least {needed}, even when nothing differs",
                    f"give wave {n} and control at least {needed} devices each{where}, or widen the margin",
                )


def _check_proof(plan: Plan, placed: Sizes) -> None:
    """Refuse a proof of few failures that a wave is too small for, naming the least size."""
    for n, size in enumerate(placed.waves, start=1):
        least = least_devices(plan.r_prove) if plan.r_prove is not None and plan.proves(n) else 0
        if least is None or size < least:
            raise PlanError(
                "gate_unreachable",
                "r_prove",
                f"wave {n} has {size} devices: without one failure {least or 'more than ten million'} prove "
                f"that at most {plan.r_prove:.1%} fail",
                f"make wave {n} at least {least} devices large, or prove a higher ratio",
            )


def _check_measures(plan: Plan, rollout: Rollout) -> None:
    """Refuse a metric that the version's manifest leaves undefined."""
    for index, metric in enumerate(plan.metrics):
        if metric.metric == "latency" and not latency_budget_us(
            plan.latency_budget_us, rollout.manifest.message
        ):
            raise PlanError(
                "validation",
                f"metrics[{index}].metric",
                "the manifest carries no latency budget, so no window can be judged against it",
                "give latency_budget_us in the plan, or release the version with hint 6",
            )


def _notes(plan: Plan, found: Census, drop: float | None, pairs: int) -> list[str]:
    notes = [
        f"{device_id} of wave {found.waves[device_id]} is skipped: {reason.replace('_', ' ')}."
        for device_id, reason in sorted(found.named_skipped.items())[:SAMPLE]
    ]
    where = " of the smallest class" if plan.by_class else ""
    if not plan.is_gated:
        notes.append(NO_GATES if found.baselines else f"First model on these devices. {NO_GATES}")
    elif drop is not None:
        notes.append(
            f"{pairs} pairs{where} show a drop of {drop * 100:.1f} points in 4 of 5 rollouts "
            f"(expected pair spread {plan.pair_sd:g})."
        )
    else:
        notes.append(f"{pairs} pairs{where} are too few to show even a drop of 50 points reliably.")
    return notes


def _reason(code: str, text: str, fix: str = "", *, field: str = "") -> dict[str, str]:
    return {"code": code, "field": field, "text": text, "fix": fix}
