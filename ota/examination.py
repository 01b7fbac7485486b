"""Everything that is found out about an uploaded model before any device class comes into it.

`examine` walks the stages in order of cost and stops at the first refusal: structure and static rules, the
sandboxed probe, the evaluation set, golden vectors. What it returns goes with a device class into
`ota.preflight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ota import evaluation as evaluations
from ota import golden as goldens
from ota.errors import OtaError
from ota.evaluation import Accuracy, Evaluation
from ota.golden import GoldenSet
from ota.inspector import Inspection, Reason, inspect
from ota.probe import ProbeError, ProbeJob, ProbeLimits, ProbeResult, run_probe

ACCURACY_MARGIN: Final = 0.02
"""How far the measured accuracy may fall short of the declared one."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What is known of one model file.

    probe, accuracy, golden are None when that stage was not reached or nobody gave the data for it. reasons:
    why no device can have it; empty when nothing speaks against it. missing: evidence nobody has (`probe`,
    `evaluation_set`, `declared_accuracy`); a model with something missing is at best `unproven`. notes: true
    and refusing nothing.
    """

    inspection: Inspection
    probe: ProbeResult | None = None
    accuracy: Accuracy | None = None
    golden: GoldenSet | None = None
    reasons: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def golden_blob_bytes(self) -> int:
        """Bytes the golden vectors add to the artifact; 0 when they fit into the manifest."""
        return 0 if self.golden is None or self.golden.inline is not None else len(self.golden.blob)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types; of the golden set its size and form only."""
        golden = None
        if self.golden is not None:
            golden = {
                "vectors": len(self.golden.vectors),
                "bytes": len(self.golden.blob),
                "form": "inline" if self.golden.inline is not None else "blob",
                "tolerance": self.golden.tolerance,
            }
        return {
            "inspection": self.inspection.to_json(),
            "probe": self.probe.to_json() if self.probe else None,
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "golden": golden,
            "reasons": [reason_json(reason) for reason in self.reasons],
            "missing": list(self.missing),
            "notes": list(self.notes),
        }


def reason_json(reason: Reason) -> dict[str, str]:
    """A reason as JSON types."""
    return {"code": reason.code, "text": reason.text, "fix": reason.fix}


def examine(
    data: bytes,
    *,
    evaluation: bytes | None = None,
    declared_accuracy: float | None = None,
    score_output: int = 0,
    static_rules: bool = True,
    limits: ProbeLimits | None = None,
) -> Examination:
    """Inspect a model, run it in the sandbox, measure it and record its golden vectors.

    data: the `.tflite`; evaluation: an `.npz` (see `ota.evaluation`). declared_accuracy in [0, 1]: the
    uploader's own figure; more than 0.02 below it is `selftest_mismatch`. score_output: which output holds
    the class scores. static_rules False runs a model although a static rule refuses it, so that the later
    proofs can be tested alone. Takes about half a second for a small model, at most 40 s for a hanging one.
    Raises InspectionError when the bytes are no model at all; every other refusal is in `reasons`.
    """
    inspection = inspect(data)
    if inspection.refusals and static_rules:
        return Examination(inspection, reasons=inspection.refusals, notes=inspection.notes)
    if any(reason.code == "io_contract" for reason in inspection.refusals):
        return Examination(inspection, reasons=inspection.refusals, notes=inspection.notes)
    try:
        return _run(data, inspection, evaluation, declared_accuracy, score_output, limits)
    except ProbeError as error:
        if error.code == "unavailable":
            return Examination(
                inspection, missing=("probe", "evaluation_set"), notes=(*inspection.notes, error.text)
            )
        return _refused(inspection, error)
    except OtaError as error:
        return _refused(inspection, error)


def _refused(inspection: Inspection, error: OtaError) -> Examination:
    reason = Reason(error.code, error.text, error.fix)
    return Examination(inspection, reasons=(reason,), notes=inspection.notes)


def _run(
    data: bytes,
    inspection: Inspection,
    archive: bytes | None,
    declared_accuracy: float | None,
    score_output: int,
    limits: ProbeLimits | None,
) -> Examination:
    given: Evaluation | None = None
    if archive is not None:
        given = evaluations.parse_evaluation(archive, inspection, score_output=score_output)
    rows = given.rows if given is not None else goldens.seeded_rows(inspection)
    probe = run_probe(data, ProbeJob.of(inspection, rows), limits=limits)
    reasons: list[Reason] = []
    missing: list[str] = []
    accuracy = None
    if given is None:
        missing.append("evaluation_set")
    else:
        accuracy = evaluations.measure(given, probe.outputs, inspection, score_output=score_output)
        reasons += judge_accuracy(accuracy, declared_accuracy)
        if declared_accuracy is None and accuracy.ratio <= accuracy.majority_ratio:
            missing.append("declared_accuracy")
    golden = None
    labels = given.labels if given is not None else None
    try:
        golden = _golden(data, inspection, probe, rows, labels, score_output, limits)
    except OtaError as error:
        reasons.append(Reason(error.code, error.text, error.fix))
    return Examination(inspection, probe, accuracy, golden, tuple(reasons), tuple(missing), inspection.notes)


def judge_accuracy(accuracy: Accuracy, declared: float | None) -> list[Reason]:
    """The refusal a measured accuracy earns against the uploader's own figure; empty when it holds or none
    was given."""
    if declared is None or accuracy.ratio >= declared - ACCURACY_MARGIN:
        return []
    return [
        Reason(
            "selftest_mismatch",
            f"{accuracy.ratio:.1%} of {accuracy.n:,} rows are right, {declared:.1%} were declared "
            f"(at most {ACCURACY_MARGIN * 100:.0f} points less are accepted)",
            "the conversion lost accuracy, or the set is not the one the figure was measured on",
        )
    ]


def _golden(
    data: bytes,
    inspection: Inspection,
    probe: ProbeResult,
    rows: tuple[bytes, ...],
    labels: NDArray[np.int64] | None,
    score_output: int,
    limits: ProbeLimits | None,
) -> GoldenSet:
    def choose(outputs: tuple[bytes, ...]) -> tuple[bytes, ...]:
        chosen = goldens.choose_golden(inspection, rows, outputs, labels=labels, score_output=score_output)
        return tuple(rows[index] for index in chosen)

    def in_sequence(given: tuple[bytes, ...]) -> tuple[bytes, ...]:
        job = ProbeJob.of(inspection, given, independent=False, find_arena=False)
        return run_probe(data, job, limits=limits).outputs

    if not inspection.is_stateful:
        picked = choose(probe.outputs)
        outputs = dict(zip(rows, probe.outputs, strict=True))
        return goldens.make_golden(inspection, picked, [outputs[row] for row in picked])
    try:
        picked = choose(probe.outputs)
    except goldens.GoldenError:
        # It may answer with what came before: the same from every fresh start, not over a stretch of time.
        picked = choose(in_sequence(rows))
    # A device resets once and then runs the vectors as one sequence: record them exactly so.
    recorded = in_sequence(picked)
    goldens.check_varied(inspection, recorded, score_output=score_output)
    return goldens.make_golden(inspection, picked, recorded)
