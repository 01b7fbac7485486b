"""Pacing: whatever devices do, jobs in flight stay within the cap and offers within their rate (I16)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from fleet.telemetry.models import Window
from ota.choices import JOB_IN_FLIGHT
from ota.models import Job, Manifest, Rollout
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db

FLEET = 12
FAULTS = [
    None,
    (UpdateState.REFUSED, RefusalCode.DIGEST),
    (UpdateState.REVERTED, RefusalCode.CRASH_LOOP),
]
Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 7, 40])),
        st.tuples(st.sampled_from(["go", "offline", "online"]), st.integers(0, FLEET - 1)),
    ),
    min_size=15,
    max_size=30,
)


@pytest.fixture
def fresh(make_manifest: Callable[..., Manifest]) -> Callable[[], World]:
    """A new world in an emptied database, for each example."""

    def make() -> World:
        Rollout.objects.update(halted_on=None)
        Rollout.objects.all().delete()
        Device.objects.all().delete()
        Window.objects.all().delete()
        return World(datetime(2026, 5, 2, 12, 0, tzinfo=UTC), make_manifest)

    return make


@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    cap=st.integers(1, 6),
    later=st.integers(1, 9),
    rate=st.integers(1, 9),
    faults=st.lists(st.sampled_from(FAULTS), min_size=FLEET, max_size=FLEET),
    todo=steps,
)
def test_jobs_in_flight_and_offers_a_minute_stay_within_the_plan(
    fresh: Callable[[], World], cap: int, later: int, rate: int, faults: list[Any], todo: list[Step]
) -> None:
    world = fresh()
    AuditEvent.objects.all().delete()
    fleet = world.add(FLEET)
    world.running(world.manifest())
    candidate = world.manifest()
    for device, fault in zip(fleet, faults, strict=True):
        if fault is not None:
            device.faults[candidate.pk] = fault
    plan = FIRST_PLAN | {
        "waves": [{"count": 5}, {"percent": 100}],
        "max_in_flight": cap,
        "max_in_flight_later": later,
        "offers_per_minute": rate,
        "retry_base_s": 5,
        "r_max_model": 0.99,
        "r_max_delivery": 0.99,
        "on_fail": "halt",
    }
    rollout = world.started(candidate, plan)
    for what, value in [*todo, *[("tick", 0), ("wait", 7)] * 3]:
        device = fleet[value % FLEET]
        if what == "tick":
            world.tick(rollout)
        elif what == "wait":
            world.pass_time(value)
        elif what == "go" and device.online:
            took = world.sync(device)
            if device.step() or took:
                world.send(device)
        elif what != "go":
            world.set_online(device, what == "online")
        most = max(cap, later) if rollout.waves.get(n=1).state == "passed" else cap
        assert Job.objects.filter(kind="install", state__in=JOB_IN_FLIGHT).count() <= most
        told = AuditEvent.objects.filter(verb="job.offered", at__gt=world.now - timedelta(minutes=1))
        assert told.count() <= rate
    assert AuditEvent.objects.filter(verb="job.offered").exists(), "nothing was offered at all"
