"""Two rollouts of one slot: left out, refused, or superseded, and what happens to each job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from ota import rollouts
from ota.models import DesiredState, Job, Manifest, Membership, Rollout
from ota.reports import WITHDRAWN
from ota.supersede import OverlapError
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.django_db
SLOW = FIRST_PLAN | {"soak_s": 600}
NEWER = SLOW | {"supersede": True}


@pytest.fixture
def world(make_manifest: Callable[..., Manifest], now: datetime) -> World:
    return World(now, make_manifest)


def states(rollout: Rollout) -> dict[str, str]:
    rows = Job.objects.filter(rollout=rollout, kind="install").order_by("attempt")
    return dict(rows.values_list("device_id", "state"))


def test_a_rollout_whose_devices_are_all_held_is_refused_and_stays_as_it_is(world: World) -> None:
    world.add(3)
    first, second = (world.ready(world.manifest(), SLOW) for _ in range(2))
    world.begin(first)
    for dry_run in (True, False):
        with pytest.raises(OverlapError) as refused:
            rollouts.start(second, actor=ACTOR, now=world.now, dry_run=dry_run)
        assert refused.value.code == "overlap"
        assert refused.value.existing == {"rollout": str(first.pk), "name": "walk", "state": "running"}
    second.refresh_from_db()
    assert second.state == "ready"
    assert not Membership.objects.filter(rollout=second).exists()
    third = rollouts.run_preflight(world.create(world.manifest(), SLOW), actor=ACTOR, now=world.now)
    assert (third.state, third.summary["reasons"][0]["code"]) == ("preflight_failed", "overlap")


def test_devices_of_a_live_rollout_are_their_own_column(world: World) -> None:
    world.add(5)
    held = ["dev-001", "dev-002"]
    world.started(world.manifest(), SLOW, devices=held)
    second = world.started(world.manifest(), SLOW)
    assert rollouts.state(second, now=world.now)["skipped"] == {"other_rollout": 2}
    said = rollouts.explain(second, held[0], now=world.now)
    assert said is not None
    assert said["code"] == "other_rollout"


def test_the_newer_rollout_ends_the_older_one_and_serves_its_devices(world: World) -> None:
    confirmed, trying, told, waiting, apart = world.add(5)
    base, old, new = world.manifest(), world.manifest(), world.manifest()
    world.running(base)
    shared = [device.id for device in (confirmed, trying, told, waiting)]
    world.set_online(waiting, False)
    older = world.started(old, SLOW)
    world.tick(older)
    for device, steps in ((confirmed, 6), (trying, 5), (told, 2), (apart, 6)):
        world.sync(device)
        for _ in range(steps):
            device.step()
            world.send(device)
    assert states(older) == {
        confirmed.id: "confirmed", trying.id: "trial", told.id: "downloading",
        waiting.id: "queued", apart.id: "confirmed",
    }  # fmt: skip
    newer = world.ready(new, NEWER, devices=shared)
    dry = rollouts.start(newer, actor=ACTOR, now=world.now, dry_run=True)
    assert isinstance(dry, dict)
    assert (dry["devices"], dry["waves"], dry["downloads"]) == (4, [{"n": 1, "size": 4}], 4)
    assert dry["download_bytes"] == 4 * new.chunks * 4096
    assert dry["supersedes"] == [{"id": str(older.pk), "name": "walk", "state": "running", "devices": 4}]
    assert world.tick(older).state == "running", "a dry run changes nothing"
    assert newer.state == "ready"
    world.begin(newer)
    older.refresh_from_db()
    assert (older.state, older.superseded_by_id) == ("aborting", newer.pk)
    assert older.reason == "superseded by walk"
    world.tick(older)
    world.tick(newer)
    assert states(older)[waiting.id] == "superseded"
    assert states(older)[told.id] == "cancelling"
    still_live = [told.id, trying.id]
    assert not Job.objects.filter(rollout=newer, device__in=still_live).exists(), "their old jobs live"
    assert Job.objects.get(rollout=newer, device=confirmed.id).state == "offered"
    world.set_online(waiting, True)
    for _ in range(12):
        world.tick(older)
        world.tick(newer)
        world.step()
    assert states(older) == {
        confirmed.id: "confirmed", trying.id: "confirmed", told.id: "superseded",
        waiting.id: "superseded", apart.id: "confirmed",
    }  # fmt: skip
    older.refresh_from_db()
    assert older.state == "superseded"
    assert states(newer) == dict.fromkeys(shared, "confirmed")
    assert {device.run for device in (confirmed, trying, told, waiting)} == {new.pk}
    assert DesiredState.objects.get(pk=apart.id).entries["0"][1] == old.pk, "kept outside the newer one"
    facts = rollouts.state(older, now=world.now)
    assert facts["superseded_by"] == {"id": str(newer.pk), "name": "walk"}
    assert facts["sentence"] == "Superseded by walk. 3 devices of 5 had confirmed this candidate."
    assert rollouts.state(newer, now=world.now)["supersedes"] == [{"id": str(older.pk), "name": "walk"}]
    said = rollouts.explain(older, told.id, now=world.now)
    assert said is not None
    assert (said["code"], said["next"]) == ("superseded", None)
    with pytest.raises(IllegalTransition) as refused:
        rollouts.rollback(older, actor=ACTOR, now=world.now)
    assert (refused.value.state, refused.value.allowed) == ("superseded", [])


def test_a_rollout_that_takes_a_bad_model_back_keeps_its_devices(world: World) -> None:
    world.add(3)
    world.running(world.manifest())
    bad = world.started(world.manifest(), SLOW)
    for _ in range(8):
        world.tick(bad)
        world.step()
    rollouts.rollback(bad, actor=ACTOR, now=world.now)
    newer = rollouts.run_preflight(world.create(world.manifest(), NEWER), actor=ACTOR, now=world.now)
    assert (newer.state, newer.summary["reasons"][0]["code"]) == ("preflight_failed", "overlap")


def test_a_trial_that_outran_its_withdrawal_is_the_newer_rollouts_to_serve(world: World) -> None:
    (device,) = world.add(1)
    base, old, new = world.manifest(), world.manifest(), world.manifest()
    world.running(base)
    older = world.started(old, SLOW)
    world.tick(older)
    world.sync(device)
    for _ in range(5):
        device.step()  # its trial has begun, and no report has said so
    newer = world.ready(new, NEWER)
    world.begin(newer)
    world.send(device)
    for _ in range(12):
        world.tick(newer)
        world.tick(older)
        world.step()
    assert device.run == new.pk
    assert DesiredState.objects.get(pk=device.id).entries["0"][1] == new.pk
    assert Rollout.objects.get(pk=older.pk).state == "superseded"


def test_a_device_the_newer_rollout_was_given_is_not_called_back_by_the_older_one(world: World) -> None:
    (device,) = world.add(1)
    base, old, new = world.manifest(), world.manifest(), world.manifest()
    world.running(base)
    older = world.started(old, SLOW)
    world.tick(older)
    for _ in range(7):
        world.step()
    newer = world.ready(new, NEWER)
    rollouts.start(newer, actor=ACTOR, now=world.now)
    # as when the withdrawal is written while a gateway takes the confirmation (`offers._told`)
    assert Job.objects.filter(rollout=older, state="confirmed").update(code=WITHDRAWN) == 1
    world.tick(newer)
    told = DesiredState.objects.get(pk=device.id)
    assert told.entries["0"][1] == new.pk
    world.tick(older)
    again = DesiredState.objects.get(pk=device.id)
    assert (again.counter, again.entries) == (told.counter, told.entries)
