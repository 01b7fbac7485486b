"""Audit verbs and events as people say them."""

from __future__ import annotations

from typing import Any, Final

from fleet.console.states import CHOICES, label_of

_VERB_WORDS: Final = {
    "rollout.create": "Rollout drafted",
    "rollout.edit": "Rollout changed",
    "rollout.delete": "Draft deleted",
    "rollout.take_in": "Device taken into the tail",
    "rollout.create_revert": "Revert drafted",
    "approval.approve": "Approved",
    "approval.reject": "Rejected",
    "approval.resume": "Going on against evidence",
    "approval.override": "Wave overridden against evidence",
    "version.upload": "Version uploaded",
    "version.inspect": "Inspection asked for",
    "version.refused": "Version refused",
    "version.unproven": "Version unproven",
    "version.fits": "Version fits",
    "version.yank": "Version yanked",
    "model.create": "Model line made",
    "verdict.acknowledge": "Unproven verdict acknowledged",
    "version.release": "Version signed",
    "user.create": "User added",
    "device.enrol": "Device enrolled",
    "token.issue": "API token issued",
    "token.change": "API token changed",
    "token.rotate": "API token given another secret",
    "token.revoke": "API token revoked",
    "webhook.rotate": "Webhook given another secret",
    "audit.prune": "Audit rows past retention left",
    "device.quarantine": "Device quarantined",
    "device.release": "Device released from quarantine",
    "device.retire": "Device retired",
    "rollout.retry_failed": "Failed devices tried again",
    "enrolment_token.create": "Enrolment tickets made",
    "config.set": "Device configuration changed",
    "keys.init": "Signing keys made",
    "key.revoke": "Signing key revoked",
    "class.create": "Device class made",
    "manifest.staged": "Manifest staged",
}


def verb_words(verb: str) -> str:
    """An audit verb as people say it; a state of a rollout, wave or job by its label."""
    if verb in _VERB_WORDS:
        return _VERB_WORDS[verb]
    kind, _, what = verb.partition(".")
    if kind in CHOICES and what in dict(CHOICES[kind].choices):
        return f"{kind.capitalize()} {label_of(kind, what).lower()}"
    return verb.replace(".", " ").replace("_", " ").capitalize()


def event_words(event: Any) -> str:
    """An audit event of a rollout or one of its waves, as people say it."""
    if event.subject_kind == "wave":
        state = event.verb.partition(".")[2]
        return f"Wave {event.subject_id.rpartition('/')[2]} {label_of('wave', state).lower()}"
    return verb_words(event.verb)
