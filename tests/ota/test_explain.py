"""`explain` promises nothing that cannot come: a rollout that is over offers nothing any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.explain import SENTENCES
from ota.models import Manifest
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.django_db
TWO_WAVES = FIRST_PLAN | {"waves": [{"count": 2}, {"percent": 100}], "max_in_flight": 1}


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


def test_a_cancelled_rollout_is_over_and_not_about_to_start(world: World) -> None:
    (device,) = world.add(1)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    waiting = rollouts.explain(rollout, device.id, now=world.now)
    assert waiting is not None
    assert (waiting["code"], waiting["next"]) == ("not_started", {"action": "offer", "not_before": None})
    rollouts.cancel(rollout, actor=ACTOR, now=world.now)
    over = rollouts.explain(rollout, device.id, now=world.now)
    assert over is not None
    assert (over["code"], over["next"]) == ("ended", None)


def test_a_device_whose_wave_never_opened_is_told_that_the_rollout_ended(world: World) -> None:
    world.add(4)
    rollout = world.tick(world.started(world.manifest(), TWO_WAVES))
    late = rollout.members.filter(wave=2)[0].device_id
    rollouts.abort(rollout, actor=ACTOR, now=world.now)
    assert world.run(rollout, until=["aborted"]).state == "aborted"
    over = rollouts.explain(rollout, late, now=world.now)
    assert over is not None
    assert (over["code"], over["next"]) == ("ended", None)
    assert over["sentence"] == SENTENCES["ended"]


def test_an_aborted_rollout_promises_no_retry(world: World) -> None:
    (device,) = world.add(1)
    rollout = world.tick(world.started(world.manifest(), FIRST_PLAN))
    device.faults[rollout.manifest_id] = (UpdateState.REFUSED, RefusalCode.DIGEST)
    for _ in range(3):
        world.step()
    failed = rollouts.explain(rollout, device.id, now=world.now)
    assert failed is not None
    assert (failed["code"], failed["next"]["action"]) == ("retry", "retry")
    rollouts.abort(rollout, actor=ACTOR, now=world.now)
    over = rollouts.explain(rollout, device.id, now=world.now)
    assert over is not None
    assert (over["code"], over["next"]) == ("retries_exhausted", None)
