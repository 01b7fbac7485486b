"""What people read for a state, and its tone: one place for every page, chart and file."""

from __future__ import annotations

from typing import Any, Final

from fleet.alerts.choices import TONES as ALERT_TONES
from fleet.alerts.choices import AlertState, DeliveryState, Severity
from fleet.devices.models import Presence
from fleet.mqtt.codec.names import UpdateState
from ota.choices import (
    TONES,
    JobState,
    RolloutState,
    StagingState,
    Tone,
    Verdict,
    VerdictKind,
    VersionState,
    WaveState,
)

TONE_ICONS: Final = {
    Tone.NEUTRAL: "ring",
    Tone.ACTIVE: "half",
    Tone.GOOD: "check",
    Tone.ATTENTION: "triangle",
    Tone.BAD: "cross",
}
_OF_DEVICES: Final[dict[str, dict[str, Tone]]] = {
    "presence": {
        Presence.NEVER_SEEN: Tone.NEUTRAL,
        Presence.ONLINE: Tone.GOOD,
        Presence.OFFLINE: Tone.ATTENTION,
    },
    "slot": {
        UpdateState.IDLE.label: Tone.NEUTRAL,
        UpdateState.OFFERED.label: Tone.ACTIVE,
        UpdateState.MANIFEST_OK.label: Tone.ACTIVE,
        UpdateState.DOWNLOADING.label: Tone.ACTIVE,
        UpdateState.DOWNLOADED.label: Tone.ACTIVE,
        UpdateState.VERIFIED.label: Tone.ACTIVE,
        UpdateState.TRIAL.label: Tone.ACTIVE,
        UpdateState.CONFIRMED.label: Tone.GOOD,
        UpdateState.REVERTED.label: Tone.BAD,
        UpdateState.REFUSED.label: Tone.BAD,
        UpdateState.DEFERRED.label: Tone.ATTENTION,
    },
}
ALL_TONES: Final = {**TONES, **ALERT_TONES, **_OF_DEVICES}
CHOICES: Final[dict[str, Any]] = {
    "rollout": RolloutState,
    "wave": WaveState,
    "job": JobState,
    "version": VersionState,
    "staging": StagingState,
    "verdict": VerdictKind,
    "gate": Verdict,
    "presence": Presence,
    "alert": AlertState,
    "severity": Severity,
    "delivery": DeliveryState,
}


def label_of(kind: str, value: str) -> str:
    """The word people read for a state."""
    found = dict(CHOICES[kind].choices) if kind in CHOICES else {}
    return str(found.get(value, "")) or value.replace("_", " ").capitalize()


def tone_of(kind: str, value: str) -> str:
    """Tone of a state; neutral for one this version does not know."""
    return str(ALL_TONES.get(kind, {}).get(value, Tone.NEUTRAL))


_TONE_ORDER: Final = {Tone.GOOD: 0, Tone.BAD: 1, Tone.ATTENTION: 2, Tone.ACTIVE: 3, Tone.NEUTRAL: 4}


def by_tone(tone: str) -> int:
    """Sort key of a bar's parts: good first, then bad, then under way, so that a bar fills from the left."""
    return _TONE_ORDER[Tone(tone)]
