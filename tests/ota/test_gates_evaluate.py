"""From inputs to verdict: FAIL beats PASS, missing evidence is never a pass."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from ota.choices import Verdict
from ota.gates.evaluate import evaluate, quality_row


def metric(drops: list[float], **change: Any) -> dict[str, Any]:
    pairs = [
        {"t": t, "wave": f"w{t}", "control": f"c{t}", "at": "", "y1": 0, "x1": 0, "y0": 0, "x0": 0, "d": d}
        for t, d in enumerate(drops, start=1)
    ]
    row = {
        "metric": "accuracy",
        "kind": "proxy",
        "alpha": 0.025,
        "alpha_p": 0.05,
        "halt_margin": 0.0,
        "promote_margin": 0.1,
        "min_pairs": 12,
        "may_pass": True,
        "possible": 20,
        "silent": 0,
        "unlabelled": 0,
        "dropped": [],
        "pairs": pairs,
    }
    return row | change


def with_pairs(row: dict[str, Any], outcomes: list[tuple[float, float, float, float]]) -> dict[str, Any]:
    """The metric with pairs of (y1, x1, y0, x0), 40 outcomes each and 480 of history."""
    pairs = [
        {
            "t": t,
            "wave": f"w{t}",
            "control": f"c{t}",
            "at": "",
            **{"y1": y1, "x1": x1, "y0": y0, "x0": x0, "d": round((y0 - x0) - (y1 - x1), 9)},
            **{"n1": 40, "h1": 480},
        }
        for t, (y1, x1, y0, x0) in enumerate(outcomes, start=1)
    ]
    return row | {"pairs": pairs}


def inputs(**change: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "format": 1,
        "wave": 1,
        "restarts": 0,
        "is_first": True,
        "is_gated": True,
        "reach": {"reached": 20, "needed": 19, "of": 20, "confirmed": 20},
        "is_soaked": True,
        "hard": {
            "exposed": 20,
            "unexposed_model": 0,
            "failed": {"model": 0, "delivery": 0, "compat": 0, "policy": 0, "security": 0},
            "limits": {"model": 0.1, "delivery": 0.2, "compat": 0.02},
            "single": [],
        },
        "spent": [],
        "metrics": [metric([0.0] * 14)],
        "telemetry": {"exposed": 20, "silent": 1},
    }
    return base | change


def with_failures(**failed: int) -> dict[str, Any]:
    given = copy.deepcopy(inputs())
    given["hard"]["failed"] |= failed
    return given


def test_everything_in_order_passes() -> None:
    verdict = evaluate(inputs())
    assert (verdict.verdict, verdict.reasons) == (Verdict.PASS, ())
    assert {row["rule"] for row in verdict.rows} == {
        "install:model",
        "install:delivery",
        "install:compat",
        "quality:accuracy:proxy",
        "telemetry",
    }
    json.dumps(verdict.rows, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reach": {"reached": 18, "needed": 19, "of": 20, "confirmed": 18}}, "reach"),
        ({"is_soaked": False}, "soaking"),
        ({"metrics": [metric([0.0] * 11)]}, "too_few_pairs"),
        ({"metrics": [metric([])]}, "too_few_pairs"),
        ({"metrics": [metric([], unlabelled=4, dropped=["a", "b", "c", "d"])]}, "no_labels"),
        ({"metrics": [metric([0.05, -0.05] * 7, promote_margin=0.03)]}, "not_separated"),
        ({"metrics": [metric([0.0] * 14, may_pass=False)]}, "kind_never_passes"),
        ({"telemetry": {"exposed": 20, "silent": 5}}, "missing_telemetry"),
        ({"telemetry": {"exposed": 0, "silent": 0}}, "missing_telemetry"),
    ],
)
def test_one_missing_part_is_inconclusive(change: dict[str, Any], reason: str) -> None:
    verdict = evaluate(inputs(**change))
    assert verdict.verdict == Verdict.INCONCLUSIVE
    assert reason in verdict.reasons


def test_every_metric_must_pass() -> None:
    other = metric([0.0] * 5, metric="anomaly", kind="")
    verdict = evaluate(inputs(metrics=[metric([0.0] * 14), other]))
    assert verdict.verdict == Verdict.INCONCLUSIVE


def test_proof_of_harm_fails_even_while_telemetry_is_missing() -> None:
    verdict = evaluate(inputs(metrics=[metric([0.3] * 7)], telemetry={"exposed": 20, "silent": 10}))
    assert verdict.verdict == Verdict.FAIL
    assert verdict.reasons == ("quality:accuracy:proxy",)
    assert verdict.is_automatic
    row = next(row for row in verdict.rows if row["rule"] == "quality:accuracy:proxy")
    terms = [
        (2 / (1 + math.exp(-2 * scale * clip))) ** 7 for clip in (0.05, 0.1, 0.2) for scale in (8, 16, 32)
    ]
    assert row["now"] == pytest.approx(sum(terms) / 9)
    assert row["limit"] == pytest.approx(40)
    assert row["drop"] == pytest.approx(0.3)
    assert "30.0 points worse than control, at least" in row["text"]
    assert [t for t, _, _ in row["trace"]] == list(range(1, 8))


def test_harm_once_proven_is_not_taken_back_by_later_pairs() -> None:
    row = quality_row(metric([0.3] * 7 + [-0.3] * 13))
    assert row["verdict"] == Verdict.FAIL
    assert row["trace"][-1][1] < row["trace"][6][1]


@pytest.mark.parametrize(("failed", "verdict"), [(6, Verdict.PASS), (7, Verdict.FAIL)])
def test_model_failures_go_through_wilson(failed: int, verdict: Verdict) -> None:
    answer = evaluate(with_failures(model=failed))
    assert answer.verdict == verdict
    assert answer.is_automatic == (verdict == Verdict.FAIL)


def test_failures_before_the_trial_count_in_their_own_class_only() -> None:
    answer = evaluate(with_failures(delivery=20))
    counts = {row["rule"]: row["n"] for row in answer.rows if row["rule"].startswith("install:")}
    assert counts == {"install:model": 20, "install:delivery": 40, "install:compat": 20}
    assert answer.verdict == Verdict.FAIL


@pytest.mark.parametrize("code", ["selftest_mismatch", "load_failed", "op_missing", "signature"])
def test_one_device_in_the_first_wave_halts_for_a_person(code: str) -> None:
    given = copy.deepcopy(inputs())
    given["hard"]["single"] = [{"device": "dev-3", "code": code}]
    answer = evaluate(given)
    assert answer.verdict == Verdict.FAIL
    assert not answer.is_automatic
    later = evaluate(given | {"is_first": False})
    assert (later.verdict == Verdict.FAIL) == (code == "signature")


def test_a_wave_without_quality_gates_needs_no_pairs() -> None:
    answer = evaluate(inputs(is_gated=False, metrics=[], telemetry={"exposed": 0, "silent": 0}))
    assert answer.verdict == Verdict.PASS


def test_inputs_from_the_database_give_the_same_rows() -> None:
    given = inputs(metrics=[metric([0.01 * i - 0.05 for i in range(14)])])
    again = json.loads(json.dumps(given, sort_keys=True))
    assert json.dumps(evaluate(again).rows) == json.dumps(evaluate(given).rows)


def test_a_long_trace_is_thinned_and_keeps_the_last_pair() -> None:
    row = quality_row(metric([0.0] * 1_000))
    assert len(row["trace"]) <= 120
    assert row["trace"][-1][0] == 1_000
