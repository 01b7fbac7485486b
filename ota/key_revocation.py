"""Revocation of a signing key: nothing rests on it any more, and what did stops.

The row is marked first of all: from then on the server signs nothing with the key, and the next tick halts
every rollout whose manifest it signed (`ota.security`). Devices learn it from a trust document that leaves
the key out and names another in its place. The roots sign that; where their files were moved to another
machine, as they should be, a release key is revoked all the same, for stopping must not wait, and the answer
says that devices go on trusting it until the document comes. An online key is not: without a successor nobody
could tell a device anything, the news of the revocation included.

Documents that devices were told under the trust document before are signed anew (`ota.trust_renewal`).
Webhooks hear of it as `key.revoked` (`fleet.announcing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.announcing import KEY_REVOKED, Announcement, announce
from ota import keys
from ota.choices import ROLLOUT_LIVE
from ota.errors import OtaError
from ota.models import Rollout, SigningKey, Trust
from ota.queues import enqueue
from ota.signing import KeyPair
from ota.trust import MAX_REVOKED, TrustDocument, sign_trust, verify_trust

MAX_REASON: Final = 500
_NAMED: Final = 100


class RevocationError(OtaError):
    """A key was not revoked, and nothing changed.

    Codes: `not_found`, `validation` for the reason, `illegal_transition` for a root key and for a key that is
    revoked already, `keys_missing` for an online key where too few root keys are at hand to name a successor.
    state: what kind of key it is, or `revoked`; nothing is allowed from there.
    """

    def __init__(self, code: str, text: str, fix: str = "", *, state: str = "") -> None:
        super().__init__(code, text, fix)
        self.state = state
        if code == "validation":
            self.field = "reason"
        if state:
            self.allowed: list[str] = []


@dataclass(frozen=True)
class Revoked:
    """What a revocation did, or with dry_run would do. successor: the key that signs in its place, None when
    others are left or no roots are at hand. trust: version of the document that says so, None when the roots
    still have to sign one. rollouts: live ones that rest on the key; they halt.
    """

    kid: str
    role: str
    successor: str | None
    trust: int | None
    rollouts: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """As REST answers."""
        named = [{"id": pk, "name": name} for pk, name in self.rollouts]
        return {
            "kid": self.kid,
            "role": self.role,
            "successor": self.successor,
            "trust_version": self.trust,
            "are_devices_told": self.trust is not None,
            "rollouts": named,
        }


def resting_on(kid: str) -> list[Rollout]:
    """Live rollouts whose manifest this key has signed, oldest first, at most 100."""
    rows = Rollout.objects.filter(state__in=ROLLOUT_LIVE, manifest__kids__contains=[kid])
    return list(rows.select_related("manifest__version").order_by("created_at")[:_NAMED])


def revoke(kid: str, *, reason: str, actor: Actor, now: datetime, dry_run: bool = False) -> Revoked:
    """Trust a release or online key no more, for good.

    kid: 16 hexadecimal digits. reason: 1 to 500 characters, for people and the audit trail. dry_run: the same
    checks, then only tell. One transaction: of two callers one revokes. Raises RevocationError, and KeysError
    when the passphrase or a root file is wrong; then nothing has changed.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= MAX_REASON:
        raise RevocationError("validation", f"a revocation needs a reason of 1 to {MAX_REASON} characters")
    with transaction.atomic():
        keys.one_at_a_time()
        key = _revocable(kid)
        trust, _ = keys.current_trust()
        roots = keys.root_signers(trust)
        if not roots and key.role == keys.ONLINE:
            raise RevocationError(
                "keys_missing",
                f"{trust.root_threshold} root keys name a successor, and they are not on this machine",
                "bring the root files back, or have a trust document signed where they are",
            )
        successor = KeyPair.generate() if roots and _needs_successor(key, trust) else None
        found = Revoked(
            key.kid,
            key.role,
            successor.kid.hex() if successor is not None else None,
            trust.version + 1 if roots else None,
            tuple((str(row.pk), row.name) for row in resting_on(kid)),
        )
        if dry_run:
            return replace(found, successor="a new key" if successor is not None else None)
        SigningKey.objects.filter(pk=kid, revoked_at=None).update(revoked_at=now)
        if successor is not None:
            keys.store(successor, key.role, now=now)
        if roots:
            _publish(_without(trust, key, successor, now), trust, roots, now=now)
        announce(_announcement(found, reason, actor=actor, now=now))
        audit.record(
            actor=actor,
            verb="key.revoke",
            subject_kind="key",
            subject_id=kid,
            at=now,
            before={"role": key.role, "trust": trust.version},
            after={
                "successor": found.successor,
                "trust": found.trust,
                "rollouts": [pk for pk, _ in found.rollouts],
            },
            reason=reason,
        )
    return found


def _announcement(done: Revoked, reason: str, *, actor: Actor, now: datetime) -> Announcement:
    """A key is revoked once, so what is announced of it is its first revision and its last."""
    data = done.to_json() | {"reason": reason, "by": actor.name}
    return Announcement(KEY_REVOKED, "key", done.kid, rev=1, at=now, data=data)


def _revocable(kid: str) -> SigningKey:
    key = SigningKey.objects.filter(pk=kid).first()
    if key is None:
        raise RevocationError("not_found", f"no signing key {kid[:16]}")
    if key.role not in (keys.RELEASE, keys.ONLINE):
        raise RevocationError(
            "illegal_transition",
            f"{kid} is a {key.role} key: only a trust document that the other roots sign replaces it",
            "sign that document on the machine that holds the roots",
            state=key.role,
        )
    if key.revoked_at is not None:
        raise RevocationError(
            "illegal_transition", f"{kid} was revoked at {key.revoked_at:%Y-%m-%d %H:%M} UTC", state="revoked"
        )
    return key


def _needs_successor(key: SigningKey, trust: TrustDocument) -> bool:
    """True for a key that this server signs with, and where too few others would be left."""
    if key.role == keys.ONLINE:
        return True
    left = [other for other in trust.live_release() if other != bytes(key.public_key)]
    return key.private_pem is not None or len(left) < trust.release_threshold


def _without(
    trust: TrustDocument, key: SigningKey, successor: KeyPair | None, now: datetime
) -> TrustDocument:
    """The next trust document. The key is left out and, lest it come back, listed as revoked; the oldest of
    more than eight leaves that list, for it is trusted by no other.
    """
    gone, new = bytes(key.public_key), (successor.public_key,) if successor is not None else ()

    def changed(listed: tuple[bytes, ...], role: str) -> tuple[bytes, ...]:
        return listed if role != key.role else (*(one for one in listed if one != gone), *new)

    return replace(
        trust,
        version=trust.version + 1,
        issued=int(now.timestamp()),
        expires=int((now + keys.TRUST_LIFETIME).timestamp()),
        release=changed(trust.release, keys.RELEASE),
        online=changed(trust.online, keys.ONLINE),
        revoked=(*trust.revoked, bytes.fromhex(key.kid))[-MAX_REVOKED:],
    )


def _publish(document: TrustDocument, held: TrustDocument, roots: list[KeyPair], *, now: datetime) -> None:
    """Sign the next trust document, check it as a device does that holds the present one, and store it. A
    worker puts it on the broker.
    """
    message = sign_trust(document.encode(), roots)
    verify_trust(message, roots=held.roots, threshold=held.root_threshold, min_version=held.version + 1)
    Trust.objects.create(
        version=document.version, message=message, issued_at=now, expires_at=now + keys.TRUST_LIFETIME
    )
    enqueue("ota.ensure_staged")
