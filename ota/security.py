"""What a broken signature or a revoked key does to rollouts: they stop, and a person decides.

One device's authenticated `signature` report halts (`ota.gates`); once it is acknowledged, that device is set
aside. A rollout whose manifest no longer has enough trusted signatures halts for good: no evidence lets it go
on, it can be aborted or taken back.
"""

from __future__ import annotations

from datetime import datetime

from fleet.accounts.audit import Actor
from fleet.devices.quarantine import quarantine
from fleet.mqtt.codec.cose import signing_kid
from ota import keys
from ota.choices import RolloutState
from ota.errors import OtaError
from ota.gates.failures import SECURITY
from ota.models import Evidence, Manifest, Rollout, SigningKey
from ota.transitions import move_rollout

TRUST = Actor("gate", "trust")


class RevokedError(OtaError):
    """The manifest of a rollout is not trusted any more (`key_revoked`)."""


def untrusted(manifest: Manifest) -> str:
    """Why a manifest must not be offered any more, in words; "" while enough of its signatures are trusted.

    Read from the rows and the newest trust document alone, so it does not matter which verb revoked what.
    Raises KeysError `keys_missing`.
    """
    if manifest.revoked_at is not None:
        return f"the manifest of {manifest.version} has been revoked"
    if not manifest.kids:
        return ""  # signed before kids were kept
    trust, _ = keys.current_trust()
    listed = {signing_kid(key).hex() for key in trust.live_release()}
    gone = SigningKey.objects.filter(pk__in=manifest.kids, revoked_at__isnull=False)
    good = (set(manifest.kids) & listed) - set(gone.values_list("pk", flat=True))
    if len(good) >= trust.release_threshold:
        return ""
    bad = ", ".join(sorted(set(manifest.kids) - good))
    return f"release key {bad} of {manifest.version} is not trusted any more"


def check(rollout: Rollout) -> None:
    """Raise RevokedError when a rollout must not start, because its manifest is not trusted any more."""
    if why := untrusted(Manifest.objects.select_related("version").get(pk=rollout.manifest_id)):
        raise RevokedError("key_revoked", why, "release the version again and roll that out")


def halt_untrusted(rollout: Rollout, *, now: datetime) -> bool:
    """Halt a running or paused rollout that rests on a revoked key. True when this call did.

    It names no evidence, so `resume` and `override` are not among what it allows.
    """
    why = untrusted(rollout.manifest)
    if not why:
        return False
    return move_rollout(rollout, RolloutState.HALTED, actor=TRUST, now=now, reason=why, halted_on=None)


def set_aside(evidence: Evidence | None, *, actor: Actor, now: datetime) -> list[str]:
    """Quarantine the devices whose `signature` report an acknowledged evidence rests on; returns them."""
    hard = evidence.inputs.get("hard", {}) if evidence is not None else {}
    singles = hard.get("single", [])
    named = [item["device"] for item in singles if item["code"] in SECURITY]
    reason = "it reported a broken signature of what it was told to run"
    return [name for name in named if quarantine(name, reason=reason, actor=actor, now=now)]
