"""What each metric and each kind of accuracy may do, and when two models cannot be compared by it."""

from __future__ import annotations

from typing import Any

import pytest

from ota.choices import Verdict
from ota.gates.catalogue import MEASURES, METRICS, contrast
from ota.gates.evaluate import evaluate
from ota.gates.reasons import WORDS, words
from ota.plan import Plan, PlanError
from tests.ota.test_gates_evaluate import inputs, metric

WAVES = [{"count": 40}, {"percent": 100}]


def plan(*metrics: dict[str, Any], **more: Any) -> Plan:
    return Plan.parse({"waves": WAVES, "metrics": list(metrics), "accept_proxy": True, **more})


def test_accuracy_has_four_kinds_and_proxy_is_the_default() -> None:
    assert set(METRICS["accuracy"]) == {"golden", "delayed", "proxy", "estimate"}
    assert plan({"metric": "accuracy"}).metrics[0].kind == "proxy"


@pytest.mark.parametrize(("kind", "words_"), [("delayed", "not stored"), ("golden", "hard gate")])
def test_a_kind_that_is_not_compared_says_why(kind: str, words_: str) -> None:
    with pytest.raises(PlanError, match=words_) as caught:
        plan({"metric": "accuracy", "kind": kind})
    assert (caught.value.code, caught.value.field) == ("validation", "metrics[0].kind")


def test_an_estimate_alone_is_no_plan() -> None:
    with pytest.raises(PlanError, match="only halts"):
        plan({"metric": "accuracy", "kind": "estimate"})


def test_an_estimate_halts_for_a_person_and_never_blocks_or_rolls_back() -> None:
    good = metric([0.0] * 20)
    worse = metric([0.3] * 20, kind="estimate", may_pass=False, required=False)
    halted = evaluate(inputs(metrics=[good, worse]))
    assert (halted.verdict, halted.is_automatic) == (Verdict.FAIL, False)
    assert halted.reasons == ("quality:accuracy:estimate",)
    unknown = metric([], kind="estimate", may_pass=False, required=False)
    assert evaluate(inputs(metrics=[good, unknown])).verdict == Verdict.PASS


def test_devices_that_report_less_than_control_fail_for_missing_telemetry() -> None:
    silent = metric([0.9] * 12, metric="reporting", kind="")
    answer = evaluate(inputs(metrics=[metric([0.0] * 14), silent]))
    assert (answer.verdict, answer.reasons) == (Verdict.FAIL, ("missing_telemetry",))


def test_a_gated_plan_always_compares_missing_telemetry() -> None:
    given = plan({"metric": "accuracy", "weight": 0.5}, {"metric": "anomaly", "weight": 0.5})
    assert [(m.metric, m.promote_margin) for m in given.metrics][-1] == ("reporting", 0.05)
    assert [m.weight for m in given.metrics] == pytest.approx([0.4, 0.4, 0.2])
    assert sum(given.alphas(0, 1)) == pytest.approx(0.025)
    assert Plan.parse(given.to_json()) == given
    named = plan({"metric": "accuracy", "weight": 0.5}, {"metric": "reporting", "weight": 0.5})
    assert [m.weight for m in named.metrics] == [0.5, 0.5]


def test_the_alpha_of_all_waves_metrics_and_classes_adds_up_to_five_percent() -> None:
    given = plan({"metric": "accuracy", "weight": 0.7}, {"metric": "resets", "weight": 0.3}, by_class=True)
    total = sum(3 * sum(given.alphas(index, 4, parts=3)) for index in range(4))
    assert total == pytest.approx(0.05)
    with pytest.raises(PlanError, match="alpha_split"):
        plan({"metric": "accuracy", "weight": 0.7}, {"metric": "resets", "weight": 0.2})


@pytest.mark.parametrize(
    ("key", "candidate", "baseline", "is_same"),
    [
        (("anomaly", ""), {"anomaly": (1, 150)}, {"anomaly": (1, 150)}, True),
        (("anomaly", ""), {"anomaly": (1, 150)}, {"anomaly": (1, 200)}, False),
        (("anomaly", ""), {"anomaly": (1, 150)}, {}, False),
        (("anomaly", ""), {"front_end": (1, b"a")}, {"front_end": (1, b"b")}, False),
        (("accuracy", "proxy"), {"labels": b"a"}, {}, True),
        (("accuracy", "proxy"), {"labels": b"a"}, {"labels": b"b"}, False),
        (("accuracy", "proxy"), {"classes": 4}, {"classes": 5}, False),
        (("latency", ""), {"latency_budget_us": 10}, {"latency_budget_us": 20}, True),
        (("resets", ""), {"labels": b"a"}, {"labels": b"b"}, True),
    ],
)
def test_what_makes_two_models_incomparable(
    key: tuple[str, str], candidate: dict[str, Any], baseline: dict[str, Any], is_same: bool
) -> None:
    assert (contrast(*key, candidate, baseline) == "") is is_same


def test_pairs_that_could_not_be_compared_are_a_reason_of_their_own() -> None:
    answer = evaluate(inputs(metrics=[metric([], unlike=12, dropped=["a"])]))
    assert (answer.verdict, answer.reasons) == (Verdict.INCONCLUSIVE, ("not_comparable",))


def test_every_reason_has_words() -> None:
    for measure in MEASURES.values():
        if not measure.refusal:
            assert f"quality:{measure.key}" in WORDS
    said = words(["reach", "quality:resets@s3", "quality:resets@s3", "brand_new"])
    assert said == (
        "too few devices have confirmed and reported, unexpected resets are more frequent than in control"
        " (class s3), brand new"
    )


def test_golden_vectors_that_disagree_after_the_swap_are_a_hard_gate() -> None:
    given = inputs()
    given["hard"]["golden"] = {"n": 20, "k": 7}
    answer = evaluate(given)
    assert (answer.verdict, answer.reasons, answer.is_automatic) == (Verdict.FAIL, ("golden",), True)
    given["hard"]["golden"] = {"n": 20, "k": 6}
    assert evaluate(given).verdict == Verdict.PASS


def test_a_demanded_proof_holds_a_pass_back() -> None:
    asked = inputs(prove={"ratio": 0.1, "extensions": 0})
    answer = evaluate(asked)
    assert (answer.verdict, answer.reasons) == (Verdict.INCONCLUSIVE, ("not_proven",))
    asked["hard"]["exposed"] = 29
    assert evaluate(asked).verdict == Verdict.PASS
