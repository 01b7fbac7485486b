"""Share of inferences without anomaly. Comparable only while both models share threshold and front end."""

from __future__ import annotations

from ota.gates.measure import Measure

MEASURES = (
    Measure(
        "anomaly", "", "Inferences without anomaly", hints=("anomaly", "front_end"), lenient=("front_end",)
    ),
)
