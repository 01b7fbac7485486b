"""An alert with action pause pauses the rollout that its devices were exposed to, and no other."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import AuditEvent
from fleet.alerts import evaluation, rules
from fleet.alerts.models import Alert
from ota.models import Job, Manifest, Rollout
from tests.alerts.planting import plant_events
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def started(now: datetime, make_manifest: Callable[..., Manifest]) -> tuple[World, Rollout]:
    """A rollout of a first model under way, and a rule that pauses on a crash loop."""
    world = World(now, make_manifest)
    world.add(4)
    rules.create("loops", kind="crash_loop", action="pause", actor=SYSTEM, now=now)
    return world, world.started(world.manifest(), FIRST_PLAN)


def loop(device_id: str, now: datetime) -> None:
    plant_events(device_id, now - timedelta(minutes=1), "boot", 3, "panic")
    evaluation.evaluate(now)


def test_a_crash_loop_of_an_exposed_device_pauses_its_rollout_once(
    started: tuple[World, Rollout],
) -> None:
    world, rollout = started
    world.tick(rollout)
    job = Job.objects.filter(rollout=rollout).first()
    assert job is not None
    Job.objects.filter(pk=job.pk).update(exposed_at=world.now)
    loop(job.device_id, world.now)
    rollout.refresh_from_db()
    alert = Alert.objects.get()
    assert rollout.state == "paused"
    assert "alert loops: crash loop" in rollout.reason
    row = AuditEvent.objects.get(verb="rollout.paused")
    assert (row.actor_kind, row.actor) == ("alert", str(alert.pk))
    assert [event.verb for event in alert.events.all()] == ["opened", "paused"]
    Rollout.objects.filter(pk=rollout.pk).update(state="running")  # a person decides to go on
    evaluation.evaluate(world.now + timedelta(minutes=1))
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_a_device_that_was_not_exposed_accuses_no_rollout(started: tuple[World, Rollout]) -> None:
    world, rollout = started
    world.tick(rollout)
    job = Job.objects.filter(rollout=rollout).first()
    assert job is not None
    loop(job.device_id, world.now)
    rollout.refresh_from_db()
    assert (Alert.objects.count(), rollout.state) == (1, "running")
