"""One metric of a wave against control: FAIL on proof of harm, PASS on proof of no harm, else why not yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ota.choices import Verdict
from ota.gates import quality
from ota.gates.catalogue import measure_of
from ota.gates.quality import Settings
from ota.gates.rows import Row, make_row, number

TRACE_POINTS = 120


def quality_row(metric: Mapping[str, Any]) -> Row:
    """Judge one metric by its pairs alone. FAIL at any pair ever, PASS only with all pairs up to now.

    Adds to the common row: kind, class, promote_now, promote_limit, possible, drop, trace
    [[t, log10 E, log10 N], ...], required (its proof is needed for a PASS) and reasons.
    """
    measure = measure_of(metric["metric"], metric["kind"])
    settings = Settings.of_json(metric.get("process"))
    pairs = metric["pairs"]
    differences = [pair["d"] for pair in pairs]
    harm = quality.harm(differences, metric["halt_margin"], settings)
    proof = quality.non_inferiority(differences, metric["promote_margin"], settings)
    limit, promote_limit = 1.0 / metric["alpha"], 1.0 / metric["alpha_p"]
    is_harmful = max(harm, default=0.0) >= math.log(limit)
    is_proven = bool(proof) and proof[-1] >= math.log(promote_limit)
    reasons = _reasons(metric, is_proven=is_proven)
    verdict = Verdict.FAIL if is_harmful else Verdict.INCONCLUSIVE if reasons else Verdict.PASS
    drop = sum(differences) / len(differences) if differences else None
    low, high = quality.interval(differences, metric["alpha"], metric["alpha_p"], settings)
    only = metric.get("class", "")
    row = make_row(
        f"quality:{measure.key}" + (f"@{only}" if only else ""),
        measure.label + (f", {only}" if only else ""),
        verdict,
        _text(len(pairs), metric["possible"], drop, low, max(harm, default=0.0), limit),
        now=number(max(harm, default=0.0)),
        limit=limit,
        n=len(pairs),
        interval=[low, high],
        automatic=is_harmful and measure.may_roll_back,
    )
    return row | {
        "kind": metric["kind"],
        "flag": measure.flag,
        "pairs": len(pairs),
        "missing": metric["silent"] + metric["unlabelled"] + metric.get("unlike", 0),
        "possible": metric["possible"],
        "promote_now": number(proof[-1] if proof else 0.0),
        "promote_limit": promote_limit,
        "drop": drop,
        "trace": _trace(harm, proof),
        "required": bool(metric.get("required", True)),
        "reasons": reasons,
    }


def _reasons(metric: Mapping[str, Any], *, is_proven: bool) -> list[str]:
    reasons = []
    pairs = metric["pairs"]
    if len(pairs) < metric["min_pairs"]:
        if metric.get("unlike", 0):
            reasons.append("not_comparable")
        elif metric["unlabelled"] and not pairs:
            reasons.append("no_labels")
        else:
            reasons.append("too_few_pairs")
    elif not is_proven:
        reasons.append("not_separated")
    if not metric["may_pass"]:
        reasons.append("kind_never_passes")
    return reasons


def _text(pairs: int, possible: int, drop: float | None, low: float | None, harm: float, limit: float) -> str:
    if drop is None:
        return f"no pair of {possible} has matured yet"
    way = "worse" if drop > 0 else "better"
    text = f"{pairs} of {possible} pairs, {abs(drop) * 100:.1f} points {way} than control"
    if low is not None and low > 0:
        text += f", at least {low * 100:.1f}"
    return f"{text} (E = {number(harm):.3g}, limit {limit:.4g})"


def _trace(harm: list[float], proof: list[float]) -> list[list[float]]:
    """[t, log10 E, log10 N], thinned to TRACE_POINTS with the last pair always kept."""
    step = max(1, math.ceil(len(harm) / TRACE_POINTS))
    kept = [t for t in range(len(harm)) if (len(harm) - 1 - t) % step == 0]
    scale = math.log(10.0)
    return [[t + 1, round(harm[t] / scale, 4), round(proof[t] / scale, 4)] for t in kept]
