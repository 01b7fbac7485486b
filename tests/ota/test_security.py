"""A broken signature or a revoked key stops rollouts; one device's word never rolls back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from fleet.devices.models import Device
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.models import Job, Manifest, SigningKey
from ota.security import RevokedError
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, SECOND, World

pytestmark = pytest.mark.django_db
SLOW = FIRST_PLAN | {"soak_s": 600}


@pytest.fixture
def world(make_manifest: Callable[..., Manifest], now: datetime) -> World:
    return World(now, make_manifest)


def signed(manifest: Manifest) -> SigningKey:
    """The release key that a manifest of the tests is signed with, and its row says so."""
    key = SigningKey.objects.get(role="release")
    Manifest.objects.filter(pk=manifest.pk).update(kids=[key.pk])
    return key


def test_the_device_that_reported_a_broken_signature_is_left_out_once_a_person_has_seen_it(
    world: World,
) -> None:
    odd, *others = world.add(4)
    world.running(world.manifest())
    new = world.manifest()
    odd.faults[new.pk] = (UpdateState.REFUSED, RefusalCode.SIGNATURE)
    rollout = world.started(new, SLOW)
    world.run(rollout, until={"halted"})
    for _ in range(4):
        world.tick(rollout)
        world.step()
    assert rollout.state == "halted", "it never rolls back by itself"
    assert Device.objects.get(pk=odd.id).quarantined_at is None
    evidence = rollout.halted_on_id
    rollouts.resume(rollout, actor=SECOND, now=world.now, ack_evidence=evidence, reason="one board")
    row = Device.objects.get(pk=odd.id)
    assert row.quarantine_reason == "it reported a broken signature of what it was told to run"
    world.run(rollout, until={"completed"}, seconds=60)
    assert {device.run for device in others} == {new.pk}
    assert Job.objects.filter(rollout=rollout, device=odd.id).count() == 1
    later = rollouts.run_preflight(world.create(world.manifest(), SLOW), actor=ACTOR, now=world.now)
    assert later.summary["skipped"] == {"quarantined": 1}


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_revoked_release_key_halts_every_rollout_that_rests_on_it(world: World, state: str) -> None:
    world.add(6)
    world.running(world.manifest())
    new = world.manifest()
    key = signed(new)
    rollout = world.started(new, SLOW | {"max_in_flight": 2, "max_in_flight_later": 2})
    world.tick(rollout)
    if state == "paused":
        rollouts.pause(rollout, actor=ACTOR, now=world.now, finish_in_flight=True)
    SigningKey.objects.filter(pk=key.pk).update(revoked_at=world.now)
    offered = Job.objects.filter(rollout=rollout).exclude(state="queued").count()
    assert world.tick(rollout).state == "halted"
    assert key.pk in rollout.reason
    assert Job.objects.filter(rollout=rollout).exclude(state="queued").count() == offered == 2
    world.tick(rollout)
    assert set(Job.objects.filter(rollout=rollout).values_list("state", flat=True)) <= {
        "queued",
        "cancelling",
    }
    assert rollouts.allowed(rollout) == ["abort", "rollback"]
    for verb in (rollouts.resume, rollouts.override):
        with pytest.raises(IllegalTransition):
            verb(rollout, actor=ACTOR, now=world.now, ack_evidence=None, reason="go on")
    rollouts.rollback(rollout, actor=ACTOR, now=world.now)
    world.run(rollout, until={"rolled_back"})


def test_nothing_starts_on_a_revoked_key(world: World) -> None:
    world.add(2)
    new = world.manifest()
    key = signed(new)
    ready = world.ready(new, SLOW)
    SigningKey.objects.filter(pk=key.pk).update(revoked_at=world.now)
    with pytest.raises(RevokedError) as refused:
        rollouts.start(ready, actor=ACTOR, now=world.now)
    assert refused.value.code == "key_revoked"
    ready.refresh_from_db()
    assert ready.state == "ready"
    late = rollouts.run_preflight(world.create(new, SLOW), actor=ACTOR, now=world.now)
    assert [reason["code"] for reason in late.summary["reasons"]] == ["key_revoked"]
