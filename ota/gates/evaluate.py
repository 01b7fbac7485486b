"""From the stored inputs of a wave to gate rows and one verdict; the same inputs always give the same answer.

Inputs are plain JSON, kept with every evidence row (rollouts.md section 10):

    {"format": 1, "wave": n, "restarts": n, "is_first": bool, "is_gated": bool, "spent": [device, ...],
     "reach": {"reached": n, "needed": n, "of": n}, "is_soaked": bool,
     "hard": {"exposed": n, "failed": {"model": k, "delivery": k, "compat": k, "policy": k, "security": k},
              "limits": {"model": r, "delivery": r, "compat": r}, "single": [{"device", "code"}, ...]},
     "metrics": [{"metric", "kind", "alpha", "alpha_p", "halt_margin", "promote_margin", "min_pairs",
                  "may_pass", "possible": n, "silent": k, "unlabelled": k, "dropped": [device, ...],
                  "pairs": [{"t", "wave", "control", "at", "y1", "x1", "y0", "x0", "d"}, ...]}, ...],
     "telemetry": {"exposed": n, "silent": k}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ota.choices import Verdict
from ota.gates import quality
from ota.gates.wilson import LEAST_DEVICES, halts, wilson_interval

SILENT_LIMIT = 0.20
"""Share of exposed devices without half of their expected telemetry above which nothing passes."""
TRACE_POINTS = 120
_LARGEST = 300.0  # log10: E is printed up to 1e300
_LABELS = {
    "model": "Failed on the model",
    "delivery": "Failed in delivery",
    "compat": "Refused as incompatible",
}
METRIC_LABELS = {
    "accuracy:proxy": "Accuracy (proxy labels)",
    "anomaly": "Windows without anomaly",
    "reporting": "Telemetry reported",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """A wave's verdict. reasons: why not PASS. is_automatic: a FAIL that may roll back without a person."""

    verdict: Verdict
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    is_automatic: bool


def evaluate(inputs: Mapping[str, Any]) -> Evaluation:
    """Judge a wave. FAIL beats everything; PASS needs every part; anything else is INCONCLUSIVE with reasons.

    Each row is {rule, label, now, limit, n, pairs, missing, interval, verdict, text, automatic}; a quality
    row also has promote_now, promote_limit, possible, drop and trace [[t, log10 E, log10 N], ...].
    """
    hard = hard_rows(inputs["hard"], is_first=inputs["is_first"])
    measured = [quality_row(metric) for metric in inputs["metrics"]]
    rows = [*hard, *measured]
    reasons: list[str] = []
    if inputs["is_gated"]:
        silence = telemetry_row(inputs["telemetry"])
        rows.append(silence)
        if silence["verdict"] != Verdict.PASS:
            reasons.append("missing_telemetry")
    failed = [row for row in rows if row["verdict"] == Verdict.FAIL]
    if failed:
        names = tuple(dict.fromkeys(row["rule"] for row in failed))
        return Evaluation(Verdict.FAIL, names, tuple(rows), any(row["automatic"] for row in failed))
    if inputs["reach"]["reached"] < inputs["reach"]["needed"]:
        reasons.append("reach")
    if not inputs["is_soaked"]:
        reasons.append("soaking")
    for row in measured:
        reasons += row["reasons"]
    verdict = Verdict.INCONCLUSIVE if reasons else Verdict.PASS
    return Evaluation(verdict, tuple(dict.fromkeys(reasons)), tuple(rows), False)


def hard_rows(hard: Mapping[str, Any], *, is_first: bool) -> list[Row]:
    """Install-failure gates: Wilson per class, and single reports that halt for a person."""
    rows = []
    for name in _LABELS:
        limit = hard["limits"][name]
        failed = hard["failed"].get(name, 0)
        # a device that failed before its trial counts in the n of its own class only
        n = hard["exposed"] + (failed if name != "model" else hard.get("unexposed_model", 0))
        low, high = wilson_interval(failed, n)
        tripped = halts(failed, n, limit)
        verdict = Verdict.FAIL if tripped else Verdict.PASS if n >= LEAST_DEVICES else Verdict.INCONCLUSIVE
        text = f"{failed} of {n} devices; at least {low:.1%} for certain, limit {limit:.0%}"
        rows.append(
            _row(
                f"install:{name}",
                _LABELS[name],
                verdict,
                text,
                now=failed / n if n else None,
                limit=limit,
                n=n,
                interval=[low, high],
                automatic=tripped,
            )
        )
    for single in hard["single"]:
        code, device = single["code"], single["device"]
        if code == "signature":
            rule, label, why = (
                "security",
                "Signature refused",
                "a device refused the signature of this manifest",
            )
        elif is_first:
            rule, label, why = "first_wave", "Preflight was wrong", f"{code} in the first wave"
        else:
            continue
        text = f"{device}: {why}; one device's word halts for a person"
        rows.append(_row(rule, label, Verdict.FAIL, text, now=1.0, limit=0.0, n=1))
    return rows


def quality_row(metric: Mapping[str, Any]) -> Row:
    """One metric: FAIL on proof of harm at any pair, PASS on proof of non-inferiority, else why not yet."""
    pairs = metric["pairs"]
    key = f"{metric['metric']}:{metric['kind']}" if metric["kind"] else metric["metric"]
    label = METRIC_LABELS.get(key, key)
    differences = [pair["d"] for pair in pairs]
    harm = quality.harm(differences, metric["halt_margin"])
    proof = quality.non_inferiority(differences, metric["promote_margin"])
    limit, promote_limit = 1.0 / metric["alpha"], 1.0 / metric["alpha_p"]
    is_harmful = max(harm, default=0.0) >= math.log(limit)
    is_proven = bool(proof) and proof[-1] >= math.log(promote_limit)
    missing = metric["silent"] + metric["unlabelled"]
    reasons: list[str] = []
    if len(pairs) < metric["min_pairs"]:
        reasons.append("no_labels" if metric["unlabelled"] and not pairs else "too_few_pairs")
    elif not is_proven:
        reasons.append("not_separated")
    if not metric["may_pass"]:
        reasons.append("kind_never_passes")
    verdict = Verdict.FAIL if is_harmful else Verdict.INCONCLUSIVE if reasons else Verdict.PASS
    drop = sum(differences) / len(differences) if differences else None
    low, high = quality.interval(differences, metric["alpha"], metric["alpha_p"])
    row = _row(
        f"quality:{key}",
        label,
        verdict,
        _quality_text(len(pairs), metric["possible"], drop, low, max(harm, default=0.0), limit),
        now=_number(max(harm, default=0.0)),
        limit=limit,
        n=len(pairs),
        interval=[low, high],
        automatic=is_harmful,
    )
    return row | {
        "pairs": len(pairs),
        "missing": missing,
        "possible": metric["possible"],
        "promote_now": _number(proof[-1] if proof else 0.0),
        "promote_limit": promote_limit,
        "drop": drop,
        "trace": _trace(harm, proof),
        "reasons": reasons,
    }


def telemetry_row(telemetry: Mapping[str, int]) -> Row:
    """Missing evidence is never a pass: too many silent devices keep the wave inconclusive."""
    exposed, silent = telemetry["exposed"], telemetry["silent"]
    share = silent / exposed if exposed else None
    is_quiet = share is not None and share <= SILENT_LIMIT
    text = (
        f"{silent} of {exposed} exposed devices sent less than half of their telemetry"
        if exposed
        else "no comparison window has ended yet"
    )
    verdict = Verdict.PASS if is_quiet else Verdict.INCONCLUSIVE
    row = _row("telemetry", "Silent devices", verdict, text, now=share, limit=SILENT_LIMIT, n=exposed)
    return row | {"missing": silent}


def _row(
    rule: str,
    label: str,
    verdict: Verdict,
    text: str,
    *,
    now: float | None,
    limit: float,
    n: int,
    interval: list[float | None] | list[float] | None = None,
    automatic: bool = False,
) -> Row:
    return {
        "rule": rule,
        "label": label,
        "now": now,
        "limit": limit,
        "n": n,
        "pairs": None,
        "missing": 0,
        "interval": interval,
        "verdict": str(verdict),
        "text": text,
        "automatic": automatic,
    }


def _quality_text(
    pairs: int, possible: int, drop: float | None, low: float | None, harm: float, limit: float
) -> str:
    if drop is None:
        return f"no pair of {possible} has matured yet"
    way = "worse" if drop > 0 else "better"
    text = f"{pairs} of {possible} pairs, {abs(drop) * 100:.1f} points {way} than control"
    if low is not None and low > 0:
        text += f", at least {low * 100:.1f}"
    return f"{text} (E = {_number(harm):.3g}, limit {limit:.4g})"


def _number(log: float) -> float:
    """exp(log), bounded so that JSON and pages can hold it."""
    return float(10.0 ** max(-_LARGEST, min(_LARGEST, log / math.log(10.0))))


def _trace(harm: list[float], proof: list[float]) -> list[list[float]]:
    """[t, log10 E, log10 N], thinned to TRACE_POINTS with the last pair always kept."""
    step = max(1, math.ceil(len(harm) / TRACE_POINTS))
    kept = [t for t in range(len(harm)) if (len(harm) - 1 - t) % step == 0]
    scale = math.log(10.0)
    return [[t + 1, round(harm[t] / scale, 4), round(proof[t] / scale, 4)] for t in kept]
