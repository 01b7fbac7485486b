"""What a rollback lets devices fetch, with really released versions: the old model, signed anew.

A device takes a lower sequence number from its own bank only: what it fetches has its model's highest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fleet.accounts.audit import TICK
from fleet.accounts.models import AuditEvent
from fleet.mqtt.codec import cose
from ota import key_revocation, registry, releases, rollouts
from ota.choices import StagingState
from ota.manifest import Manifest as Document
from ota.models import DesiredState, Manifest, ModelVersion, Staging, Trust
from ota.rollback_target import renewed
from ota.signing import verify_manifest
from ota.trust import TrustDocument
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.usefixtures("installation")

MODELS = Path(__file__).resolve().parents[2] / "deploy" / "models"


def released(version: str, now: datetime) -> Manifest:
    """An own model, inspected in the sandbox, acknowledged for one class, signed and staged."""
    data = (MODELS / f"activity-v{version}.tflite").read_bytes()
    row = registry.upload("activity", version, data, actor=ACTOR, now=now)
    assert registry.inspect_version(row.pk, now=now)
    row.refresh_from_db()
    registry.acknowledge(row, "host-a", reason="there is no evaluation set here", actor=ACTOR, now=now)
    manifest = registry.release(row, actor=ACTOR, now=now)
    Staging.objects.filter(manifest=manifest).update(state=StagingState.STAGED, published=manifest.chunks)
    return manifest


@pytest.fixture
def old(now: datetime) -> Manifest:
    """What a device goes back to: no longer the newest of its model."""
    row = released("1", now)
    released("2", now)
    return row


def opened(row: Manifest, now: datetime, *, version: int | None = None) -> Document:
    """A manifest as a device reads it that holds this version of the trust document, None = the newest."""
    rows = Trust.objects.order_by("version")
    held = rows.get(version=version) if version else rows.last()
    assert held is not None
    trust = TrustDocument.parse(cose.parse_sign("trust", bytes(held.message)).payload)
    return verify_manifest(bytes(row.message), trust, now_s=int(now.timestamp()))


def test_a_version_is_signed_anew_with_the_highest_sequence_number(old: Manifest, now: datetime) -> None:
    later = now + timedelta(minutes=5)
    fresh = Manifest.objects.get(pk=renewed(old.pk, actor=TICK, now=later))
    assert (old.seq, fresh.seq, fresh.version_id, fresh.slot) == (1, 3, old.version_id, old.slot)
    before, after = opened(old, now), opened(fresh, later)
    assert after == replace(before, seq=3, created=int(later.timestamp())), "the same model in every byte"
    assert (bytes(fresh.leaves), bytes(fresh.blob)) == (bytes(old.leaves), bytes(old.blob))
    assert Staging.objects.get(manifest=fresh).state == StagingState.PENDING
    event = AuditEvent.objects.filter(verb="version.release").latest("at")
    assert (event.actor, event.after["manifest"]) == ("tick", fresh.pk)


def test_what_was_signed_anew_serves_every_device_until_a_newer_one_is_released(
    old: Manifest, now: datetime
) -> None:
    fresh = renewed(old.pk, actor=TICK, now=now)
    assert renewed(old.pk, actor=TICK, now=now) == fresh == renewed(fresh, actor=TICK, now=now)
    assert Manifest.objects.filter(version=old.version).count() == 2
    Staging.objects.filter(manifest=fresh).update(state=StagingState.COLLECTED)
    assert renewed(old.pk, actor=TICK, now=now) == fresh
    assert Staging.objects.get(manifest=fresh).state == StagingState.PENDING, "staged again"
    releases.release(ModelVersion.objects.get(version="2"), resign=True, actor=ACTOR, now=now)
    newest = renewed(old.pk, actor=TICK, now=now)
    assert Manifest.objects.get(pk=newest).seq == 5, "devices that took 4 refuse 3"
    Manifest.objects.filter(pk=newest).update(revoked_at=now)
    assert Manifest.objects.get(pk=renewed(old.pk, actor=TICK, now=now)).seq == 6, (
        "a revoked one serves nobody"
    )


def test_what_cannot_be_signed_leads_nowhere_and_stores_nothing(old: Manifest, now: datetime) -> None:
    registry.yank(old.version, reason="it was trained on test data", actor=ACTOR, now=now)
    model = old.version.model
    model.refresh_from_db()
    assert renewed(old.pk, actor=TICK, now=now) == ""
    assert Manifest.objects.filter(version=old.version).count() == 1
    assert model.last_seq == type(model).objects.get(pk=model.pk).last_seq == 2, "no number is used up"


def test_a_device_that_lost_its_old_model_fetches_it_signed_anew(
    old: Manifest, make_manifest: Callable[..., Manifest], now: datetime
) -> None:
    world = World(now, make_manifest)
    held, lost = world.add(2)
    world.running(old)
    rollout = world.started(Manifest.objects.get(version__version="2"), FIRST_PLAN | {"soak_s": 600})
    for _ in range(8):
        world.tick(rollout)
        world.step()
    lost.other = ""  # its other bank was erased
    world.send(lost)
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="worse")
    world.tick(rollout)
    fresh = Manifest.objects.get(version=old.version, seq=3)
    assert Staging.objects.get(manifest=fresh).state == StagingState.PENDING
    Staging.objects.filter(manifest=fresh).update(state=StagingState.STAGED)  # as the staging worker does
    world.run(rollout, until={"rolled_back"})
    told = {row.pk: row.entries["0"][:2] for row in DesiredState.objects.all()}
    assert told == {held.id: [1, old.pk], lost.id: [0, fresh.pk]}
    assert (held.run, lost.run) == (old.pk, fresh.pk)


def test_after_a_revocation_devices_go_back_to_the_old_model_signed_by_the_successor(
    old: Manifest, make_manifest: Callable[..., Manifest], now: datetime
) -> None:
    world = World(now, make_manifest)
    devices = world.add(2)
    world.running(old)
    rollout = world.started(Manifest.objects.get(version__version="2"), FIRST_PLAN | {"soak_s": 600})
    for _ in range(8):
        world.tick(rollout)
        world.step()
    counted = rollouts.rollback(rollout, actor=ACTOR, now=world.now, dry_run=True)
    assert isinstance(counted, dict)
    assert (counted["revert_without_download"], counted["needs_download"]) == (2, 0)
    (kid,) = old.kids
    done = key_revocation.revoke(kid, reason="its laptop was stolen", actor=ACTOR, now=world.now)
    assert world.tick(rollout).state == "halted"
    counted = rollouts.rollback(rollout, actor=ACTOR, now=world.now, dry_run=True)
    assert isinstance(counted, dict)
    assert (counted["revert_without_download"], counted["needs_download"]) == (0, 2)
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="its key is gone")
    world.tick(rollout)
    fresh = Manifest.objects.get(version=old.version, seq=3)
    assert fresh.kids == [done.successor]
    assert opened(fresh, world.now).sha256 == opened(old, world.now, version=1).sha256
    Staging.objects.filter(manifest=fresh).update(state=StagingState.STAGED)
    world.run(rollout, until={"rolled_back"})
    assert {device.run for device in devices} == {fresh.pk}


def test_the_newest_manifest_serves_nobody_when_its_key_is_revoked(old: Manifest, now: datetime) -> None:
    fresh = Manifest.objects.get(pk=renewed(old.pk, actor=TICK, now=now))
    key_revocation.revoke(fresh.kids[0], reason="its laptop was stolen", actor=ACTOR, now=now)
    again = Manifest.objects.get(pk=renewed(old.pk, actor=TICK, now=now))
    assert (fresh.seq, again.seq) == (3, 4)
    assert again.kids != fresh.kids
    assert renewed(old.pk, actor=TICK, now=now) == again.pk
