"""Workers, gateways and people at the same time, on real connections: nothing happens twice or hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from ota import rollouts, ticking, timers
from ota.models import Job, Manifest, Operation, Rollout
from ota.plan import Plan
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run these in threads that begin together, each on its own connection; results or exceptions."""
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        try:
            gate.wait(10)
            return work()
        except Exception as problem:
            return problem
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_workers_and_gateways_work_on_one_rollout_together(world: World) -> None:
    world.add(12)
    world.running(world.manifest())
    rollout = world.started(world.manifest(), FIRST_PLAN | {"max_in_flight": 4, "max_in_flight_later": 4})
    give_up = time.monotonic() + 60
    done = threading.Event()
    most = 0

    def worker() -> int:
        ticks = 0
        while not done.is_set() and time.monotonic() < give_up:
            ticks += rollouts.tick(rollout.pk, world.now + timedelta(seconds=time.monotonic() - give_up + 60))
        return ticks

    def gateway(part: int) -> Callable[[], int]:
        mine = [device for index, device in enumerate(world.devices.values()) if index % 2 == part]

        def run() -> int:
            reports = 0
            while not done.is_set() and time.monotonic() < give_up:
                for device in mine:
                    took = world.sync(device)
                    if device.step() or took:
                        reports += 1
                        world.send(device)
            return reports

        return run

    def observer() -> int:
        nonlocal most
        while time.monotonic() < give_up:
            live = Job.objects.filter(rollout=rollout).exclude(state__in=("queued", "confirmed")).count()
            most = max(most, live)
            if Job.objects.filter(rollout=rollout, state="confirmed").count() == 12:
                break
            time.sleep(0.05)
        done.set()
        return most

    results = at_once(worker, worker, worker, gateway(0), gateway(1), observer)
    assert not [result for result in results if isinstance(result, Exception)], results
    assert Job.objects.filter(rollout=rollout, state="confirmed").count() == 12
    assert most <= 4
    told = AuditEvent.objects.filter(verb="job.offered").values_list("subject_id", flat=True)
    assert len(told) == len(set(told)) == 12


def test_two_people_start_and_one_of_them_did(world: World) -> None:
    world.add(5)
    rollout = world.ready(world.manifest(), FIRST_PLAN)

    def start() -> Any:
        return rollouts.start(Rollout.objects.get(pk=rollout.pk), actor=ACTOR, now=world.now)

    results = at_once(start, start, start)
    assert sum(isinstance(result, Operation) for result in results) == 1, results
    assert sum(isinstance(result, IllegalTransition) for result in results) == 2, results

    def worker() -> bool:
        return rollouts.carry_on(rollout.pk, now=world.now)

    assert sum(result is True for result in at_once(worker, worker, worker)) == 1
    assert rollout.members.count() == 5
    assert rollout.waves.count() == 1


def test_a_worker_that_lost_its_lease_changes_nothing(world: World) -> None:
    world.add(3)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    fence = ticking._take(rollout.pk, world.now)
    assert fence is not None
    assert rollouts.tick(rollout.pk, world.now + timedelta(seconds=30))  # the next worker, after the lease
    before = list(AuditEvent.objects.values_list("pk", flat=True))
    with pytest.raises(ticking.LeaseLost):
        ticking._run(rollout.pk, fence, ticking.ACTIVE, lambda *_: pytest.fail("it ran"), world.now)
    assert list(AuditEvent.objects.values_list("pk", flat=True)) == before


def test_a_step_that_is_not_for_the_state_begins_no_transaction(world: World) -> None:
    """Those a step needs are its lock on the rollout; one more begins and one gives back the lease."""
    world.add(3)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    for state in ("running", "paused"):
        if state == "paused":
            rollouts.pause(rollout, actor=ACTOR, now=world.now)
        done: list[str] = []

        def seen(execute: Any, sql: str, *more: Any, told: list[str] = done) -> Any:
            told.append(sql)
            return execute(sql, *more)

        with connection.execute_wrapper(seen):
            assert rollouts.tick(rollout.pk, world.now)
        locks = [sql for sql in done if sql.startswith('UPDATE "ota_rollout" SET "lease')]
        steps = [step for states, step in ticking._STEPS if state in states]
        assert len(locks) == len(steps) + 1, state
        assert not any('"inspection"' in sql for sql in done if "UPDATE" not in sql), "its report was read"


def test_a_step_that_dies_leaves_nothing_half_done(world: World) -> None:
    world.add(3)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    fence = ticking._take(rollout.pk, world.now)
    assert fence is not None

    def dies(row: Rollout, plan: Any, now: datetime) -> None:
        ticking.waves.advance(row, plan, now=now)
        ticking._offer(row, plan, now)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ticking._run(rollout.pk, fence, ticking.ACTIVE, dies, world.now)
    assert not Job.objects.exists()
    assert not AuditEvent.objects.filter(verb="wave.open").exists()
    assert rollouts.tick(rollout.pk, world.now + timedelta(seconds=11))  # its lease ends by itself
    assert Job.objects.filter(state="offered").count() == 3


def test_a_tick_waits_for_no_job_that_a_gateway_holds(world: World) -> None:
    """A gateway that holds one job and wants another that the tick holds would wait in a circle."""
    world.add(3)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    held, *others = Job.objects.filter(rollout=rollout).order_by("device_id")
    Device.objects.update(presence="offline")
    plan = Plan.parse(rollout.plan)
    is_held, is_over = threading.Event(), threading.Event()

    def gateway() -> None:
        with transaction.atomic():
            Job.objects.select_for_update().get(pk=held.pk)
            is_held.set()
            assert is_over.wait(30)

    def tick() -> list[int]:
        assert is_held.wait(30)
        try:
            found = []
            for later in (timedelta(0), timedelta(days=9)):
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("SET LOCAL lock_timeout = '2s'")
                    timers.expire(rollout, plan, now=world.now)
                    found.append(timers.take_back_absent(rollout, plan, now=world.now + later))
            return found
        finally:
            is_over.set()

    assert at_once(gateway, tick) == [None, [0, 2]]
    held.refresh_from_db()
    assert (held.state, held.away_since) == ("offered", None)
    assert set(Job.objects.filter(pk__in=[job.pk for job in others]).values_list("state", flat=True)) == {
        "cancelling"
    }
