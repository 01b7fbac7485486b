"""Every metric a plan may name, with its kinds; a kind of accuracy is chosen, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ota.gates import accuracy, anomaly, latency, reporting, resets
from ota.gates.measure import Measure

MEASURES: dict[tuple[str, str], Measure] = {
    (measure.metric, measure.kind): measure
    for module in (accuracy, anomaly, latency, resets, reporting)
    for measure in module.MEASURES
}
METRICS: dict[str, tuple[str, ...]] = {}
for _metric, _kind in MEASURES:
    METRICS[_metric] = (*METRICS.get(_metric, ()), _kind)


def measure_of(metric: str, kind: str) -> Measure:
    """The measure of a metric and kind. Raises KeyError for one that does not exist."""
    return MEASURES[metric, kind]


def contrast(metric: str, kind: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Why the metric means different things under two models, "" when it does not.

    candidate, baseline: hints of the two signed manifests by name, None = not said. The arms are not
    comparable when a hint that defines the metric (threshold, front end, labels) differs.
    """
    measure = MEASURES[metric, kind]
    for name in measure.hints:
        one, other = candidate.get(name), baseline.get(name)
        is_unknown = name in measure.lenient and (one is None or other is None)
        if one != other and not is_unknown:
            return f"{name} differs between candidate and baseline"
    return ""
