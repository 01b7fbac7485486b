"""The demo's rollout plans: honest settings of their own, small enough for minutes instead of days.

A production plan soaks for hours with hundreds of devices. These cohorts are 20 against 20 and their windows
seconds, so the least effect they can show is large; the summary prints it beside the result.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

CONTROL = 20
FIRST_WAVE = 20
SETTLE_S = 3
WINDOW_S = 16
HISTORY_S = 14
# spread of a pair's difference with 64 inferences a window and 56 of history (tests/bench/demo_gate.py)
PAIR_SD = 0.12

# What devices are told: a telemetry window every 2 s, an inference every 250 ms, a full report every 10 s.
DEVICE_CONFIG = {"window_s": 2, "period_ms": 250, "heartbeat_s": 10}


def soon() -> str:
    """A start time that leaves the fleet HISTORY_S of history with its present model."""
    return (datetime.now(UTC) + timedelta(seconds=HISTORY_S + 1)).isoformat()  # plans keep whole seconds


def everyone() -> dict[str, Any]:
    """A first installation: no model to compare with, so one wave and hard gates only."""
    return {
        "waves": [{"percent": 100}],
        "control": {"count": 0},
        "metrics": [],
        "max_in_flight": 200,
        "soak_s": 1,
        "max_soak_s": 600,
        "trial_deadline_s": 600,
        "on_fail": "halt",
    }


def gated(devices: int) -> dict[str, Any]:
    """A first wave, half, all, against a control cohort, on proxy accuracy.

    Half is at least a second wave as large as the first: a smaller one could not pass its gate.
    """
    half = max(2 * FIRST_WAVE, devices // 2)
    return {
        "waves": [{"count": FIRST_WAVE}, {"count": half}, {"percent": 100}],
        "control": {"count": CONTROL},
        "metrics": [
            {
                "metric": "accuracy",
                "kind": "proxy",
                "promote_margin": 0.10,
                "halt_margin": 0.0,
                "weight": 0.8,
            },
            # eight windows are expected of a device: one that falls beside the edge is an eighth, not a loss
            {"metric": "reporting", "promote_margin": 0.20, "halt_margin": 0.10, "weight": 0.2},
        ],
        "accept_proxy": True,
        "min_pairs": 12,
        "pair_sd": PAIR_SD,
        "settle_s": SETTLE_S,
        "window_s": WINDOW_S,
        "soak_s": SETTLE_S,  # of the last wave; a gated one soaks for a whole comparison
        "max_soak_s": 600,
        "trial_deadline_s": 600,
        "max_in_flight": 200,
        "on_fail": "rollback",
    }
