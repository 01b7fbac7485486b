"""`manage.py inspect`: what is in a model, whether it runs, and which device classes can have it.

Needs neither database nor broker. Exit status: 0 not refused, 1 refused, 2 unusable arguments.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ota.evaluation import EVALUATION_MAX_BYTES
from ota.examination import Examination, examine, reason_json
from ota.inspector import UPLOAD_MAX_BYTES, InspectionError, Reason
from ota.preflight import BUILTIN_CLASSES, MISSING_TEXTS, ClassSpec, preflight

WORDS = {"pass": "pass", "refuse": "REFUSED", "unproven": "unproven"}


def report(
    data: bytes,
    *,
    evaluation: bytes | None = None,
    declared_accuracy: float | None = None,
    classes: tuple[ClassSpec, ...] = (),
) -> tuple[dict[str, Any], Examination | None]:
    """Examine a model and judge it for classes. Returns the JSON report, and the examination if there is one.

    `verdict` is `refuse` when the model itself or any of the named classes refuses. Never raises for model
    bytes.
    """
    try:
        found = examine(data, evaluation=evaluation, declared_accuracy=declared_accuracy)
    except InspectionError as error:
        reason = Reason(error.code, error.text, error.fix)
        return {"verdict": "refuse", "reasons": [reason_json(reason)], "missing": [], "classes": []}, None
    verdicts = tuple(
        preflight(
            found.inspection,
            found.probe,
            spec,
            reasons=found.reasons,
            missing=found.missing,
            golden_bytes=found.golden_blob_bytes,
        )
        for spec in classes
    )
    kinds = {verdict.kind for verdict in verdicts}
    is_refused = bool(found.reasons) or "refuse" in kinds
    is_unproven = bool(found.missing) or "unproven" in kinds
    verdict = "refuse" if is_refused else "unproven" if is_unproven else "pass"
    return {"verdict": verdict, **found.to_json(), "classes": [each.to_json() for each in verdicts]}, found


def render(name: str, outcome: dict[str, Any]) -> str:
    """The report as text for a person, at most 100 columns wide where the content allows."""
    lines = [f"{name}: {WORDS[outcome['verdict']]}"]
    if "inspection" in outcome:
        lines += ["", *_model_lines(outcome["inspection"])]
        lines += _run_lines(outcome)
    for reason in outcome["reasons"]:
        lines += ["", f"  ✗ {reason['code']}: {reason['text']}"]
        lines += [f"    → {reason['fix']}"] if reason["fix"] else []
    if not outcome["reasons"]:
        lines += [line for name in outcome["missing"] for line in ("", f"  ? {name}: {MISSING_TEXTS[name]}")]
    lines += _class_lines(outcome)
    return "\n".join(lines)


def _row(label: str, value: str) -> str:
    return f"  {label:<13}{value}"


def _tensor(spec: dict[str, Any]) -> str:
    shape = " × ".join(map(str, spec["shape"])) or "scalar"
    scale = f", scale {spec['scale']:.6g}, zero point {spec['zero_point']}" if spec["scale"] else ""
    return f"{spec['dtype_name']} {shape}{scale}"


def _model_lines(inspection: dict[str, Any]) -> list[str]:
    lines = [
        _row("file", f"{inspection['size']:,} bytes, SHA-256 {inspection['sha256'][:16]}…"),
        _row("arithmetic", f"{inspection['quantisation']}, {inspection['macs']:,} multiply-accumulates"),
        _row("constants", f"{inspection['constant_bytes']:,} bytes in {inspection['tensors']} tensors"),
    ]
    for label in ("input", "output"):
        lines += [_row(label, _tensor(spec)) for spec in inspection[f"{label}s"]]
    uses = [f"{use['name']} × {use['count']}" for use in inspection["operators"]]
    for start in range(0, len(uses), 4):
        lines.append(_row("operators" if start == 0 else "", "   ".join(uses[start : start + 4])))
    return lines + [_row("note", note) for note in inspection["notes"]]


def _run_lines(outcome: dict[str, Any]) -> list[str]:
    lines = []
    probe, accuracy, golden = outcome["probe"], outcome["accuracy"], outcome["golden"]
    if probe:
        exact = "" if probe["arena_is_exact"] else " or less"
        lines += [
            _row(
                "ran here", f"{probe['invoke_us'] / 1000:.2f} ms an inference (this host, no device's figure)"
            ),
            _row(
                "arena here",
                f"{probe['arena_min_bytes']:,} bytes{exact}, found by {probe['arena_attempts']} attempts",
            ),
        ]
    if accuracy:
        rows = f"{accuracy['right']:,} of {accuracy['n']:,} rows"
        lines.append(
            _row(
                "accuracy",
                f"{accuracy['ratio']:.1%} ({rows}; always one class: {accuracy['majority_ratio']:.1%})",
            )
        )
    if golden:
        where = "in the manifest" if golden["form"] == "inline" else "after the model"
        lines.append(_row("golden", f"{golden['vectors']} vectors, {golden['bytes']:,} bytes {where}"))
    return lines


def _class_lines(outcome: dict[str, Any]) -> list[str]:
    lines = []
    for verdict in outcome["classes"]:
        arena = ""
        if verdict["arena_bytes"] is not None:
            basis = {"host": "measured", "s3": "predicted", "no_scratch": "predicted, no upper bound"}
            arena = f"arena {verdict['arena_bytes']:,} bytes ({basis[verdict['arena_basis']]})"
        lines += ["", f"  {verdict['class']:<12} {WORDS[verdict['verdict']]:<9} {arena}".rstrip()]
        if outcome["reasons"]:
            continue  # said above, once
        for reason in verdict["reasons"]:
            lines.append(f"    ✗ {reason['code']}: {reason['text']}")
            lines += [f"      → {reason['fix']}"] if reason["fix"] else []
        lines += [
            f"    ? {name}: {MISSING_TEXTS[name]}"
            for name in verdict["missing"]
            if name not in outcome["missing"]
        ]
        lines += [f"    {note}" for note in verdict["notes"]]
    return lines


def read_file(path: Path, at_most: int) -> bytes:
    """The first `at_most` + 1 bytes of a regular file; CommandError with status 2 when it cannot be read."""
    try:
        if not path.is_file():
            raise CommandError(f"{path}: no such file", returncode=2)
        with path.open("rb") as stream:
            return stream.read(at_most + 1)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", returncode=2) from error


class Command(BaseCommand):
    help = "Inspect a .tflite, run it in the sandbox and say which device classes can have it."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", type=Path, metavar="MODEL.tflite")
        parser.add_argument(
            "--eval", type=Path, metavar="FILE.npz", help="x and y (or expected): proves accuracy"
        )
        parser.add_argument("--declared", type=float, metavar="0..1", help="the accuracy you claim for it")
        known = ", ".join(BUILTIN_CLASSES)
        parser.add_argument(
            "--class",
            dest="classes",
            action="append",
            default=[],
            metavar="NAME",
            help=f"judge for a class: {known}",
        )
        parser.add_argument("--json", action="store_true", help="print the whole report as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        unknown = [name for name in options["classes"] if name not in BUILTIN_CLASSES]
        if unknown:
            known = ", ".join(BUILTIN_CLASSES)
            raise CommandError(f"unknown class {', '.join(unknown)}; known: {known}", returncode=2)
        declared = options["declared"]
        if declared is not None and not 0 <= declared <= 1:
            raise CommandError("--declared takes a ratio from 0 to 1", returncode=2)
        data = read_file(options["model"], UPLOAD_MAX_BYTES)
        archive = read_file(options["eval"], EVALUATION_MAX_BYTES) if options["eval"] else None
        classes = tuple(BUILTIN_CLASSES[name] for name in dict.fromkeys(options["classes"]))
        outcome, _ = report(data, evaluation=archive, declared_accuracy=declared, classes=classes)
        if options["json"]:
            self.stdout.write(json.dumps({"file": str(options["model"]), **outcome}, indent=2))
        else:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            text = render(options["model"].name, outcome)
            self.stdout.write(text.encode(encoding, "replace").decode(encoding))
        if outcome["verdict"] == "refuse":
            sys.exit(1)
