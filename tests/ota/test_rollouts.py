"""Whole rollouts: verbs, ticks, waves, halts and rollbacks against PostgreSQL and devices that answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from fleet.accounts.models import AuditEvent
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.choices import JobState
from ota.evidence import recompute
from ota.models import DesiredState, Evidence, Job, Manifest, Membership, Rollout
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, GATED_PLAN, SECOND, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


@pytest.fixture
def gated(world: World) -> tuple[World, Rollout, Manifest]:
    """Forty devices with ten minutes of history, and a gated rollout of an equal candidate, started."""
    world.add(40)
    world.running(world.manifest())
    world.pass_time(600)
    candidate = world.manifest(accuracy=0.9)
    return world, world.started(candidate, GATED_PLAN), candidate


def test_a_first_model_reaches_everybody(world: World) -> None:
    world.add(10)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.run(rollout, until={"completed"})
    facts = rollouts.state(rollout, now=world.now)
    assert facts["counts"] == {"confirmed": 10}
    assert facts["sentence"].startswith("Completed in ")
    assert "10 of 10 confirmed" in facts["sentence"]
    assert facts["allowed"] == ["create-revert"]


def test_a_gated_rollout_of_an_equal_model_passes(gated: tuple[World, Rollout, Manifest]) -> None:
    world, rollout, candidate = gated
    control = set(
        Membership.objects.filter(rollout=rollout, arm="control").values_list("device_id", flat=True)
    )
    assert len(control) == 12
    world.run(rollout, until={"completed", "halted"})
    assert rollout.state == "completed"
    first = rollout.waves.get(n=1)
    assert (first.state, first.verdict) == ("passed", "pass")
    row = Evidence.objects.filter(wave=first).order_by("-at", "-id").first()
    assert row is not None
    assert recompute(row) == row.rows
    assert all(device.run == candidate.pk for device in world.devices.values())


def test_a_worse_model_is_halted_and_taken_back_without_a_download(
    world: World,
) -> None:
    world.add(40)
    good = world.manifest()
    world.running(good)
    world.pass_time(600)
    bad = world.manifest(accuracy=0.5)
    rollout = world.started(bad, GATED_PLAN)
    world.run(rollout, until={"rolled_back"})
    evidence = rollout.halted_on
    assert evidence is not None
    assert evidence.verdict == "fail"
    exposed = Job.objects.filter(rollout=rollout, kind="install", exposed_at__isnull=False).count()
    reverts = Job.objects.filter(rollout=rollout, kind="revert")
    assert exposed == 12
    assert reverts.count() == 12
    assert set(reverts.values_list("state", flat=True)) == {"confirmed"}
    assert {device.run for device in world.devices.values()} == {good.pk}
    actions = {
        row.entries["0"][0] for row in DesiredState.objects.filter(device__in=reverts.values("device"))
    }
    assert actions == {1}
    text = rollouts.state(rollout, now=world.now)["sentence"]
    assert text.startswith("Rolled back in ")
    assert "12 devices went back with no download" in text
    assert "worse than control" in text
    verbs = set(AuditEvent.objects.filter(subject_kind="rollout").values_list("verb", flat=True))
    assert {"rollout.halted", "rollout.rolling_back", "rollout.rolled_back"} <= verbs


def test_devices_that_ran_nothing_are_stopped_by_a_rollback(world: World) -> None:
    world.add(6)
    rollout = world.started(world.manifest(), FIRST_PLAN | {"soak_s": 600})
    for _ in range(12):
        world.tick(rollout)
        world.step()
        world.pass_time(1)
    counts = rollouts.rollback(rollout, actor=ACTOR, now=world.now, dry_run=True)
    assert isinstance(counts, dict)
    assert (counts["exposed"], counts["stop"], counts["revert_without_download"]) == (6, 6, 0)
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="changed my mind")
    world.run(rollout, until={"rolled_back"})
    assert all(device.is_stopped for device in world.devices.values())


def test_pause_withdraws_and_resume_offers_again(world: World) -> None:
    world.add(8)
    world.running(world.manifest())
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    for _ in range(2):
        world.step()
    assert Job.objects.filter(rollout=rollout, state="downloading").count() == 8
    rollouts.pause(rollout, actor=ACTOR, now=world.now, reason="lunch")
    assert Job.objects.filter(rollout=rollout, state="cancelling").count() == 8
    world.step()
    assert Job.objects.filter(rollout=rollout, state="queued").count() == 8
    counters = dict(DesiredState.objects.values_list("device_id", "counter"))
    world.pass_time(30)
    world.tick(rollout)
    assert dict(DesiredState.objects.values_list("device_id", "counter")) == counters
    assert rollouts.state(rollout, now=world.now)["sentence"].startswith("Paused: lunch. Wave 1 of 1")
    rollouts.resume(rollout, actor=ACTOR, now=world.now)
    world.run(rollout, until={"completed"})
    assert Job.objects.filter(rollout=rollout).count() == 8


def test_abort_keeps_what_is_confirmed(world: World) -> None:
    devices = world.add(8)
    old, new = world.manifest(), world.manifest()
    world.running(old)
    rollout = world.started(new, FIRST_PLAN | {"max_in_flight": 4})
    world.tick(rollout)
    for _ in range(8):
        world.step()
    world.tick(rollout)
    world.step()
    assert sum(device.run == new.pk for device in devices) == 4
    rollouts.abort(rollout, actor=ACTOR, now=world.now, reason="enough")
    world.run(rollout, until={"aborted"})
    assert sum(device.run == new.pk for device in devices) == 4
    for device in devices:
        entry = DesiredState.objects.get(pk=device.id).entries["0"]
        assert entry[1] == device.run
    assert "4 devices of 8 keep the candidate" in rollouts.state(rollout, now=world.now)["sentence"]


def test_the_cap_holds(world: World) -> None:
    world.add(12)
    rollout = world.started(world.manifest(), FIRST_PLAN | {"max_in_flight": 5, "max_in_flight_later": 5})
    most = 0
    for _ in range(40):
        world.tick(rollout)
        live = Job.objects.filter(rollout=rollout).exclude(state__in=("queued", "confirmed")).count()
        most = max(most, live)
        world.step()
        world.pass_time(2)
    assert most == 5
    assert Job.objects.filter(rollout=rollout, state="confirmed").count() == 12


def test_control_is_never_offered_before_the_last_wave(gated: tuple[World, Rollout, Manifest]) -> None:
    world, rollout, _ = gated
    control = list(
        Membership.objects.filter(rollout=rollout, arm="control").values_list("device_id", flat=True)
    )
    while rollout.waves.get(n=1).state != "passed":
        world.tick(rollout)
        if rollout.waves.get(n=1).state != "passed":
            assert not Job.objects.filter(rollout=rollout, device__in=control).exists()
            assert not rollout.waves.get(n=2).opened_at
        world.step()
        world.pass_time(5)
    world.run(rollout, until={"completed"})
    assert Job.objects.filter(rollout=rollout, device__in=control, state="confirmed").count() == 12


def test_failures_of_the_model_halt_by_wilson(world: World) -> None:
    devices = world.add(20)
    old, bad = world.manifest(), world.manifest()
    world.running(old)
    for device in devices[:10]:
        device.faults[bad.pk] = (UpdateState.REVERTED, RefusalCode.CRASH_LOOP)
    rollout = world.started(bad, FIRST_PLAN | {"waves": [{"percent": 100}], "on_fail": "halt"})
    world.run(rollout, until={"halted"})
    facts = rollouts.state(rollout, now=world.now)
    assert [(f["code"], f["class"], f["n"]) for f in facts["failures"]] == [("crash_loop", "model", 10)]
    rule = next(row for row in facts["gates"][0]["rows"] if row["verdict"] == "fail")
    assert (rule["rule"], rule["automatic"]) == ("install:model", True)
    assert facts["undo"]["exposed"] == 10
    assert "rollback reverts 10 with no download" in facts["sentence"]


def test_one_selftest_mismatch_in_the_first_wave_halts_for_a_person(world: World) -> None:
    devices = world.add(20)
    old, bad = world.manifest(), world.manifest()
    world.running(old)
    devices[3].faults[bad.pk] = (UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH)
    rollout = world.started(bad, FIRST_PLAN)
    world.run(rollout, until={"halted"})
    world.pass_time(60)
    assert world.tick(rollout).state == "halted"  # one device's word never rolls back
    with pytest.raises(rollouts.RolloutError) as refused:
        rollouts.resume(rollout, actor=SECOND, now=world.now, ack_evidence="0", reason="a bad board")
    assert refused.value.code == "evidence_not_current"
    rollouts.resume(
        rollout, actor=SECOND, now=world.now, ack_evidence=rollout.halted_on_id, reason="a bad board"
    )
    world.run(rollout, until={"completed"})
    wave = rollout.waves.get(n=1)
    assert wave.restarts == 1
    assert rollouts.state(rollout, now=world.now)["counts"] == {"confirmed": 19, "self_reverted": 1}


def test_silent_devices_never_pass_a_gate(gated: tuple[World, Rollout, Manifest]) -> None:
    world, rollout, _ = gated
    wave = set(
        Membership.objects.filter(rollout=rollout, arm="wave", wave=1).values_list("device_id", flat=True)
    )
    world.tick(rollout)
    for _ in range(8):
        world.step()
    world.pass_time(15)
    world.tick(rollout)
    world.silent = wave
    world.run(rollout, until={"rolling_back", "rolled_back"}, rounds=400)
    first = rollout.waves.get(n=1)
    assert (first.state, first.verdict) == ("failed", "fail")
    assert first.reasons == ["missing_telemetry"]  # proof that they report less than control does


def test_an_offline_device_goes_back_when_it_connects(world: World) -> None:
    world.add(40)
    good, bad = world.manifest(), world.manifest(accuracy=0.4)
    world.running(good)
    world.pass_time(600)
    rollout = world.started(bad, GATED_PLAN | {"rollback_deadline_s": 30})
    world.run(rollout, until={"rolling_back"})
    lost = next(d for d in world.devices.values() if d.run == bad.pk)
    world.set_online(lost, False)
    world.run(rollout, until={"rollback_incomplete"})
    facts = rollouts.state(rollout, now=world.now)
    assert [item["device_id"] for item in facts["rollback"]["rest"]] == [lost.id]
    assert f"Left: {lost.id} (offline" in facts["sentence"]
    world.set_online(lost, True)
    world.run(rollout, until={"rolled_back"})
    assert lost.run == good.pk


def test_a_halt_withdraws_what_has_not_begun(world: World) -> None:
    devices = world.add(20)
    old, bad = world.manifest(), world.manifest()
    world.running(old)
    for device in devices[:8]:
        device.faults[bad.pk] = (UpdateState.REVERTED, RefusalCode.CRASH_LOOP)
    rollout = world.started(bad, FIRST_PLAN | {"on_fail": "halt"})
    world.tick(rollout)
    for device in devices[8:]:
        device.online = False
    for _ in range(8):
        world.step()
    assert world.tick(rollout).state == "halted"
    states = dict(Job.objects.values_list("device_id", "state"))
    assert {states[device.id] for device in devices[:8]} == {"self_reverted"}
    assert {states[device.id] for device in devices[8:]} == {"cancelling"}
    told = DesiredState.objects.filter(device__in=[device.id for device in devices[8:]])
    assert {row.entries["0"][1] for row in told} == {old.pk}


def test_a_device_that_never_answered_is_not_left_with_the_bad_model(world: World) -> None:
    devices = world.add(4)
    old, new = world.manifest(), world.manifest()
    world.running(old)
    rollout = world.started(new, FIRST_PLAN | {"max_attempts": 1, "timers": {"offered": 5}})
    world.tick(rollout)
    devices[0].online = False  # the broker has not noticed, and the offer waits there for it
    for _ in range(8):
        world.step()
    world.pass_time(10)
    world.tick(rollout)
    assert Job.objects.get(device=devices[0].id).state == "timed_out"
    assert DesiredState.objects.get(pk=devices[0].id).entries["0"][1] == new.pk  # it may still finish
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="no")
    world.run(rollout, until={"rolled_back"})
    assert DesiredState.objects.get(pk=devices[0].id).entries["0"][1] == old.pk
    world.set_online(devices[0], True)
    for _ in range(8):
        world.step()
    assert {device.run for device in devices} == {old.pk}


def test_illegal_verbs_say_what_is_allowed(world: World) -> None:
    world.add(3)
    rollout = world.create(world.manifest(), FIRST_PLAN)
    for verb in (rollouts.start, rollouts.pause, rollouts.resume, rollouts.abort, rollouts.rollback):
        with pytest.raises(IllegalTransition) as refused:
            verb(rollout, actor=ACTOR, now=world.now)  # type: ignore[operator]
        assert refused.value.code == "illegal_transition"
        assert refused.value.state == "draft"
        assert refused.value.allowed == ["cancel", "edit", "preflight", "submit"]
    rollouts.cancel(rollout, actor=ACTOR, now=world.now)
    with pytest.raises(IllegalTransition) as refused:
        rollouts.run_preflight(rollout, actor=ACTOR, now=world.now)
    assert refused.value.allowed == []


def test_preflight_says_why_not(world: World) -> None:
    world.add(30)
    manifest = world.manifest()
    rollout = rollouts.run_preflight(world.create(manifest, GATED_PLAN), actor=ACTOR, now=world.now)
    assert rollout.state == "preflight_failed"
    assert [reason["code"] for reason in rollout.summary["reasons"]] == ["no_baseline"]
    rollouts.edit(rollout, actor=ACTOR, now=world.now, plan=FIRST_PLAN)
    assert rollout.state == "draft"
    rollouts.run_preflight(rollout, actor=ACTOR, now=world.now)
    assert rollout.state == "ready"
    world.running(manifest)
    other = world.manifest()
    few = world.create(other, GATED_PLAN | {"control": {"count": 5}})
    assert [reason["code"] for reason in rollouts.preview(few, now=world.now)["reasons"]] == [
        "gate_unreachable"
    ]
    none = world.create(manifest, FIRST_PLAN)
    assert [reason["code"] for reason in rollouts.preview(none, now=world.now)["reasons"]] == ["empty_target"]
    assert rollouts.preview(none, now=world.now)["skipped"] == {"already_installed": 30}


def test_a_changed_fleet_stops_the_start(world: World) -> None:
    world.add(20)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    world.add(5, prefix="new")
    with pytest.raises(rollouts.RolloutError) as refused:
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    assert refused.value.code == "target_changed"
    rollout.refresh_from_db()
    assert rollout.state == "draft"
    assert not Membership.objects.filter(rollout=rollout).exists()


def test_devices_of_a_live_rollout_are_left_out_of_the_next(world: World) -> None:
    world.add(6)
    world.started(world.manifest(), FIRST_PLAN)
    other = world.create(world.manifest(), FIRST_PLAN)
    facts = rollouts.preview(other, now=world.now)
    assert facts["eligible"] == 0
    assert facts["skipped"] == {"other_rollout": 6}


def test_a_class_outside_the_manifest_is_skipped_and_never_a_success(world: World) -> None:
    world.add(5)
    world.add(4, "host-b", "small")
    rollout = world.started(world.manifest(["host-a"]), FIRST_PLAN)
    world.run(rollout, until={"completed"})
    facts = rollouts.state(rollout, now=world.now)
    assert facts["size"] == 5
    assert facts["skipped"] == {"target_class": 4}
    answer = rollouts.explain(rollout, "small-001", now=world.now)
    assert answer is not None
    assert answer["code"] == "incompatible"


def test_a_tick_by_two_workers_happens_once(world: World) -> None:
    world.add(4)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    Rollout.objects.filter(pk=rollout.pk).update(lease_until=world.now.replace(hour=23), fence=9)
    assert not rollouts.tick(rollout.pk, world.now)
    assert not Job.objects.filter(rollout=rollout).exists()
    assert rollouts.tick(rollout.pk, world.now.replace(hour=23, minute=30))  # the lease of a dead worker ends
    rollout.refresh_from_db()
    assert rollout.fence == 10
    assert Job.objects.filter(rollout=rollout, state=JobState.OFFERED).count() == 4


def test_a_lost_rollout_row_is_no_error(world: World) -> None:
    assert not rollouts.tick("0198c7a1-0000-7000-8000-000000000000", world.now)
