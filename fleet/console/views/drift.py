"""Drift: each version on each class with its statistics, and the devices behind one of them."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from fleet.alerts import kinds
from fleet.alerts.kinds import KINDS
from fleet.console import drift_words
from fleet.console.access import page
from fleet.telemetry import drift_devices, psi, references, shifts
from fleet.telemetry.drift_devices import Judged, Part
from ota.gates.wilson import wilson_lower_bound

DEVICES = 100
NEAREST = 10
# state: tone, icon, word
STATES = {
    "drift": ("bad", "cross", "Drift"),
    "single": ("attention", "triangle", "Single devices"),
    "quiet": ("good", "check", "Quiet"),
    "insufficient": ("neutral", "ring", "Too little"),
    "no_reference": ("neutral", "ring", "No reference"),
}


@require_safe
@page("telemetry:read")
def drift(request: HttpRequest) -> HttpResponse:
    """The table; with GET parameters mid and class also the devices of that version on that class."""
    now = timezone.now()
    mid, device_class = (request.GET.get(name, "")[:32] for name in ("mid", "class"))
    parts, as_of = drift_devices.parts(now)
    chosen = next((one for one in parts if (one.mid, one.device_class) == (mid, device_class)), None)
    found = drift_devices.devices(mid, device_class, now=now, limit=DEVICES) if chosen else []
    near = [one for one in found if not one.is_drifting][:NEAREST]
    shown = [one for one in found if one.is_drifting] + near
    context = {
        "parts": [_part(one) for one in parts],
        "as_of": as_of,
        "is_asked": bool(mid or device_class),
        "chosen": _part(chosen) if chosen else None,
        "devices": [_device(one) for one in shown],
        "has_near": bool(near),
        "left_off": chosen.devices - len(shown) if chosen else 0,
        "advice": KINDS["drift"].advice,
        "of": psi.OF,
        "many": psi.MANY,
        "least": psi.LEAST,
        "alpha": psi.ALPHA,
        "clean_rate": KINDS["drift"].clean_rate,
        "least_devices": references.LEAST_PEERS,
        "least_windows": shifts.LEAST_WINDOWS,
    }
    return render(request, "console/drift.html", context)


def _part(one: Part) -> dict[str, Any]:
    """A row with its state, and what confidence and its reference say, in words."""
    tone, icon, word = STATES[_state(one)]
    return {
        "row": one,
        "state": _state(one),
        "tone": tone,
        "icon": icon,
        "word": word,
        "confidence": drift_words.confidence(one.confidence_drifting, one.confidence_usual),
        "reference": drift_words.REFERENCES.get(one.reference or "", ""),
    }


def _state(one: Part) -> str:
    if one.reference is None:
        return "no_reference"
    low = wilson_lower_bound(one.drifting, one.judged, confidence=kinds.FLEET_CONFIDENCE)
    if one.drifting >= kinds.LEAST_FLEET_DEVICES and low > KINDS["drift"].clean_rate:
        return "drift"
    if one.drifting:
        return "single"
    return "quiet" if one.judged else "insufficient"


def _device(one: Judged) -> dict[str, Any]:
    return {
        "row": one,
        "moment": drift_words.moment(one.channel, one.moment),
        "is_class": (one.class_psi or 0.0) > (one.class_limit or float("inf")),
        "is_distance": (one.distance_psi or 0.0) > (one.distance_limit or float("inf")),
    }
