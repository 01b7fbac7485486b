"""Plans for ten to thirty devices, with minutes in the place of hours; what they leave out is the default.

Back-off is 1 to 3 s at the first retry and 4 to 12 s at the second, and time passes by 15 s or more, so what
is due does not depend on the jitter, which follows from a job's random id.
"""

from __future__ import annotations

from typing import Any

_SHORT: dict[str, Any] = {
    "soak_s": 10,
    "max_soak_s": 600,
    "retry_base_s": 2,
    "timers": {"offered": 120, "accepted": 60, "downloading": 60, "cancelling": 60, "deferred": 300},
    "trial_deadline_s": 120,
    "rollback_deadline_s": 300,
    "reach_deadline_s": 900,
}
ONE_WAVE = {**_SHORT, "waves": [{"percent": 100}], "max_in_flight": 3, "max_in_flight_later": 3}
THREE_WAVES = {
    **_SHORT,
    "waves": [{"count": 2}, {"percent": 50}, {"percent": 100}],
    "control": {"count": 2},
    "max_in_flight": 2,
    "max_in_flight_later": 5,
    "on_fail": "halt",
    "r_max_model": 0.5,
}
GATED = {
    **_SHORT,
    "waves": [{"count": 5}, {"percent": 100}],
    "control": {"count": 5},
    "metrics": [{"metric": "accuracy", "kind": "proxy", "promote_margin": 0.5}],
    "accept_proxy": True,
    "min_pairs": 5,
    "settle_s": 5,
    "window_s": 30,
    "max_in_flight": 6,
    "on_fail": "rollback",
    "on_inconclusive": "manual",
}
PROVEN = {**THREE_WAVES, "on_fail": "rollback", "r_max_model": 0.2, "max_attempts": 2}
APPROVED = {**ONE_WAVE, "requires_approval": True, "supersede": True}
PLANS = (THREE_WAVES, ONE_WAVE, GATED, PROVEN, APPROVED)
