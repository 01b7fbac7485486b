"""What the rollout form begins with: a preset for production, a demonstration, and a first model."""

from __future__ import annotations

from typing import Any, Final

PRESETS: Final[dict[str, dict[str, Any]]] = {
    "production": {
        "waves": "1%, 10%, 50%, 100%",
        "control": "5%",
        "metrics": ["accuracy"],
        "promote_margin": 3,
        "halt_margin": 0,
        "accept_proxy": False,
        "min_pairs": 20,
        "settle": "10 min",
        "window": "6 h",
        "soak": "30 min",
        "max_soak": "7 d",
        "trial_deadline": "30 min",
        "max_in_flight": 20,
        "offers_per_minute": 1_000,
        "on_fail": "rollback",
        "on_inconclusive": "halt",
    },
    "demo": {
        "waves": "20, 50%, 100%",
        "control": "20",
        "metrics": ["accuracy"],
        "promote_margin": 10,
        "halt_margin": 0,
        "accept_proxy": True,
        "min_pairs": 12,
        "settle": "3 s",
        "window": "20 s",
        "soak": "23 s",
        "max_soak": "2 min",
        "trial_deadline": "2 min",
        "max_in_flight": 200,
        "offers_per_minute": 1_000,
        "on_fail": "rollback",
        "on_inconclusive": "halt",
    },
    "first": {
        "waves": "100%",
        "control": "0",
        "metrics": [],
        "promote_margin": 3,
        "halt_margin": 0,
        "accept_proxy": False,
        "min_pairs": 20,
        "settle": "10 min",
        "window": "6 h",
        "soak": "5 s",
        "max_soak": "10 min",
        "trial_deadline": "5 min",
        "max_in_flight": 200,
        "offers_per_minute": 1_000,
        "on_fail": "halt",
        "on_inconclusive": "halt",
    },
}
PRESET_LABELS: Final = (
    ("production", "Production", "hours of soak, tight margins, for hundreds of devices"),
    ("demo", "Demonstration", "seconds instead of hours, 20 against 20 devices"),
    ("first", "First model", "nothing to compare with yet: one wave, install failures only"),
)


def stored(name: str) -> dict[str, Any]:
    """What a draft begins with. Nothing is compared until the page of gates was saved: a metric may rest on a
    biased signal, which whoever plans accepts themselves.
    """
    return {**preset(name), "metrics": []}


def preset(name: str) -> dict[str, Any]:
    """Initial values of a preset; production for a name that is none."""
    when = {"start_at": "", "zone": "UTC", "windows": "", "late": "skip", "tail_days": 30}
    judged = {"by_class": False, "r_prove": ""}
    return {**when, **judged, "requires_approval": False, **PRESETS.get(name, PRESETS["production"])}
