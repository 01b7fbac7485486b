"""Every edge of the machines is made by something the product does; a new edge without a cause fails here.

A row is put into each state, each cause acts on it, and what moved is collected: the edges found must be the
edges of `ota.choices`, less those that nothing makes yet. That absent edges are refused says
`test_transitions.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.db import transaction

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import offers, rollouts, timers
from ota.choices import JOB_EDGES, JOB_TERMINAL, JobState, RolloutState
from ota.models import Job, Manifest, Rollout
from ota.permits import ImmutableError
from ota.plan import Plan
from ota.reports import WITHDRAWN
from ota.transitions import IllegalTransition
from ota.verbs import verbs
from tests.ota.machines.verbs import CALLS, KNOWN
from tests.ota.world import ACTOR, FIRST_PLAN, FakeDevice, World

pytestmark = pytest.mark.django_db
J, R = JobState, RolloutState
Edge = tuple[str, str]
Cause = Callable[[World, Job, FakeDevice], object]

# A device that is retired after its job has ended keeps the outcome: `remove_retired` takes live jobs only.
NOT_MADE_JOB = {(state, J.REMOVED) for state in JOB_TERMINAL - {J.REMOVED}}


@pytest.fixture
def running(now: datetime, make_manifest: Callable[..., Manifest]) -> tuple[World, Job, FakeDevice]:
    """A device that was offered a candidate and took the document."""
    world = World(now, make_manifest)
    (device,) = world.add(1)
    world.running(world.manifest())
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    world.sync(device)
    return world, Job.objects.get(rollout=rollout), device


def report(state: UpdateState, code: RefusalCode = RefusalCode.NONE, *, runs: bool = False) -> Cause:
    """The device says this of the candidate. runs: the candidate is in its running bank."""

    def cause(world: World, job: Job, device: FakeDevice) -> None:
        device.state, device.code, device.have = state, code, 1
        if runs:
            device.run = job.target
        world.send(device)

    return cause


def at_rest(world: World, job: Job, device: FakeDevice) -> None:
    """The device has taken a withdrawal: it names and runs its old model."""
    device.target, device.state = device.run, UpdateState.CONFIRMED
    world.send(device)


def at_rest_after_a_lost_race(world: World, job: Job, device: FakeDevice) -> None:
    Job.objects.filter(pk=job.pk).update(code=WITHDRAWN)
    at_rest(world, job, device)


def at_rest_while_aborting(world: World, job: Job, device: FakeDevice) -> None:
    Rollout.objects.filter(pk=job.rollout_id).update(state=R.ABORTING)
    at_rest(world, job, device)


def late(world: World, job: Job, device: FakeDevice) -> None:
    timers.expire(job.rollout, Plan.parse(job.rollout.plan), now=world.now + timedelta(days=30))


def retired(world: World, job: Job, device: FakeDevice) -> None:
    Device.objects.filter(pk=device.id).update(retired_at=world.now)
    offers.remove_retired(job.rollout, now=world.now)


def offered(world: World, job: Job, device: FakeDevice) -> None:
    offers.make_offers(job.rollout, Plan.parse(job.rollout.plan), 5, now=world.now)


def withdrawn(world: World, job: Job, device: FakeDevice) -> None:
    rollouts.pause(job.rollout, actor=ACTOR, now=world.now)


def aborted(world: World, job: Job, device: FakeDevice) -> None:
    rollouts.abort(job.rollout, actor=ACTOR, now=world.now)
    rollouts.tick(job.rollout_id, world.now)


def superseded(world: World, job: Job, device: FakeDevice) -> None:
    newer = world.create(job.rollout.manifest, FIRST_PLAN)
    Rollout.objects.filter(pk=job.rollout_id).update(state=R.ABORTING, superseded_by=newer)


def superseded_while_queued(world: World, job: Job, device: FakeDevice) -> None:
    superseded(world, job, device)
    rollouts.tick(job.rollout_id, world.now)


def superseded_at_rest(world: World, job: Job, device: FakeDevice) -> None:
    superseded(world, job, device)
    at_rest(world, job, device)


def superseded_after_a_lost_race(world: World, job: Job, device: FakeDevice) -> None:
    superseded(world, job, device)
    at_rest_after_a_lost_race(world, job, device)


def completed(world: World, job: Job, device: FakeDevice) -> None:
    job.rollout.waves.update(state="passed")
    rollouts.tick(job.rollout_id, world.now)


JOB_CAUSES: tuple[Cause, ...] = (
    *(report(state) for state in UpdateState),
    report(UpdateState.CONFIRMED, runs=True),
    report(UpdateState.REFUSED, RefusalCode.OP_MISSING),
    report(UpdateState.REFUSED, RefusalCode.DIGEST),
    report(UpdateState.REVERTED, RefusalCode.CRASH_LOOP),
    report(UpdateState.DEFERRED, RefusalCode.LOW_POWER),
    at_rest, at_rest_after_a_lost_race, at_rest_while_aborting, late, retired, offered, withdrawn, aborted,
    superseded_while_queued, superseded_at_rest, superseded_after_a_lost_race, completed,
)  # fmt: skip


def test_every_edge_of_a_job_has_a_cause_and_nothing_else_is_made(
    running: tuple[World, Job, FakeDevice],
) -> None:
    world, job, device = running
    found: set[Edge] = set()
    before = dict(vars(device))
    for cause in JOB_CAUSES:
        for state in JobState:
            with transaction.atomic():
                Job.objects.filter(pk=job.pk).update(state=state)
                last = AuditEvent.objects.order_by("-pk").values_list("pk", flat=True)[0]
                cause(world, Job.objects.select_related("rollout__manifest").get(pk=job.pk), device)
                found |= made("job", last)
                transaction.set_rollback(True)
            vars(device).update(before | {"n": device.n})
    assert found == {(state, to) for state, ends in JOB_EDGES.items() for to in ends} - NOT_MADE_JOB


@pytest.mark.parametrize("verb", sorted(KNOWN))
def test_a_verb_moves_a_rollout_where_its_state_allows_it_and_is_refused_elsewhere(
    running: tuple[World, Job, FakeDevice], verb: str
) -> None:
    world, job, _ = running
    for state in RolloutState:
        if verb == "override":
            continue  # needs evidence too: test_rollout_plans and test_rollouts
        with transaction.atomic():
            started = None if state in BEFORE_START else world.now
            Rollout.objects.filter(pk=job.rollout_id).update(state=state, started_at=started)
            rollout = Rollout.objects.get(pk=job.rollout_id)
            names = verbs(rollout)
            last = AuditEvent.objects.order_by("-pk").values_list("pk", flat=True)[0]
            if verb not in names:
                with pytest.raises((IllegalTransition, ImmutableError)) as refused:
                    CALLS[verb](rollout, world.now, 0)
                assert refused.value.allowed == sorted(names)
                assert not AuditEvent.objects.filter(pk__gt=last).exists()
            elif verb not in ("start", "create-revert"):  # they need more: test_rollouts, test_reverts
                CALLS[verb](rollout, world.now, 0)
                wanted = ENDS[verb]
                assert Rollout.objects.values_list("state", flat=True).get(pk=rollout.pk) in wanted
                assert AuditEvent.objects.filter(pk__gt=last, subject_kind="rollout").exists()
            transaction.set_rollback(True)


BEFORE_START = {
    R.DRAFT, R.PREFLIGHT, R.PREFLIGHT_FAILED, R.AWAITING_APPROVAL, R.SCHEDULED, R.READY,
    R.CANCELLED, R.REJECTED,
}  # fmt: skip
ENDS: dict[str, set[str]] = {
    "submit": {R.READY, R.PREFLIGHT_FAILED},
    "preflight": {R.READY, R.PREFLIGHT_FAILED},
    "approve": {R.READY},
    "reject": {R.REJECTED},
    "edit": {R.DRAFT},
    "cancel": {R.CANCELLED},
    "pause": {R.PAUSED},
    "resume": {R.RUNNING},
    "abort": {R.ABORTING},
    "rollback": {R.ROLLING_BACK},
}
"""Where a verb leads. One that is missing here fails with its name."""


def made(kind: str, last: int) -> set[Edge]:
    """State changes since an audit row."""
    rows = AuditEvent.objects.filter(pk__gt=last, subject_kind=kind)
    return {
        (row.before["state"], row.after["state"])
        for row in rows
        if row.before and row.after and "state" in row.before and "state" in row.after
        and row.verb not in ("job.retry", "job.reassert")
    }  # fmt: skip
