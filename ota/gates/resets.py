"""Share of hours without an unexpected reset (watchdog, panic, brownout): a model that crashes now and then
passes its trial and still harms. Power cycles and restarts that were asked for do not count.
"""

from __future__ import annotations

from ota.gates.measure import Measure

MEASURES = (Measure("resets", "", "Hours without an unexpected reset", promote_margin=0.05),)
