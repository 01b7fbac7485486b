"""Quarantine: a device that is left out of every rollout until a person releases it. It keeps running.

Kept on the device's row (since when, why); who and when is in the audit trail.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices.errors import QuarantineError
from fleet.devices.models import Device

MAX_REASON: Final = 128


def quarantine(device_id: str, *, reason: str, actor: Actor, now: datetime) -> bool:
    """Leave a device out of rollouts from now on. False when it is in quarantine already, retired or unknown.

    reason: 1 to 128 characters for people. Raises QuarantineError `validation` without one.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= MAX_REASON:
        raise QuarantineError("validation", f"a quarantine needs a reason of 1 to {MAX_REASON} characters")
    free = Device.objects.filter(pk=device_id, quarantined_at=None, retired_at=None)
    with transaction.atomic():
        if not free.update(quarantined_at=now, quarantine_reason=reason):
            return False
        _record("device.quarantine", device_id, reason, actor, now)
    return True


def release(device_id: str, *, reason: str, actor: Actor, now: datetime) -> bool:
    """Let a device take part in rollouts again. False when it is not in quarantine.

    Rollouts under way take it in when their failed devices are retried, later ones as any other. reason: for
    the audit trail; it may be empty. Raises QuarantineError `validation` for one that is too long.
    """
    reason = reason.strip()
    if len(reason) > MAX_REASON:
        raise QuarantineError("validation", f"a reason has at most {MAX_REASON} characters")
    held = Device.objects.filter(pk=device_id, quarantined_at__isnull=False)
    with transaction.atomic():
        if not held.update(quarantined_at=None, quarantine_reason=""):
            return False
        _record("device.release", device_id, reason, actor, now)
    return True


def change(device: Device, verb: str, *, reason: str, actor: Actor, now: datetime) -> None:
    """What a person asks for. verb: `quarantine` or `release`.

    Raises QuarantineError `validation` for the reason, `illegal_transition` with what is allowed when the
    device is where the verb leads already, or retired.
    """
    verbs = {"quarantine": quarantine, "release": release}
    if verbs[verb](device.pk, reason=reason, actor=actor, now=now):
        device.refresh_from_db()
        return
    device.refresh_from_db()
    state, allowed = state_of(device)
    text = f"{verb} is not possible: {device.pk} is {state.replace('_', ' ')}"
    raise QuarantineError("illegal_transition", text, state=state, allowed=allowed)


def state_of(device: Device) -> tuple[str, list[str]]:
    """Where a device is (`in_service`, `quarantined`, `retired`), and the verbs that lead from there."""
    if device.retired_at is not None:
        return "retired", []
    if device.quarantined_at is not None:
        return "quarantined", ["release", "retire"]
    return "in_service", ["quarantine", "retire"]


def _record(verb: str, device_id: str, reason: str, actor: Actor, now: datetime) -> None:
    audit.record(actor=actor, verb=verb, subject_kind="device", subject_id=device_id, at=now, reason=reason)
