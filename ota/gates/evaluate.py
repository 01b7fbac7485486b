"""From the stored inputs of a wave to gate rows and one verdict; the same inputs always give the same answer.

Inputs are plain JSON, kept with every evidence row (rollouts.md section 10). Format 2:

    {"format": 2, "wave": n, "restarts": n, "is_first": bool, "is_gated": bool, "spent": [device, ...],
     "reach": {"reached": n, "needed": n, "of": n, "confirmed": n}, "is_soaked": bool,
     "hard": {"exposed": n, "unexposed_model": n, "limits": {"model": r, "delivery": r, "compat": r},
              "failed": {"model": k, "delivery": k, "compat": k, "policy": k, "security": k},
              "single": [{"device", "code"}, ...], "golden": {"n", "k"}, "also_failed": [device, ...]},
     "prove": None | {"ratio": r, "extensions": n},
     "metrics": [{"metric", "kind", "class", "alpha", "alpha_p", "halt_margin", "promote_margin", "min_pairs",
                  "may_pass", "required", "process": {"clips", "scales"}, "possible": n, "silent": k,
                  "unlabelled": k, "unlike": k, "dropped": [device, ...],
                  "pairs": [{"t", "wave", "control", "at", "y1", "x1", "y0", "x0", "d", "n1", "h1"}, ...]},
                 ...],
     "telemetry": {"exposed": n, "silent": k}}

`also_failed`: devices of pairs that are counted in `failed` already. `unlike`: pairs dropped because the
metric is defined differently under the two models. n1, h1: outcomes behind y1 and x1. Format 1 lacks
"prove", "golden", "also_failed" and the keys of a metric that have a default in `ota.gates.compare`; it
recomputes as it was judged, with the processes of that time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ota.choices import Verdict
from ota.gates.collapse import collapsed
from ota.gates.compare import quality_row
from ota.gates.golden import golden_row
from ota.gates.immediate import single_rows
from ota.gates.install import LABELS, install_row
from ota.gates.proof import proof_row
from ota.gates.reporting import SILENT_LIMIT, telemetry_row
from ota.gates.rows import Row

__all__ = ["SILENT_LIMIT", "Evaluation", "Row", "evaluate", "hard_rows", "quality_row", "telemetry_row"]

FORMAT = 2
"""Form of the inputs that `ota.evidence` writes now; every older one can still be read."""


@dataclass(frozen=True)
class Evaluation:
    """A wave's verdict. reasons: why not PASS. is_automatic: a FAIL that may roll back without a person."""

    verdict: Verdict
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    is_automatic: bool


def evaluate(inputs: Mapping[str, Any]) -> Evaluation:
    """Judge a wave. FAIL beats everything; PASS needs every part; anything else is INCONCLUSIVE with reasons.

    Each row is {rule, label, now, limit, n, pairs, missing, interval, verdict, text, automatic}; what a
    quality row adds says `ota.gates.compare.quality_row`. Raises ValueError for a format it does not know.
    """
    if inputs["format"] not in (1, FORMAT):
        raise ValueError(f"evidence of format {inputs['format']} is newer than this code")
    fell = collapsed(inputs["metrics"])
    hard = hard_rows(inputs["hard"], is_first=inputs["is_first"], fell=fell)
    measured = [quality_row(metric) for metric in inputs["metrics"]]
    rows = [*hard, *_proof(inputs, hard), *measured]
    reasons = ["not_proven" for row in rows if row["rule"] == "proof:model" and row["verdict"] != "pass"]
    if inputs["is_gated"]:
        silence = telemetry_row(inputs["telemetry"])
        rows.append(silence)
        if silence["verdict"] != Verdict.PASS:
            reasons.append("missing_telemetry")
    failed = [row for row in rows if row["verdict"] == Verdict.FAIL]
    if failed:
        names = tuple(dict.fromkeys(_failure(row["rule"]) for row in failed))
        return Evaluation(Verdict.FAIL, names, tuple(rows), any(row["automatic"] for row in failed))
    if inputs["reach"]["reached"] < inputs["reach"]["needed"]:
        reasons.append("reach")
    if not inputs["is_soaked"]:
        reasons.append("soaking")
    for row in measured:
        reasons += row["reasons"] if row["required"] else []
    verdict = Verdict.INCONCLUSIVE if reasons else Verdict.PASS
    return Evaluation(verdict, tuple(dict.fromkeys(reasons)), tuple(rows), False)


def hard_rows(hard: Mapping[str, Any], *, is_first: bool, fell: Collection[str] = ()) -> list[Row]:
    """Gates that count devices: Wilson per class, golden vectors, and single reports that halt for a person.

    fell: devices that collapsed (`ota.gates.collapse`); those that failed anyway are not counted twice.
    """
    more = len(set(fell) - set(hard.get("also_failed", ())))
    rows = [install_row(name, hard, collapsed=more) for name in LABELS]
    if "golden" in hard:
        rows.append(golden_row(hard["golden"], hard["limits"]["model"]))
    return rows + single_rows(hard["single"], is_first=is_first)


def _proof(inputs: Mapping[str, Any], hard: list[Row]) -> list[Row]:
    """The proof of few failures where the plan demands one, over the same devices as the gate that halts."""
    prove = inputs.get("prove")
    if not prove:
        return []
    model = next(row for row in hard if row["rule"] == "install:model")
    failed = round((model["now"] or 0.0) * model["n"])
    return [proof_row(failed, model["n"], prove["ratio"], extensions=prove["extensions"])]


def _failure(rule: str) -> str:
    """Devices that report less than control are missing telemetry, by proof."""
    return "missing_telemetry" if rule.partition("@")[0] == "quality:reporting" else rule
