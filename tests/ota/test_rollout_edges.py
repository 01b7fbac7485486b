"""Every edge of the rollout machine and of the wave machine is made by a verb or a tick; none is left over.

As for jobs in `test_edges.py`: a row is put into each state, each cause acts on it, and the state changes in
the audit trail are collected. They must be the edges of `ota.choices`, so a new edge without a cause fails
here, and so does a cause that makes what is no edge.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from fleet.accounts.models import AuditEvent
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.choices import ROLLOUT_EDGES, WAVE_EDGES, RolloutState, WaveState
from ota.errors import OtaError
from ota.models import ClassVerdict, Manifest, Rollout, SigningKey
from tests.ota.machines.verbs import CALLS, KNOWN
from tests.ota.test_edges import BEFORE_START, Edge, made
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.django_db
R, W = RolloutState, WaveState
HOUR = timedelta(hours=1)
FIRST = "dev-001"
OTHERS = [f"dev-{n:03d}" for n in range(2, 7)]
Act = Callable[[World, Rollout], object]


@dataclass
class Rig:
    """One device for rollouts that have not started, five for one that runs and has made its offers.

    rows: `free`, `asks` (for an approval), `timed` (with a start time), `both`, and `runs`.
    """

    world: World
    rows: dict[str, Rollout]

    def after(self, which: str, act: Act, kind: str, prepare: Callable[[Rollout], object]) -> set[Edge]:
        """State changes that `act` makes of a prepared row; then none of it has happened."""
        world, row = copy(self.world), Rollout.objects.get(pk=self.rows[which].pk)
        world.devices = {name: copy(device) for name, device in self.world.devices.items()}
        with transaction.atomic():
            prepare(row)
            last = AuditEvent.objects.order_by("-pk").values_list("pk", flat=True)[0]
            act(world, Rollout.objects.get(pk=row.pk))
            found = made(kind, last)
            transaction.set_rollback(True)
        return found


@pytest.fixture
def rig(now: datetime, make_manifest: Callable[..., Manifest]) -> Rig:
    world = World(now, make_manifest)
    world.add(6)
    world.running(world.manifest())
    candidate = world.manifest()
    rows = {}
    for name, more in PLANS.items():
        at = {"start_at": (now + HOUR).isoformat()} if name in ("timed", "both") else {}
        row = world.create(candidate, FIRST_PLAN | more | at, devices=[FIRST])
        rows[name] = rollouts.submit(row, actor=ACTOR, now=now)
    assert [row.state for row in rows.values()] == [
        R.READY,
        R.AWAITING_APPROVAL,
        R.SCHEDULED,
        R.AWAITING_APPROVAL,
    ]
    rows["runs"] = world.started(candidate, FIRST_PLAN | {"waves": [{"count": 5}]}, devices=OTHERS)
    world.tick(rows["runs"])
    for name in OTHERS:
        world.sync(world.devices[name])
    return Rig(world, rows)


PLANS: dict[str, dict[str, Any]] = {
    "free": {},
    "asks": {"requires_approval": True},
    "timed": {},
    "both": {"requires_approval": True},
}


def verb(name: str) -> Act:
    """A person asks for it; what the state does not allow is refused."""

    def act(world: World, rollout: Rollout) -> None:
        with contextlib.suppress(OtaError):
            CALLS[name](rollout, world.now, 0)

    act.__name__ = name
    return act


def tick(world: World, rollout: Rollout) -> None:
    rollouts.tick(rollout.pk, world.now)


def tick_when_no_class_fits(world: World, rollout: Rollout) -> None:
    ClassVerdict.objects.update(kind="refuse")
    tick(world, rollout)


def tick_after_the_start_time(world: World, rollout: Rollout) -> None:
    world.now += 2 * HOUR
    tick(world, rollout)


def tick_after_the_start_time_with_another_fleet(world: World, rollout: Rollout) -> None:
    Rollout.objects.filter(pk=rollout.pk).update(target={"devices": [FIRST, OTHERS[0]]})
    Rollout.objects.exclude(pk=rollout.pk).update(state=R.COMPLETED)
    tick_after_the_start_time(world, rollout)


def everyone(
    world: World, state: UpdateState, code: RefusalCode = RefusalCode.NONE, *, runs: str = ""
) -> None:
    """The devices of the running rollout say this of what they were offered."""
    for name in OTHERS:
        device = world.devices[name]
        device.state, device.code, device.run = state, code, runs or device.run
        world.send(device)


def a_failed_self_test(world: World, rollout: Rollout) -> None:
    device = world.devices[OTHERS[0]]
    device.state, device.code = UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH
    world.send(device)
    tick(world, rollout)


def evidence_acknowledged(world: World, rollout: Rollout) -> None:
    a_failed_self_test(world, rollout)
    verb("resume")(world, rollout)


def evidence_overridden(world: World, rollout: Rollout) -> None:
    a_failed_self_test(world, rollout)
    verb("override")(world, rollout)


def crash_loops(world: World, rollout: Rollout) -> None:
    everyone(world, UpdateState.REVERTED, RefusalCode.CRASH_LOOP)
    tick(world, rollout)
    tick(world, rollout)


def a_revoked_key(world: World, rollout: Rollout) -> None:
    SigningKey.objects.filter(pk__in=rollout.manifest.kids).update(revoked_at=world.now)
    tick(world, rollout)


def the_last_wave_passed(world: World, rollout: Rollout) -> None:
    rollout.waves.update(state=W.PASSED)
    tick(world, rollout)


def the_start_of_a_newer_one(world: World, rollout: Rollout) -> None:
    newer = world.create(world.manifest(), FIRST_PLAN | {"supersede": True}, devices=OTHERS)
    rollouts.submit(newer, actor=ACTOR, now=world.now)
    verb("start")(world, newer)  # refused while a rollout holds the devices that cannot be superseded


def every_job_ended(world: World, rollout: Rollout) -> None:
    for _ in range(2):
        tick(world, rollout)
        for name in OTHERS:
            world.sync(world.devices[name])
            world.send(world.devices[name])
    tick(world, rollout)


def every_job_of_a_superseded_one_ended(world: World, rollout: Rollout) -> None:
    Rollout.objects.filter(pk=rollout.pk).update(superseded_by=Rollout.objects.exclude(pk=rollout.pk).first())
    every_job_ended(world, rollout)


def a_rollback_whose_devices_stay_away(world: World, rollout: Rollout) -> None:
    everyone(world, UpdateState.CONFIRMED, runs=rollout.manifest_id)
    verb("rollback")(world, rollout)
    for name in OTHERS:
        world.set_online(world.devices[name], False)
    tick(world, rollout)
    world.now += timedelta(days=90)
    tick(world, rollout)


def confirmed_with_telemetry(world: World, rollout: Rollout) -> None:
    everyone(world, UpdateState.CONFIRMED, runs=rollout.manifest_id)
    world.pass_time(60)
    tick(world, rollout)


def confirmed_in_silence(world: World, rollout: Rollout) -> None:
    everyone(world, UpdateState.CONFIRMED, runs=rollout.manifest_id)
    world.now += timedelta(days=2)  # past the deadline of reach
    tick(world, rollout)


def confirmed_in_silence_and_overridden(world: World, rollout: Rollout) -> None:
    confirmed_in_silence(world, rollout)
    verb("override")(world, rollout)


def confirmed_in_silence_until_time_is_up(world: World, rollout: Rollout) -> None:
    confirmed_in_silence(world, rollout)
    world.now += timedelta(days=60)
    tick(world, rollout)


UNSTARTED: tuple[tuple[str, Act], ...] = (
    *(("free", verb(name)) for name in sorted(KNOWN)),
    *(("asks", verb(name)) for name in ("submit", "approve", "reject", "start")),
    *((which, verb("submit")) for which in ("timed", "both")),
    ("both", verb("approve")),
    *((which, tick) for which in PLANS),
    *((which, tick_when_no_class_fits) for which in ("free", "timed")),
    *((which, tick_after_the_start_time) for which in ("timed", "both")),
    ("timed", tick_after_the_start_time_with_another_fleet),
)
STARTED: tuple[tuple[str, Act], ...] = tuple(
    ("runs", act)
    for act in (
        *(verb(name) for name in sorted(KNOWN)), tick, evidence_acknowledged, crash_loops, a_revoked_key,
        the_last_wave_passed, the_start_of_a_newer_one, every_job_ended, every_job_of_a_superseded_one_ended,
        a_rollback_whose_devices_stay_away,
    )
)  # fmt: skip


WAVES: tuple[tuple[RolloutState, Act], ...] = (
    (R.RUNNING, tick),
    (R.RUNNING, evidence_acknowledged),
    (R.RUNNING, evidence_overridden),
    (R.RUNNING, confirmed_with_telemetry),
    (R.RUNNING, confirmed_in_silence),
    (R.RUNNING, confirmed_in_silence_and_overridden),
    (R.RUNNING, confirmed_in_silence_until_time_is_up),
    (R.PAUSED, a_failed_self_test),
    (R.ABORTING, tick),
    (R.ROLLING_BACK, tick),
)


def put(state: str, now: datetime) -> Callable[[Rollout], object]:
    """Let a rollout be in this state."""
    started = None if state in BEFORE_START else now
    return lambda row: Rollout.objects.filter(pk=row.pk).update(state=state, started_at=started)


def test_every_edge_of_a_rollout_has_a_cause_and_nothing_else_is_made(rig: Rig) -> None:
    causes: dict[Edge, set[str]] = defaultdict(set)
    for state in RolloutState:
        for which, act in UNSTARTED if state in BEFORE_START else STARTED:
            for edge in rig.after(which, act, "rollout", put(state, rig.world.now)):
                causes[edge].add(act.__name__)
    assert set(causes) == edges_of(ROLLOUT_EDGES), without(ROLLOUT_EDGES, causes)


def test_every_edge_of_a_wave_has_a_cause_and_nothing_else_is_made(rig: Rig) -> None:
    causes: dict[Edge, set[str]] = defaultdict(set)
    for state in WaveState:
        for rollout_state, act in WAVES:

            def prepare(row: Rollout, state: str = state, rollout_state: str = rollout_state) -> None:
                put(rollout_state, rig.world.now)(row)
                row.waves.update(state=state)

            for edge in rig.after("runs", act, "wave", prepare):
                causes[edge].add(act.__name__)
    assert set(causes) == edges_of(WAVE_EDGES), without(WAVE_EDGES, causes)


def edges_of(table: dict[str, frozenset[str]]) -> set[Edge]:
    """(from, to) of a table of edges."""
    return {(str(state), str(to)) for state, ends in table.items() for to in ends}


def without(table: dict[str, frozenset[str]], causes: dict[Edge, set[str]]) -> str:
    """What to say when the edges found are others."""
    more = {edge: names for edge, names in causes.items() if edge not in edges_of(table)}
    return f"no cause: {sorted(edges_of(table) - set(causes))}; no edge: {more}"
