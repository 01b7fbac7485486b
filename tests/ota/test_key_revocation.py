"""Revocation of signing keys: what rests on one stops, devices hear of it, and the fleet can go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices.installation import installation_id
from fleet.mqtt.codec.names import ConfigKey
from ota import delivery, desired_rows, key_revocation, keys, security, trust_renewal
from ota.desired import DesiredError, counter_trust_version, sign_desired, verify_desired
from ota.key_revocation import RevocationError, Revoked
from ota.keys import KeysError
from ota.manifest import ManifestError
from ota.models import DesiredState, Manifest, SigningKey, Trust
from ota.signing import sign_manifest, verify_manifest
from ota.trust import MAX_REVOKED, TrustDocument, verify_trust
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.usefixtures("installation")
REASON = "its laptop was stolen"


def kid_of(role: str) -> str:
    """The key of a role that is live."""
    return SigningKey.objects.get(role=role, revoked_at=None).kid


def revoke(kid: str, now: datetime, **more: Any) -> Revoked:
    return key_revocation.revoke(kid, **{"reason": REASON, "actor": ACTOR, "now": now} | more)


def taken(held: TrustDocument) -> TrustDocument:
    """The newest trust document, as a device takes it that holds an older one."""
    _, message = keys.current_trust()
    return verify_trust(
        message, roots=held.roots, threshold=held.root_threshold, min_version=held.version + 1
    )


@pytest.fixture
def no_roots(settings: Any) -> None:
    """The root files are on another machine."""
    for path in (Path(settings.RUN_DIR) / "keys").glob("root-*.pem"):
        path.rename(path.with_suffix(".elsewhere"))


def test_a_release_key_has_a_successor_and_devices_hear_of_both(
    make_manifest: Callable[..., Manifest], now: datetime
) -> None:
    held, _ = keys.current_trust()
    manifest, old, later = make_manifest(), kid_of("release"), now + timedelta(days=3)
    done = revoke(old, later)
    assert (done.role, done.trust, done.rollouts) == ("release", 2, ())
    new = taken(held)
    assert (new.version, new.issued) == (2, int(later.timestamp()))
    assert [kid.hex() for kid in new.revoked] == [old]
    (signer,) = keys.release_signers()
    assert (new.release, signer.kid.hex()) == ((signer.public_key,), done.successor)
    assert (new.roots, new.online, new.names) == (held.roots, held.online, held.names)
    now_s = int(later.timestamp())
    assert verify_manifest(bytes(manifest.message), held, now_s=now_s)
    with pytest.raises(ManifestError, match="signature"):
        verify_manifest(bytes(manifest.message), new, now_s=now_s)
    payload = verify_manifest(bytes(manifest.message), held, now_s=now_s).encode()
    assert verify_manifest(sign_manifest(payload, [signer]), new, now_s=now_s)
    assert SigningKey.objects.get(pk=old).revoked_at == later
    event = AuditEvent.objects.get(verb="key.revoke")
    assert (event.actor, event.subject_id, event.reason) == ("olga", old, REASON)
    assert event.before == {"role": "release", "trust": 1}
    assert event.after == {"successor": done.successor, "trust": 2, "rollouts": []}


def test_rollouts_that_rest_on_the_key_halt_and_their_version_is_released_again(
    make_manifest: Callable[..., Manifest], now: datetime
) -> None:
    world, old = World(now, make_manifest), kid_of("release")
    world.add(3)
    manifest = world.manifest()
    Manifest.objects.filter(pk=manifest.pk).update(kids=[old])
    rollout = world.started(manifest, FIRST_PLAN | {"soak_s": 600})
    world.tick(rollout)
    would = revoke(old, now, dry_run=True)
    assert would.rollouts == ((str(rollout.pk), "walk"),)
    assert revoke(old, now).rollouts == would.rollouts
    assert world.tick(rollout).state == "halted"
    assert old in rollout.reason
    other = world.manifest()
    Manifest.objects.filter(pk=other.pk).update(kids=[kid_of("release")])
    other.refresh_from_db()
    assert security.untrusted(other) == ""


def test_an_online_key_has_a_successor_and_every_document_is_signed_anew(
    make_device: Callable[..., Any], now: datetime
) -> None:
    names = [make_device(f"dev-{n}").pk for n in (1, 2, 3)]
    delivery.set_config(names, {int(ConfigKey.WINDOW_S): 30}, now=now)
    held, _ = keys.current_trust()

    about = {"installation_id": installation_id()}

    def told(name: str, trust: TrustDocument) -> Any:
        document = desired_rows.document(DesiredState.objects.get(pk=name))
        message = sign_desired(document, keys.online_signer(), **about)
        return verify_desired(message, device_id=name, trust=trust, **about)

    before = told("dev-1", held)
    assert trust_renewal.renew(now=now) == 0
    done = revoke(kid_of("online"), now)
    new = taken(held)
    assert [key.kid.hex() for key in [keys.online_signer()]] == [done.successor]
    with pytest.raises(DesiredError, match="signature"):
        told("dev-1", held)
    with pytest.raises(DesiredError, match="trust"):
        told("dev-1", new)
    assert trust_renewal.renew(now=now, limit=2) == 2
    assert trust_renewal.renew(now=now, limit=2) == 1
    assert trust_renewal.renew(now=now) == 0, "once for each trust version"
    after = told("dev-1", new)
    assert (after.config, after.entries) == (before.config, before.entries)
    assert (counter_trust_version(before.counter), counter_trust_version(after.counter)) == (1, 2)


def test_where_the_roots_are_elsewhere_a_release_key_is_revoked_all_the_same(
    no_roots: None, make_manifest: Callable[..., Manifest], now: datetime
) -> None:
    manifest, old = make_manifest(), kid_of("release")
    Manifest.objects.filter(pk=manifest.pk).update(kids=[old])
    manifest.refresh_from_db()
    done = revoke(old, now)
    assert (done.successor, done.trust) == (None, None)
    assert done.to_json()["are_devices_told"] is False
    assert Trust.objects.count() == 1
    assert old in security.untrusted(manifest)
    with pytest.raises(KeysError, match="keys_missing"):
        keys.release_signers()


def test_where_the_roots_are_elsewhere_an_online_key_is_not_revoked(no_roots: None, now: datetime) -> None:
    refused(kid_of("online"), now, "keys_missing")


def refused(kid: str, now: datetime, code: str, **more: Any) -> RevocationError:
    """The refusal; nothing has changed."""
    before = list(SigningKey.objects.order_by("kid").values()), list(Trust.objects.values())
    with pytest.raises(RevocationError) as caught:
        revoke(kid, now, **more)
    assert caught.value.code == code
    assert (list(SigningKey.objects.order_by("kid").values()), list(Trust.objects.values())) == before
    return caught.value


def test_what_cannot_be_revoked_is_refused_and_changes_nothing(now: datetime) -> None:
    release = kid_of("release")
    refused("ab" * 8, now, "not_found")
    refused(release, now, "validation", reason=" ")
    refused(release, now, "validation", reason="x" * 501)
    root = SigningKey.objects.filter(role="root").first()
    assert root is not None
    assert refused(root.kid, now, "illegal_transition").state == "root"
    assert not AuditEvent.objects.filter(verb="key.revoke").exists()
    revoke(release, now)
    again = refused(release, now, "illegal_transition")
    assert (again.state, again.allowed) == ("revoked", [])
    assert AuditEvent.objects.filter(verb="key.revoke").count() == 1


def test_a_dry_run_tells_and_changes_nothing(now: datetime) -> None:
    before = list(SigningKey.objects.order_by("kid").values())
    would = revoke(kid_of("release"), now, dry_run=True)
    assert (would.successor, would.trust) == ("a new key", 2)
    assert list(SigningKey.objects.order_by("kid").values()) == before
    assert (Trust.objects.count(), AuditEvent.objects.filter(verb="key.revoke").count()) == (1, 0)


def test_another_passphrase_revokes_nothing(now: datetime, settings: Any) -> None:
    kid = kid_of("release")
    settings.KEY_PASSPHRASE = "another passphrase"
    with pytest.raises(KeysError, match="passphrase_wrong"):
        revoke(kid, now)
    assert SigningKey.objects.get(pk=kid).revoked_at is None


def test_keys_may_be_revoked_for_ever(now: datetime) -> None:
    held, _ = keys.current_trust()
    for turn in range(MAX_REVOKED + 2):
        gone = kid_of("release")
        revoke(gone, now + timedelta(minutes=turn))
        held = taken(held)
    assert held.version == MAX_REVOKED + 3
    assert len(held.revoked) == MAX_REVOKED
    assert held.revoked[-1].hex() == gone
    assert len(held.release) == 1
