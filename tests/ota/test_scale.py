"""What a rollout over many devices does: everything once, in bounded batches, and again after a kill."""

from typing import Any

import pytest
from django.db import connection

from ota import frozen, rollouts
from ota.models import Membership, Rollout
from tests.bench import scale_steps
from tests.ota.world import ACTOR, FIRST_PLAN, World
from tests.stack.services import Broker

DEVICES = 1_000


@pytest.mark.django_db(transaction=True)
def test_a_thousand_devices_are_frozen_offered_and_told_in_bounded_batches(
    broker: Broker, now: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(frozen, "BATCH", 300)
    found = scale_steps.run(DEVICES, now=now, offers=DEVICES)
    assert found["preflight"]["state"] == "awaiting_approval", found["preflight"]["why"]
    assert found["preflight"]["eligible"] == DEVICES
    assert found["start"]["rows"] == DEVICES
    assert found["start"]["most_rows_a_transaction"] == 300
    assert found["ticks: offers"]["jobs"] == {"confirmed": DEVICES}
    assert found["ticks: offers"]["published"] == DEVICES
    assert found["documents: signed and published"]["documents"] == DEVICES


@pytest.mark.django_db(transaction=True)
def test_a_start_that_was_killed_is_done_again_from_the_beginning(
    now: Any, make_manifest: Any, monkeypatch: Any
) -> None:
    world = World(now, make_manifest)
    world.add(7)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    monkeypatch.setattr(frozen, "BATCH", 3)
    calls = []

    def dies_in_the_second_batch(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        copy(*args)

    copy = frozen.copy_rows
    monkeypatch.setattr(frozen, "copy_rows", dies_in_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    left = Rollout.objects.get(pk=rollout.pk)
    assert (left.state, left.members.count(), left.waves.count()) == ("ready", 3, 0)
    monkeypatch.setattr(frozen, "copy_rows", copy)
    begun = rollouts.start(left, actor=ACTOR, now=world.now)
    assert (begun.state, begun.waves.count()) == ("running", 1)
    assert begun.members.count() == Membership.objects.filter(rollout=rollout).count() == 7
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone() == (0,), "the lock was given back"
