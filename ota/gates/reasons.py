"""Why a verdict is not PASS: every code with the words people read, in one place."""

from __future__ import annotations

from collections.abc import Iterable

WORDS = {
    "reach": "too few devices have confirmed and reported",
    "soaking": "the soak is not over",
    "too_few_pairs": "too few pairs have matured",
    "not_separated": "the pairs prove neither harm nor that it is no worse",
    "missing_telemetry": "too much telemetry is missing",
    "no_labels": "no labels arrived, so accuracy is unknown",
    "not_comparable": "candidate and baseline define the metric differently",
    "kind_never_passes": "this kind of figure never passes a gate",
    "not_proven": "too few devices prove that few of them fail",
    "install:model": "too many devices failed on the model",
    "install:delivery": "too many devices failed in delivery",
    "install:compat": "too many devices refused it as incompatible",
    "golden": "golden vectors disagree on devices that run it",
    "security": "a device refused its signature",
    "first_wave": "a device disproved preflight in the first wave",
    "quality:accuracy:proxy": "accuracy by proxy labels is worse than control",
    "quality:accuracy:delayed": "accuracy by delayed labels is worse than control",
    "quality:accuracy:estimate": "the estimate of accuracy is worse than control",
    "quality:anomaly": "anomalies are more frequent than in control",
    "quality:latency": "the latency budget is missed more often than in control",
    "quality:resets": "unexpected resets are more frequent than in control",
    "quality:reporting": "devices report less than control",
}
"""Every reason a verdict may carry."""


def words(codes: Iterable[str]) -> str:
    """The reasons in plain words, joined; a code of another class of devices names it."""
    said = []
    for code in codes:
        base, _, name = code.partition("@")
        said.append(WORDS.get(base, base.replace("_", " ")) + (f" (class {name})" if name else ""))
    return ", ".join(dict.fromkeys(said))
