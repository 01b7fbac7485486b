"""Share of telemetry windows whose mean inference time is within the budget of the candidate's manifest.

Devices send mean and maximum per window, no distribution: a window is the finest thing that can be judged.
Both arms are held against the same budget.
"""

from __future__ import annotations

from ota.gates.measure import Measure

MEASURES = (Measure("latency", "", "Windows within the latency budget", promote_margin=0.05),)
