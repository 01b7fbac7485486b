"""Start times and windows in rollouts: what starts by itself, what waits, what devices are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from fleet.mqtt.codec.names import ConfigKey, RefusalCode, UpdateState
from ota import delivery, desired_rows, device_windows, rollouts, ticking
from ota.models import DesiredState, Job, Manifest, Rollout, Submission
from ota.plan import Plan, PlanError
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, SECOND, World

pytestmark = pytest.mark.django_db

WINDOW_KEY = int(ConfigKey.MAINTENANCE_WINDOW)
NIGHT = {"at": "22:00", "minutes": 120}


@pytest.fixture
def world(make_manifest: Callable[..., Manifest]) -> World:
    world = World(at("2026-05-02T12:00"), make_manifest)  # a Saturday
    world.add(6)
    return world


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def jump(world: World, text: str) -> None:
    """Move the clock without telemetry of the time between."""
    world.now = world._telemetry_at = at(text)


def submitted(world: World, **plan: Any) -> Rollout:
    rollout = world.create(world.manifest(), FIRST_PLAN | plan)
    return rollouts.submit(rollout, actor=ACTOR, now=world.now)


def start_at(world: World, hours: float) -> str:
    return (world.now + timedelta(hours=hours)).isoformat()


def told(device: str) -> Any:
    return desired_rows.document(DesiredState.objects.get(pk=device)).config.get(WINDOW_KEY)


def offered() -> int:
    return AuditEvent.objects.filter(verb="job.offered").count()


def test_a_scheduled_rollout_starts_by_itself_when_its_time_has_come(world: World) -> None:
    rollout = submitted(world, start_at=start_at(world, 2), zone="Europe/Berlin")
    assert rollout.state == "scheduled"
    text = rollouts.state(rollout, now=world.now)["sentence"]
    assert "starts by itself at 16:00 Europe/Berlin (14:00 UTC)" in text
    assert rollouts.due(now=world.now) == []
    world.pass_time(7_199)
    assert rollouts.due(now=world.now) == []
    assert world.tick(rollout).state == "scheduled"
    world.pass_time(1)
    assert rollouts.due(now=world.now) == [rollout.pk]
    assert world.tick(rollout).state == "running"
    assert rollout.started_at == world.now
    verbs = AuditEvent.objects.filter(subject_id=str(rollout.pk), actor_kind="tick")
    assert set(verbs.values_list("verb", flat=True)) >= {"rollout.ready", "rollout.running"}


def test_a_missed_start_time_starts_at_once(world: World) -> None:
    rollout = submitted(world, start_at=start_at(world, -48))
    assert world.tick(rollout).state == "running"


def test_an_approval_comes_before_the_start_time(world: World) -> None:
    rollout = submitted(world, start_at=start_at(world, 1), requires_approval=True)
    assert rollout.state == "awaiting_approval"
    world.pass_time(3_600 * 3)
    assert rollouts.due(now=world.now) == []
    row = Submission.objects.get()
    digests = {name: getattr(row, name) for name in ("manifest_sha256", "plan_digest", "target_digest")}
    assert rollouts.approve(rollout, actor=SECOND, now=world.now, **digests).state == "scheduled"
    assert world.tick(rollout).state == "running"


def test_a_ready_rollout_without_a_start_time_waits_for_a_person(world: World) -> None:
    rollout = submitted(world)
    assert rollout.state == "ready"
    assert rollouts.due(now=world.now) == []
    assert not rollouts.tick(rollout.pk, world.now)


def test_a_killed_scheduled_start_is_finished_by_the_next_tick(world: World) -> None:
    rollout = submitted(world, start_at=start_at(world, 0))
    Rollout.objects.filter(pk=rollout.pk).update(state="ready")
    assert rollouts.due(now=world.now) == [rollout.pk]
    assert world.tick(rollout).state == "running"


@pytest.mark.parametrize("state", ["scheduled", "awaiting_approval"])
def test_only_a_ready_rollout_is_started_by_a_person(world: World, state: str) -> None:
    rollout = submitted(world, start_at=start_at(world, 1), requires_approval=state != "scheduled")
    assert rollout.state == state
    with pytest.raises(IllegalTransition) as refused:
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    assert "start" not in refused.value.allowed
    assert {"edit", "cancel"} <= set(refused.value.allowed)


def test_a_fleet_that_changed_makes_a_scheduled_rollout_a_draft_again(world: World) -> None:
    rollout = submitted(world, start_at=start_at(world, 1))
    world.add(4, prefix="new")
    world.pass_time(3_600)
    assert world.tick(rollout).state == "draft"
    assert rollout.reason.startswith("target_changed: 6 devices were eligible, 10 are")


def test_a_target_that_is_none_any_more_makes_a_scheduled_rollout_a_draft_again(world: World) -> None:
    rollout = submitted(world, start_at=start_at(world, 1))
    Rollout.objects.filter(pk=rollout.pk).update(
        target={"classes": [], "devices": [], "groups": ["gone"], "q": ""}
    )
    world.pass_time(3_600)
    assert world.tick(rollout).state == "draft"
    assert rollout.reason.startswith("unknown_group: ")


def test_a_start_time_waits_for_the_window(world: World) -> None:
    rollout = submitted(world, start_at=start_at(world, 1), windows=[NIGHT])
    world.pass_time(3_600)
    assert world.tick(rollout).state == "scheduled"
    facts = rollouts.state(rollout, now=world.now)
    assert facts["opens_at"] == "2026-05-02T22:00:00+00:00"
    assert "waits for its window: it opens at 22:00 UTC" in facts["sentence"]
    jump(world, "2026-05-02T22:00")
    assert world.tick(rollout).state == "running"


def test_no_wave_opens_and_nothing_is_offered_outside_a_window(world: World) -> None:
    rollout = submitted(world, windows=[NIGHT], max_in_flight=2, max_in_flight_later=2)
    world.begin(rollout)
    world.tick(rollout)
    assert rollout.waves.get().state == "pending"
    assert "opens at 22:00 UTC" in rollouts.state(rollout, now=world.now)["sentence"]
    found = rollouts.explain(rollout, "dev-001", now=world.now)
    assert found is not None
    assert [item["code"] for item in found["blockers"]] == ["wave_not_open", "outside_window"]
    assert found["next"] == {"action": "offer", "not_before": "2026-05-02T22:00:00+00:00"}

    jump(world, "2026-05-02T23:59:50")
    world.tick(rollout)
    assert offered() == 2
    for _ in range(7):
        world.step()
    assert Job.objects.filter(state="confirmed").count() == 2
    jump(world, "2026-05-03T00:00")
    world.tick(rollout)
    assert offered() == 2
    queued = Job.objects.filter(state="queued").first()
    assert queued is not None
    found = rollouts.explain(rollout, queued.device_id, now=world.now)
    assert found is not None
    assert (found["code"], found["blockers"][0]["opens_at"]) == (
        "outside_window",
        "2026-05-03T22:00:00+00:00",
    )
    assert "Outside its window" in rollouts.state(rollout, now=world.now)["sentence"]
    jump(world, "2026-05-03T22:00")
    world.tick(rollout)
    assert offered() == 4


def test_a_closing_window_interrupts_no_trial(world: World) -> None:
    jump(world, "2026-05-02T22:30")
    rollout = submitted(world, windows=[NIGHT], trial_deadline_s=86_400)
    world.begin(rollout)
    world.tick(rollout)
    while Job.objects.filter(state="trial").count() != 6:
        world.step()
    jump(world, "2026-05-03T03:00")
    world.tick(rollout)
    assert Job.objects.filter(state="trial").count() == 6
    world.step()
    assert Job.objects.filter(state="confirmed").count() == 6


def test_the_zone_of_the_device_decides_for_windows_in_device_time(world: World) -> None:
    zones = {"dev-001": "Asia/Tokyo", "dev-002": "America/New_York", "dev-003": "Mars/Phobos"}
    for name, zone in zones.items():
        Device.objects.filter(pk=name).update(attributes={"tz": zone})
    rollout = submitted(world, windows=[NIGHT | {"tz": "device"}])
    world.begin(rollout)

    def offered_at(text: str) -> set[str]:
        jump(world, text)
        before = set(Job.objects.exclude(state="queued").values_list("device_id", flat=True))
        world.tick(rollout)
        return set(Job.objects.exclude(state="queued").values_list("device_id", flat=True)) - before

    assert offered_at("2026-05-02T12:59") == set()
    assert rollout.waves.get().state == "pending"
    assert offered_at("2026-05-02T13:00") == {"dev-001"}
    assert rollout.waves.get().state == "open"
    assert offered_at("2026-05-02T22:00") == {
        "dev-003",
        "dev-004",
        "dev-005",
        "dev-006",
    }  # UTC without a zone
    assert offered_at("2026-05-03T01:59") == set()
    assert offered_at("2026-05-03T02:00") == {"dev-002"}
    assert [told(name) for name in ("dev-001", "dev-002", "dev-003")] == [
        [127, 13 * 60, 120],
        [127, 2 * 60, 120],
        [127, 22 * 60, 120],
    ]


def test_devices_are_told_the_window_and_forget_it_when_nothing_is_under_way(world: World) -> None:
    jump(world, "2026-05-02T22:30")
    delivery.set_config(["dev-002"], {WINDOW_KEY: [1, 60, 30]}, now=world.now)
    rollout = submitted(world, windows=[NIGHT | {"weekdays": ["sat", "sun"]}])
    world.begin(rollout)
    world.tick(rollout)
    assert told("dev-001") == [0b1100000, 22 * 60, 120]
    assert told("dev-002") == [1, 60, 30], "what a person set for a device wins"
    entry = DesiredState.objects.get(pk="dev-001").entries["0"]
    assert entry[3] == at("2026-05-03T00:00").timestamp() + 86_400, (
        "it lives until the end of the next window"
    )
    device_windows.clear(now=world.now)
    assert told("dev-001") == [0b1100000, 22 * 60, 120]
    world.run(rollout, until={"completed"})
    assert device_windows.clear(now=world.now) == 6
    assert told("dev-001") is None
    assert told("dev-002") == [1, 60, 30]
    assert device_windows.clear(now=world.now) == 0


def test_a_device_that_waits_is_told_the_next_window_after_a_clock_change(world: World) -> None:
    jump(world, "2026-03-28T21:30")  # the night before summer time
    world.devices["dev-001"].faults = {}
    rollout = submitted(world, windows=[NIGHT | {"tz": "Europe/Berlin"}], timers={"offered": 86_400})
    world.begin(rollout)
    world.tick(rollout)
    assert told("dev-001") == [127, 21 * 60, 120]
    device = world.devices["dev-001"]
    world.sync(device)
    device.state, device.code = UpdateState.DEFERRED, RefusalCode.MAINTENANCE_WINDOW
    world.send(device)
    job = Job.objects.get(device="dev-001")
    assert (job.state, job.code) == ("deferred", "maintenance_window")
    jump(world, "2026-03-28T23:00")
    world.tick(rollout)
    assert told("dev-001") == [127, 20 * 60, 120]
    counters = dict(DesiredState.objects.values_list("pk", "counter"))
    world.tick(rollout)
    assert dict(DesiredState.objects.values_list("pk", "counter")) == counters, "told once"


def test_taking_back_waits_for_no_window(world: World) -> None:
    world.running(world.manifest())
    jump(world, "2026-05-02T22:30")
    rollout = submitted(world, windows=[NIGHT], soak_s=86_400)
    world.begin(rollout)
    world.tick(rollout)
    for _ in range(8):
        world.step()
    assert Job.objects.filter(state="confirmed").count() == 6
    jump(world, "2026-05-03T04:00")
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="worse")
    world.tick(rollout)
    assert told("dev-001") is None
    assert world.run(rollout, until={"rolled_back"}).state == "rolled_back"


def test_time_outside_windows_does_not_count_against_reach(world: World) -> None:
    jump(world, "2026-05-02T23:00")
    rollout = submitted(
        world, windows=[NIGHT], reach_deadline_s=2 * 3_600, max_in_flight=1, max_in_flight_later=1
    )
    world.begin(rollout)
    world.tick(rollout)
    jump(world, "2026-05-03T21:00")  # 22 h later, one of them open
    world.tick(rollout)
    assert rollout.waves.get().state == "open"
    jump(world, "2026-05-03T23:00")
    world.tick(rollout)
    assert rollout.waves.get().state != "open"


def test_a_plan_with_a_schedule_reads_back_unchanged() -> None:
    plan = Plan.parse(
        FIRST_PLAN
        | {
            "start_at": "2026-05-02T23:30:00+02:00",
            "zone": "Europe/Berlin",
            "windows": [NIGHT | {"weekdays": ["sun", "mon"], "tz": "device"}],
            "late": "tail",
            "tail_days": 7,
            "offers_per_minute": 60,
            "requires_approval": True,
        }
    )
    assert plan.start_at == at("2026-05-02T21:30")
    assert Plan.parse(plan.to_json()) == plan
    assert plan.to_json()["start_at"] == "2026-05-02T21:30:00Z"


def test_ticks_name_the_steps_of_a_start() -> None:
    assert ticking.ACTIVE.isdisjoint({"scheduled", "ready", "draft", "awaiting_approval"})
    with pytest.raises(PlanError) as refused:
        Plan.parse(FIRST_PLAN | {"start_at": "tomorrow"})
    assert (refused.value.code, refused.value.field) == ("validation", "start_at")
