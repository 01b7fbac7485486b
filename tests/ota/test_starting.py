"""A start is an operation: asked for in one short transaction, carried out in bounded ones, gone on with
after a kill, and either all of it or nothing is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from ota import frozen, operations, reconcile, rollouts, starting
from ota.models import Manifest, Membership, Operation, Rollout
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


def plan(**changes: Any) -> dict[str, Any]:
    return FIRST_PLAN | changes


def asked(rollout: Rollout, world: World) -> Operation:
    operation = rollouts.start(rollout, actor=ACTOR, now=world.now)
    assert isinstance(operation, Operation)
    return operation


def no_lock_is_left() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        return cursor.fetchone() == (0,)


@pytest.mark.parametrize("killed_in", [1, 2, 3])
@pytest.mark.parametrize("is_written", [False, True])
def test_a_start_killed_in_any_batch_goes_on_behind_the_last_one(
    world: World, monkeypatch: Any, killed_in: int, is_written: bool
) -> None:
    world.add(7)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    monkeypatch.setattr(starting, "BATCH", 3)
    written: list[list[Any]] = []
    copy = frozen.copy_rows

    def dies(model: Any, names: Any, rows: list[Any]) -> None:
        if len(written) + 1 == killed_in and not is_written:
            raise KeyboardInterrupt
        copy(model, names, rows)
        written.append([row[1] for row in rows])
        if len(written) == killed_in:
            raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "copy_rows", dies)
    operation = asked(rollout, world)
    with pytest.raises(KeyboardInterrupt):
        rollouts.carry_on(rollout.pk, now=world.now)
    left, kept = Rollout.objects.get(pk=rollout.pk), 3 * (killed_in - 1)
    assert (left.state, left.members.count(), left.waves.count()) == ("ready", kept, 0)
    operation.refresh_from_db()
    assert (operation.state, operation.done) == ("running" if kept else "queued", kept)
    assert rollout.pk in rollouts.due(now=world.now)

    again: list[str] = []

    def copies(model: Any, names: Any, rows: list[Any]) -> None:
        copy(model, names, rows)
        again.extend(row[1] for row in rows)

    monkeypatch.setattr(frozen, "copy_rows", copies)
    assert rollouts.tick(rollout.pk, world.now)
    left.refresh_from_db()
    assert (left.state, left.waves.count()) == ("running", 1)
    assert sorted(Membership.objects.filter(rollout=rollout).values_list("device_id", flat=True)) == sorted(
        world.devices
    )
    assert len(again) == 7 - kept, "what was written is not written again"
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.total) == ("succeeded", 7, 7)
    assert operation.frozen is None
    assert no_lock_is_left()


def test_what_a_killed_start_writes_is_what_an_unharmed_one_writes(world: World, monkeypatch: Any) -> None:
    world.add(9)
    world.running(world.manifest())
    rollout = world.ready(
        world.manifest(), plan(control={"count": 2}, waves=[{"count": 2}, {"percent": 100}])
    )
    whole = frozen.Draw(
        rollout, list(frozen.unpack(frozen.pack(list(members(rollout, world))))), at=world.now
    )
    monkeypatch.setattr(starting, "BATCH", 2)
    copy, calls = frozen.copy_rows, []

    def dies_each_second_time(*given: Any) -> None:
        copy(*given)
        calls.append(given)
        if len(calls) % 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "copy_rows", dies_each_second_time)
    asked(rollout, world)
    for _ in range(20):
        try:
            rollouts.carry_on(rollout.pk, now=world.now)
        except KeyboardInterrupt:
            continue
        break
    stored = Membership.objects.filter(rollout=rollout).values_list("device_id", "arm", "wave", "rank")
    assert sorted(stored) == sorted(
        (row.device_id, str(row.arm), row.wave, row.rank) for row in whole._assigned
    )
    assert Rollout.objects.get(pk=rollout.pk).state == "running"


def members(rollout: Rollout, world: World) -> Any:
    return starting.members(rollout, now=world.now)


def test_a_start_is_asked_for_once_and_told_until_it_runs(world: World) -> None:
    world.add(5)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    operation = asked(rollout, world)
    state = rollouts.state(rollout, now=world.now)
    assert state["state"] == "ready"
    assert state["starting"] == {"operation": str(operation.pk), "done": 0, "total": 5}
    assert state["sentence"].startswith("Starting, 0 of 5")
    assert "start" not in state["allowed"]
    with pytest.raises(IllegalTransition):
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    assert rollouts.tick(rollout.pk, world.now)
    state = rollouts.state(rollout, now=world.now)
    assert (state["state"], state["starting"]) == ("running", None)
    told = AuditEvent.objects.filter(
        subject_id=str(rollout.pk), verb__in=("rollout.start", "rollout.running")
    )
    assert sorted(told.values_list("verb", "actor")) == [
        ("rollout.running", ACTOR.name),
        ("rollout.start", ACTOR.name),
    ]


@pytest.mark.parametrize("done", [0, 3])
def test_a_rollout_that_is_cancelled_while_it_starts_leaves_no_row(
    world: World, monkeypatch: Any, done: int
) -> None:
    world.add(7)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    operation = asked(rollout, world)
    if done:
        killed_after_the_first_batch(rollout, world, monkeypatch)
    assert Membership.objects.count() == done
    rollouts.cancel(Rollout.objects.get(pk=rollout.pk), actor=ACTOR, now=world.now)
    assert rollouts.due(now=world.now) == [rollout.pk]
    assert rollouts.tick(rollout.pk, world.now)
    operation.refresh_from_db()
    assert (operation.state, Membership.objects.count()) == ("cancelled", 0)
    assert rollouts.due(now=world.now) == []


def test_of_two_starts_the_older_rollout_comes_first_whoever_was_touched_last(world: World) -> None:
    world.add(7)
    manifest = world.manifest()
    waiting = [world.ready(manifest, FIRST_PLAN) for _ in range(4)]
    for rollout in waiting:
        asked(rollout, world)
    assert len({rollout.created_at for rollout in waiting}) == 1
    for rollout in waiting * 2:
        Rollout.objects.filter(pk=rollout.pk).update(reason="x" * 900)  # its row moves in the table
        assert rollouts.due(now=world.now) == [row.pk for row in waiting]


def killed_after_the_first_batch(rollout: Rollout, world: World, monkeypatch: Any) -> None:
    copy, calls = frozen.copy_rows, []

    def dies(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        copy(*given)

    with monkeypatch.context() as patch:
        patch.setattr(starting, "BATCH", 3)
        patch.setattr(frozen, "copy_rows", dies)
        with pytest.raises(KeyboardInterrupt):
            rollouts.carry_on(rollout.pk, now=world.now)


def test_one_that_was_edited_while_it_started_is_started_anew(world: World, monkeypatch: Any) -> None:
    world.add(7)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    first = asked(rollout, world)
    killed_after_the_first_batch(rollout, world, monkeypatch)
    rollout = rollouts.edit(Rollout.objects.get(pk=rollout.pk), actor=ACTOR, now=world.now, name="anew")
    rollout = rollouts.submit(rollout, actor=ACTOR, now=world.now)
    second = asked(rollout, world)
    first.refresh_from_db()
    assert (first.state, first.frozen) == ("cancelled", None)
    assert rollouts.carry_on(rollout.pk, now=world.now)
    rollout.refresh_from_db()
    second.refresh_from_db()
    assert (rollout.state, second.state) == ("running", "succeeded")
    assert rollout.members.count() == Membership.objects.count() == 7


def test_of_two_starts_that_froze_the_same_devices_one_runs(world: World) -> None:
    world.add(6)
    first = world.ready(world.manifest(), FIRST_PLAN)
    second = world.ready(world.manifest(), FIRST_PLAN)
    asked(first, world)
    late = asked(second, world)
    assert rollouts.carry_on(first.pk, now=world.now)
    assert rollouts.carry_on(second.pk, now=world.now)
    first.refresh_from_db()
    second.refresh_from_db()
    late.refresh_from_db()
    assert (first.state, second.state, late.state) == ("running", "draft", "failed")
    assert late.problem["code"] == "target_changed"
    assert "6 of its devices" in second.reason
    assert not second.members.exists()


def test_a_device_that_is_deleted_meanwhile_ends_the_start_with_a_reason(world: World) -> None:
    world.add(6)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    operation = asked(rollout, world)
    Device.objects.filter(pk=next(iter(world.devices))).delete()
    assert rollouts.carry_on(rollout.pk, now=world.now)
    rollout.refresh_from_db()
    operation.refresh_from_db()
    assert (rollout.state, operation.state, operation.problem["code"]) == (
        "draft",
        "failed",
        "target_changed",
    )
    assert not rollout.members.exists()


def test_operations_are_forgotten_thirty_days_after_their_end(world: World) -> None:
    world.add(3)
    world.started(world.manifest(), FIRST_PLAN)
    assert operations.forget(now=world.now + timedelta(days=30)) == 0
    assert reconcile.reconcile(now=world.now + timedelta(days=30, seconds=1))["operations"] == 1
    assert not Operation.objects.exists()


def test_the_planner_knows_how_large_a_rollout_is_as_soon_as_it_runs(world: World) -> None:
    world.add(200)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    with connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN (FORMAT JSON) SELECT 1 FROM ota_membership WHERE rollout_id = %s", [rollout.pk]
        )
        (told,) = cursor.fetchone()
    told = json.loads(told) if isinstance(told, str) else told
    assert told[0]["Plan"]["Plan Rows"] >= 100, "it takes it for a small one, and each tick is quadratic"


def test_of_two_workers_at_the_same_batch_one_counts_it(world: World) -> None:
    world.add(5)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    asked(rollout, world)
    first, second = operations.live(rollout.pk), operations.live(rollout.pk)
    assert first is not None
    assert second is not None
    assert operations.advance(first, 3)
    assert not operations.advance(second, 3)
    assert operations.advance(first, 2)
    first.refresh_from_db()
    assert (first.state, first.done) == ("running", 5)
