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


PLAIN: Final[dict[str, Any]] = {
    **{"start_at": "", "zone": "UTC", "windows": "", "late": "skip", "tail_days": 30},
    **{"by_class": False, "r_prove": "", "requires_approval": False},
}
"""What a new draft says of all that no preset names."""


def stored(name: str) -> dict[str, Any]:
    """What a preset sets in a draft. Nothing is compared until the page of gates was saved: a metric may rest
    on a biased signal, which whoever plans accepts themselves.
    """
    return {**preset(name), "metrics": []}


def preset(name: str) -> dict[str, Any]:
    """Fields that a preset names, and their values; production for a name that is none."""
    return PRESETS.get(name, PRESETS["production"])
