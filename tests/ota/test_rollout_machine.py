"""Random verbs, reports, losses and ticks against PostgreSQL: what must hold after every step.

The invariants of rollouts.md 6: one live job per slot (I1), an audit row per change (I4), counts that add up
to the frozen size (I6), control disjoint and not offered to (I7), no wave before the one before it (I8), no
offer after a pause or halt (I9), idempotent ticks (I14), jobs in flight below the cap (I16).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db.models import Count
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fleet.accounts.models import AuditEvent
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from fleet.mqtt.codec.reported import Reported
from ota import rollouts
from ota.choices import JOB_IN_FLIGHT, JOB_TERMINAL, ROLLOUT_TERMINAL
from ota.models import Job, Manifest, Membership, Rollout
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, SECOND, World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

CAP = 3
PLAN: dict[str, Any] = {
    "waves": [{"count": 4}, {"percent": 100}],
    "control": {"count": 3},
    "max_in_flight": CAP,
    "max_in_flight_later": CAP,
    "soak_s": 5,
    "max_soak_s": 60,
    "retry_base_s": 5,
    "on_fail": "halt",
    "r_max_model": 0.5,
    "timers": {"offered": 60, "accepted": 60, "downloading": 60, "cancelling": 30, "deferred": 90},
    "trial_deadline_s": 60,
    "rollback_deadline_s": 120,
}
FAULTS = [
    (UpdateState.REFUSED, RefusalCode.DIGEST),
    (UpdateState.REVERTED, RefusalCode.CRASH_LOOP),
    (UpdateState.DEFERRED, RefusalCode.LOW_POWER),
]
FLEET = 11
EXAMPLES = int(os.environ.get("FLEET_MACHINE_EXAMPLES", "5"))
devices = st.integers(0, FLEET - 1)


class Machine(RuleBasedStateMachine):
    """A rollout over eleven devices; anything between backend and device may stop, be late or come again."""

    make_world: Callable[[], World]

    @initialize()
    def begin(self) -> None:
        self.world = type(self).make_world()
        self.world.add(FLEET)
        self.fleet = list(self.world.devices.values())
        self.world.running(self.world.manifest())
        self.world.pass_time(20)
        self.candidate: Manifest = self.world.manifest()
        AuditEvent.objects.all().delete()
        ready = self.world.ready(self.candidate, PLAN)
        Rollout.objects.filter(pk=ready.pk).update(salt=bytes(16))  # the same draw in every run
        self.rollout: Rollout = rollouts.start(ready, actor=ACTOR, now=self.world.now)
        self.sent: list[tuple[int, Reported]] = []
        self.stopped_exposure: int | None = None
        self.deferred = 0

    @rule()
    def tick(self) -> None:
        self.world.tick(self.rollout)

    @rule()
    def tick_twice(self) -> None:
        self.world.tick(self.rollout)
        before = self._facts()
        self.world.tick(self.rollout)
        self.world.tick(self.rollout)
        if before["told"] == self._facts()["told"]:
            return
        assert self.rollout.state in ("running", "rolling_back", "rollback_incomplete")

    @rule(seconds=st.sampled_from([1, 5, 20, 61]))
    def wait(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule(index=devices, steps=st.integers(1, 4))
    def device_goes_on(self, index: int, steps: int) -> None:
        device = self.fleet[index]
        for _ in range(steps):
            took = self.world.sync(device)
            if device.online and (device.step() or took):
                self._send(index)

    @rule(index=devices)
    def report_is_lost(self, index: int) -> None:
        device = self.fleet[index]
        if device.online and (self.world.sync(device) or device.step()):
            device.report()

    @rule(index=devices)
    def heartbeat(self, index: int) -> None:
        if self.fleet[index].online:
            self._send(index)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def old_report_again(self, data: st.DataObject) -> None:
        index, reported = data.draw(st.sampled_from(self.sent))
        assert self.world.send(self.fleet[index], reported) == []

    @rule(index=devices, online=st.booleans())
    def connection(self, index: int, online: bool) -> None:
        self.world.set_online(self.fleet[index], online)

    @rule(index=devices, fault=st.sampled_from(FAULTS))
    def device_will_fail(self, index: int, fault: tuple[UpdateState, RefusalCode]) -> None:
        self.fleet[index].faults[self.candidate.pk] = fault

    @rule(verb=st.sampled_from(["pause", "resume", "abort", "rollback"]))
    def person(self, verb: str) -> None:
        self.rollout.refresh_from_db()
        before, allowed = self.rollout.state, rollouts.allowed(self.rollout)
        given: dict[str, Any] = {"actor": ACTOR, "now": self.world.now, "reason": "because"}
        if verb == "resume":
            given |= {"ack_evidence": self.rollout.halted_on_id, "actor": SECOND}
        if verb in allowed:
            getattr(rollouts, verb)(self.rollout, **given)
        else:
            with pytest.raises(IllegalTransition) as refused:
                getattr(rollouts, verb)(self.rollout, **given)
            assert refused.value.allowed == sorted(allowed)
            self.rollout.refresh_from_db()
            assert self.rollout.state == before
        self.stopped_exposure = None

    @invariant()
    def one_live_job_per_slot(self) -> None:
        live = Job.objects.exclude(state__in=JOB_TERMINAL).values("device_id", "slot").annotate(n=Count("pk"))
        assert all(row["n"] == 1 for row in live.order_by())

    @invariant()
    def every_change_has_its_audit_row(self) -> None:
        for job in Job.objects.filter(rollout=self.rollout).exclude(counter=0):
            states = AuditEvent.objects.filter(subject_kind="job", subject_id=str(job.pk)).order_by(
                "at", "id"
            )
            seen = [row.after["state"] for row in states if row.verb != "job.retry"]
            assert seen[-1] == job.state, seen

    @invariant()
    def counts_add_up(self) -> None:
        facts = rollouts.state(self.rollout, now=self.world.now)
        for wave in facts["waves"]:
            assert sum(wave["counts"].values()) == wave["size"]
            assert all(n > 0 for n in wave["counts"].values())
        assert sum(facts["counts"].values()) == facts["size"] == FLEET
        assert facts["sentence"].endswith(".")

    @invariant()
    def control_is_apart(self) -> None:
        members = Membership.objects.filter(rollout=self.rollout)
        control = set(members.filter(arm="control").values_list("device_id", flat=True))
        first = set(members.filter(arm="wave", wave=1).values_list("device_id", flat=True))
        assert len(control) == 3
        assert not control & first
        if self.rollout.waves.get(n=2).opened_at is None:
            assert not Job.objects.filter(rollout=self.rollout, device__in=control).exists()

    @invariant()
    def a_later_wave_waits_for_the_one_before(self) -> None:
        first, second = self.rollout.waves.order_by("n")
        assert second.opened_at is None or first.state in ("passed", "overridden")

    @invariant()
    def the_cap_holds(self) -> None:
        installs = Job.objects.filter(rollout=self.rollout, kind="install")
        resumed = AuditEvent.objects.filter(verb="job.deferred").count()  # they go on by themselves
        assert installs.filter(state__in=JOB_IN_FLIGHT).count() <= CAP + resumed

    @invariant()
    def nothing_is_offered_while_stopped(self) -> None:
        self.rollout.refresh_from_db()
        if self.rollout.state not in ("paused", "halted", "aborting", "aborted"):
            self.stopped_exposure = None
            return
        told = AuditEvent.objects.filter(verb="job.offered").count()
        if self.stopped_exposure is None:
            self.stopped_exposure = told
        assert told == self.stopped_exposure

    def teardown(self) -> None:
        """Left alone, with every device online and well, the rollout ends and nothing is stuck."""
        if not hasattr(self, "rollout"):
            return
        for device in self.fleet:
            device.faults.clear()
            if device.state == UpdateState.DEFERRED:
                device.state = UpdateState.OFFERED
            if not device.online:
                self.world.set_online(device, True)
        self.rollout.refresh_from_db()
        if self.rollout.state == "paused":
            rollouts.resume(self.rollout, actor=ACTOR, now=self.world.now)
        if self.rollout.state == "halted":
            rollouts.rollback(self.rollout, actor=ACTOR, now=self.world.now, reason="tidy up")
        for _ in range(80):
            self.rollout.refresh_from_db()
            if self.rollout.state == "halted":
                rollouts.rollback(self.rollout, actor=ACTOR, now=self.world.now, reason="tidy up")
            if self.rollout.state in ROLLOUT_TERMINAL:
                break
            self.world.tick(self.rollout)
            for index, device in enumerate(self.fleet):
                self.world.sync(device)
                device.step()
                self._send(index)
            self.world.pass_time(7)
        facts = rollouts.state(self.rollout, now=self.world.now)
        assert self.rollout.state in ROLLOUT_TERMINAL, (facts["sentence"], facts["waves"], facts["rollback"])
        assert not Job.objects.exclude(state__in=JOB_TERMINAL).exists()
        if self.rollout.state == "rolled_back":
            assert not any(device.run == self.candidate.pk for device in self.fleet)

    def _send(self, index: int) -> None:
        reported = self.fleet[index].report()
        self.world.send(self.fleet[index], reported)
        self.sent = [*self.sent[-20:], (index, reported)]

    def _facts(self) -> dict[str, Any]:
        told = AuditEvent.objects.filter(verb="job.offered").count()
        return {"told": told, "states": dict(Job.objects.values_list("pk", "state"))}


@pytest.fixture
def fresh(make_manifest: Callable[..., Manifest]) -> Callable[[], World]:
    """A new world in an emptied database, for each example."""
    from fleet.devices.models import Device
    from fleet.telemetry.models import Window

    def make() -> World:
        Rollout.objects.update(halted_on=None)
        Rollout.objects.all().delete()
        Device.objects.all().delete()
        Window.objects.all().delete()
        return World(datetime(2026, 5, 2, 12, 0, tzinfo=UTC), make_manifest)

    return make


def test_what_must_hold_whatever_happens(fresh: Callable[[], World]) -> None:
    machine = type("BoundMachine", (Machine,), {"make_world": staticmethod(fresh)})
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=checks,
            derandomize=EXAMPLES == 5,
        ),
    )
