"""Drift in words: what moved, what confidence says of it, whether it is one version or the environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fleet.console.templatetags.console import num, percent
from fleet.telemetry import shifts

STATISTICS: Final[Mapping[str, str]] = {
    "input": "the moments of the input",
    "class": "the mix of classes",
    "distance": "the anomaly scores",
}
MOMENTS: Final[Mapping[int, str]] = {
    shifts.MEAN: "its mean",
    shifts.VARIANCE: "its variance",
    shifts.SATURATED: "its share of values at the end of the range",
    shifts.OUT: "its share of values off the contract",
}
REFERENCES: Final[Mapping[str, str]] = {
    "week": "the first week of this version on this class",
    "chosen": "the range a person chose",
    "peers": "each other, as this version is in its first week: what all devices do at once is not seen",
}
_LEAST_RISE: Final = 0.005


def reasons(e: Mapping[str, Any]) -> Iterator[str]:
    """Sentences of a drift alert's evidence beyond its figures; none of what it does not say."""
    if moved := e.get("statistics"):
        names = [f"{text}{_on(moved[name], e)}" for name, text in STATISTICS.items() if name in moved]
        which = moment(e.get("channel"), e.get("moment")) if "input" in moved else ""
        yield f"Moved: {', '.join(names)}{f'; most of all {which}' if which else ''}."
    if told := confidence(e.get("confidence"), e.get("confidence_usual")):
        yield told
    if (versions := e.get("versions", 0)) > 1:
        yield (
            f"{num(versions)} versions drift at once on this class: the environment or the sensors have "
            "changed, not one version, and a rollback does not cure it."
        )
    elif versions:
        yield "No other version drifts on this class."
    kind = str(e.get("reference"))
    if kind in REFERENCES:
        yield f"Compared with {REFERENCES[kind]}."


def _on(n: int, e: Mapping[str, Any]) -> str:
    return f" ({num(n)} device{'' if n == 1 else 's'})" if "firing" in e else ""


def moment(channel: int | None, which: int | None) -> str:
    """A channel of the input and what of it moved, or nothing when it is not known."""
    if channel is None or which is None or which not in MOMENTS:
        return ""
    return f"channel {channel}, {MOMENTS[which]}"


def confidence(now: float | None, usual: float | None) -> str:
    """What mean confidence says beside it, so that nobody takes it for accuracy."""
    if now is None or usual is None:
        return ""
    if now - usual >= _LEAST_RISE:
        return (
            f"Mean confidence rose meanwhile, from {percent(usual)} to {percent(now)}: a model can be surer "
            "of wrong answers."
        )
    if usual - now >= _LEAST_RISE:
        return f"Mean confidence fell from {percent(usual)} to {percent(now)}."
    return f"Mean confidence stayed at {percent(now)}."
