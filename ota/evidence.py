"""What a wave is judged on: counts and pairs from the database, frozen into immutable evidence rows.

Each evidence row repeats the pairs of the one before it and adds the newly matured ones. The verdict
recomputes from the row alone, with the processes of the time it was judged.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet import hints
from ota.baselines import HISTORY_LEAST, baselines, strata_means
from ota.choices import JobState
from ota.exposure import Tally, hard_counts, is_settled, is_soaked, reach, soak_ends, tally
from ota.gates.evaluate import FORMAT, Evaluation, Row, evaluate, quality_row, telemetry_row
from ota.gates.failures import failure_class
from ota.models import Evidence, Rollout, Wave
from ota.offers import newest_jobs
from ota.pairing import gather_metrics, new_rows, row_key, used_devices
from ota.plan import Plan

__all__ = [
    "CODE_VERSION",
    "HISTORY_LEAST",
    "Inputs",
    "Recheck",
    "baselines",
    "digest",
    "empty_rows",
    "gather",
    "hard_counts",
    "is_automatic",
    "is_settled",
    "is_soaked",
    "newest",
    "reach",
    "recheck",
    "recompute",
    "soak_ends",
    "spent_pairs",
    "store",
    "strata_means",
]

CODE_VERSION = "gates-2"
"""Names the rules that judged; rises with every change of `ota.gates` that could change a verdict."""

Inputs = dict[str, Any]


def gather(
    wave: Wave,
    rollout: Rollout,
    plan: Plan,
    *,
    now: datetime,
    counted: Tally | None = None,
) -> Inputs:
    """Everything the verdict on a wave needs, as plain JSON; `ota.gates.evaluate` writes its form down.

    counted: the wave's `tally` as of now, None takes one.
    """
    before = newest(wave)
    past = _past(before.inputs if before else {}, wave)
    metrics, telemetry = gather_metrics(wave, rollout, plan, past, now=now)
    counted = counted or tally(wave)
    first = rollout.waves.order_by("n").values_list("n", flat=True).first()
    inputs = {
        "format": FORMAT,
        "wave": wave.n,
        "restarts": wave.restarts,
        "is_first": wave.n == first,
        "is_gated": wave.is_gated,
        "reach": reach(wave, rollout, plan, counted),
        "is_soaked": is_soaked(wave, plan, now=now),
        "hard": hard_counts(wave, plan, counted) | {"also_failed": _also_failed(wave, metrics)},
        "prove": None,
        "spent": past["spent"],
        "metrics": metrics,
        "telemetry": telemetry,
    }
    if plan.proves(wave.n):
        inputs["prove"] = _prove(plan, inputs, before.inputs if before else None)
    return inputs


def newest(wave: Wave) -> Evidence | None:
    """The newest evidence of a wave."""
    return Evidence.objects.filter(wave=wave).order_by("-at", "-id").first()


def store(wave: Wave, inputs: Inputs, evaluation: Evaluation, *, now: datetime) -> Evidence:
    """Write an evidence row. Never changed afterwards."""
    hints.changed(hints.rollout(wave.rollout_id))
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
    rows = [quality_row(row | {"possible": possible}) for row, _ in new_rows(wave, rollout, plan)]
    return [*rows, telemetry_row({"exposed": 0, "silent": 0})]


@dataclass(frozen=True)
class Recheck:
    """A stored evidence row judged again by the code of today.

    is_intact: the inputs fit their digest. is_same: and the verdict is the stored one. rows: as judged now,
    [] when the inputs cannot be judged. differs: rules whose verdict is another one now. problem: why not.
    """

    is_intact: bool
    is_same: bool
    verdict: str
    rows: list[Row]
    differs: tuple[str, ...]
    problem: str


def recheck(evidence: Evidence) -> Recheck:
    """Judge a stored row again from its inputs alone; raises nothing, whatever the row holds."""
    is_intact = digest(evidence.inputs) == evidence.inputs_sha256
    problem = "" if is_intact else "the stored inputs do not fit their digest"
    try:
        again = evaluate(evidence.inputs)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        said = problem or f"the inputs cannot be judged: {type(error).__name__} {error}"[:200]
        return Recheck(is_intact, False, "", [], (), said)
    now = {row["rule"]: row["verdict"] for row in again.rows}
    then = {row["rule"]: row["verdict"] for row in evidence.rows}
    differs = tuple(rule for rule, verdict in then.items() if now.get(rule) != verdict)
    is_same = is_intact and again.verdict == evidence.verdict and not differs
    if not is_same and not problem:
        problem = f"judged {again.verdict} now" + (f", other on {', '.join(differs)}" if differs else "")
    return Recheck(is_intact, is_same, str(again.verdict), list(again.rows), differs, problem)


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
    """How many pairs have entered or were dropped, over all processes: what grows when one matures."""
    return sum(len(row["pairs"]) + len(row["dropped"]) for row in inputs.get("metrics", []))


def _past(inputs: Inputs, wave: Wave) -> dict[str, Any]:
    """What earlier evidence of this wave used up: {"spent": [device], "metrics": {key: row}}.

    A restart begins new processes: the pairs before it are spent and enter no more.
    """
    metrics = {row_key(row): row for row in inputs.get("metrics", [])}
    spent = list(inputs.get("spent", []))
    if inputs and inputs["restarts"] != wave.restarts:
        used = {name for row in metrics.values() for name in used_devices(row)}
        return {"spent": sorted({*spent, *used}), "metrics": {}}
    return {"spent": spent, "metrics": metrics}


def _also_failed(wave: Wave, metrics: list[dict[str, Any]]) -> list[str]:
    """Devices of pairs whose newest attempt is a failure of the model: collapsed or not, they count once."""
    paired = {pair["wave"] for row in metrics for pair in row["pairs"]}
    jobs = newest_jobs(wave).filter(state__in=(JobState.SELF_REVERTED, JobState.FAILED, JobState.REJECTED))
    return sorted(
        job.device_id
        for job in jobs.filter(device_id__in=paired)
        if failure_class(job.state, job.code) == "model"
    )


def _prove(plan: Plan, inputs: Inputs, before: Inputs | None) -> dict[str, Any]:
    """The proof the plan demands, and at how many earlier looks it was asked for in vain."""
    looks = 0
    if before and before.get("prove"):
        looks = before["prove"]["extensions"]
        is_new = {**before, "prove": None} != {**inputs, "prove": None}
        looks += bool(before["is_soaked"] and is_new)
    return {"ratio": plan.r_prove, "extensions": looks}
