"""Failed devices tried again: by themselves, and all at once when a person asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices import quarantine
from fleet.devices.models import Device, DeviceEvent
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.backoff import retry_at
from ota.models import Job, Manifest, Membership
from ota.plan import Plan
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, SECOND, FakeDevice, World

pytestmark = pytest.mark.django_db
PLAN = FIRST_PLAN | {"retry_base_s": 4, "on_fail": "halt", "r_max_delivery": 0.95}


@pytest.fixture
def world(make_manifest: Callable[..., Manifest], now: datetime) -> World:
    return World(now, make_manifest)


def refuse(device: FakeDevice, target: str, code: RefusalCode) -> None:
    device.faults[target] = (UpdateState.REFUSED, code)


def fail(world: World, rollout: Any, rounds: int = 6) -> None:
    """Ticks and steps until every offer has been answered; no time passes."""
    for _ in range(rounds):
        world.tick(rollout)
        world.step()


def test_back_off_grows_fourfold_with_half_of_jitter_and_ends_after_three_attempts(now: datetime) -> None:
    plan = Plan.parse({"waves": [{"percent": 100}]})
    for attempts, base in ((1, 300), (2, 1_200)):
        waits = [
            (at - now).total_seconds()
            for key in map(str, range(200))
            if (at := retry_at("failed", "digest", attempts=attempts, key=key, plan=plan, now=now))
        ]
        assert len(waits) == 200
        assert base * 0.5 <= min(waits) < base * 0.6
        assert base * 1.4 < max(waits) <= base * 1.5
    assert retry_at("failed", "digest", attempts=3, key="k", plan=plan, now=now) is None


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("failed", "signature"),
        ("rejected", "op_missing"),
        ("rejected", "target_class"),
        ("failed", "load_failed"),
        ("self_reverted", "low_heap"),
        ("timed_out", "trial"),
        ("cancelled", "unacknowledged"),
    ],
)
def test_what_another_attempt_cannot_heal_is_never_retried(state: str, code: str, now: datetime) -> None:
    plan = Plan.parse({"waves": [{"percent": 100}]})
    assert retry_at(state, code, attempts=1, key="k", plan=plan, now=now) is None


@pytest.mark.parametrize("code", ["flash_io", "expired", "sequence", "floor", "trust"])
def test_codes_of_the_device_itself_get_one_new_offer(code: str, now: datetime) -> None:
    plan = Plan.parse({"waves": [{"percent": 100}]})
    state = "failed" if code == "flash_io" else "rejected"
    assert retry_at(state, code, attempts=1, key="k", plan=plan, now=now)
    assert retry_at(state, code, attempts=2, repeats=1, key="k", plan=plan, now=now), "another code before"
    assert retry_at(state, code, attempts=2, repeats=2, key="k", plan=plan, now=now) is None


def test_an_expired_offer_is_made_once_more_with_a_higher_counter_and_then_listed(world: World) -> None:
    (device,) = world.add(1)
    target = world.manifest()
    refuse(device, target.pk, RefusalCode.EXPIRED)
    rollout = world.started(target, PLAN)
    fail(world, rollout)
    first = Job.objects.get(rollout=rollout)
    assert (first.state, first.code) == ("rejected", "expired")
    assert first.retry_at is not None
    said = rollouts.explain(rollout, device.id, now=world.now)
    assert said is not None
    assert (said["code"], said["next"]) == (
        "retry",
        {"action": "retry", "not_before": first.retry_at.isoformat()},
    )
    world.pass_time(10)
    fail(world, rollout)
    again = Job.objects.filter(rollout=rollout).order_by("-attempt")[0]
    assert (again.attempt, again.state, again.retry_at) == (2, "rejected", None)
    assert again.counter > first.counter
    said = rollouts.explain(rollout, device.id, now=world.now)
    assert said is not None
    assert (said["code"], said["next"]) == ("retries_exhausted", None)
    assert rollouts.state(rollout, now=world.now)["failures"][0]["code"] == "expired"


def test_a_withdrawn_offer_is_no_failed_attempt(world: World) -> None:
    (device,) = world.add(1)
    target = world.manifest()
    rollout = world.started(target, PLAN | {"timers": {"cancelling": 5}, "max_attempts": 2})
    world.tick(rollout)
    rollouts.pause(rollout, actor=ACTOR, now=world.now)
    world.pass_time(10)
    world.tick(rollout)
    assert Job.objects.get(rollout=rollout).code == "unacknowledged"
    rollouts.resume(rollout, actor=ACTOR, now=world.now)
    refuse(device, target.pk, RefusalCode.DIGEST)
    fail(world, rollout)
    failed = Job.objects.get(rollout=rollout, state="failed")
    assert failed.attempt == 2
    assert failed.retry_at is not None


def test_a_person_retries_what_failed_on_its_way_and_nothing_else(world: World) -> None:
    devices = world.add(6)
    target = world.manifest()
    for device in devices[:2]:
        refuse(device, target.pk, RefusalCode.DIGEST)
    devices[2].faults[target.pk] = (UpdateState.REVERTED, RefusalCode.CRASH_LOOP)
    rollout = world.started(target, PLAN | {"max_attempts": 1, "r_max_model": 0.9, "soak_s": 600})
    fail(world, rollout, 10)
    assert "retry-failed" in rollouts.allowed(rollout)
    before = dict(Membership.objects.filter(rollout=rollout).values_list("device_id", "h"))
    counted = rollouts.retry_failed(rollout, actor=ACTOR, now=world.now, dry_run=True)
    assert counted == {"dry_run": True, "retried": 2, "codes": {"digest": 2}, "left": {"model": 1}}
    assert not Job.objects.filter(retry_at__isnull=False).exists(), "a dry run changes nothing"
    for device in devices[:2]:
        device.faults.clear()
    rev = rollout.rev
    rollouts.retry_failed(rollout, actor=ACTOR, now=world.now, reason="the site has power again")
    assert rollout.rev > rev
    fail(world, rollout, 10)
    rows = Job.objects.filter(rollout=rollout, attempt=2)
    assert {(job.device_id, job.state, job.wave_id) for job in rows} == {
        (device.id, "confirmed", rollout.waves.get(n=1).pk) for device in devices[:2]
    }
    assert dict(Membership.objects.filter(rollout=rollout).values_list("device_id", "h")) == before
    trail = AuditEvent.objects.get(verb="rollout.retry_failed")
    assert (trail.actor, trail.after, trail.reason) == ("olga", {"devices": 2}, "the site has power again")
    assert "retry-failed" not in rollouts.allowed(rollout)
    with pytest.raises(IllegalTransition) as refused:
        rollouts.retry_failed(rollout, actor=ACTOR, now=world.now)
    assert refused.value.allowed == ["abort", "pause", "rollback"]


def test_a_retry_while_paused_waits_for_the_resume(world: World) -> None:
    (device,) = world.add(1)
    target = world.manifest()
    refuse(device, target.pk, RefusalCode.DIGEST)
    rollout = world.started(target, PLAN | {"max_attempts": 1, "soak_s": 600})
    fail(world, rollout)
    rollouts.pause(rollout, actor=ACTOR, now=world.now)
    rollouts.retry_failed(rollout, actor=ACTOR, now=world.now)
    fail(world, rollout)
    assert Job.objects.filter(rollout=rollout).count() == 1
    said = rollouts.explain(rollout, device.id, now=world.now)
    assert said is not None
    assert [item["code"] for item in said["blockers"]] == ["retry", "paused"]
    device.faults.clear()
    rollouts.resume(rollout, actor=ACTOR, now=world.now)
    fail(world, rollout, 10)
    assert Job.objects.get(rollout=rollout, attempt=2).state == "confirmed"


def test_bad_flash_quarantines_and_a_released_device_is_taken_in_again(world: World) -> None:
    device, *_ = world.add(3)
    target = world.manifest()
    refuse(device, target.pk, RefusalCode.FLASH_IO)
    rollout = world.started(target, PLAN | {"soak_s": 600})
    fail(world, rollout)
    world.pass_time(10)
    fail(world, rollout)
    row = Device.objects.get(pk=device.id)
    assert row.quarantine_reason == "its flash failed twice"
    assert "retry-failed" not in rollouts.allowed(rollout)
    assert quarantine.release(device.id, reason="new board", actor=ACTOR, now=world.now)
    device.faults.clear()
    rollouts.retry_failed(rollout, actor=ACTOR, now=world.now)
    fail(world, rollout, 10)
    assert Job.objects.get(rollout=rollout, device=device.id, attempt=3).state == "confirmed"


def test_a_device_quarantined_while_it_waits_is_skipped_until_it_is_released(world: World) -> None:
    waiting, failed, *_ = world.add(4)
    world.set_online(waiting, False)
    target = world.manifest()
    refuse(failed, target.pk, RefusalCode.DIGEST)
    rollout = world.started(target, PLAN | {"soak_s": 600, "retry_base_s": 600})
    fail(world, rollout)
    for device in (waiting, failed):
        assert quarantine.quarantine(device.id, reason="odd readings", actor=ACTOR, now=world.now)
    world.tick(rollout)
    states = {
        job.device_id: (job.state, job.code, job.retry_at) for job in Job.objects.filter(rollout=rollout)
    }
    assert states[waiting.id] == ("skipped", "quarantined", None)
    assert states[failed.id] == ("failed", "digest", None)
    said = rollouts.explain(rollout, waiting.id, now=world.now)
    assert said is not None
    assert said["code"] == "quarantined"
    quarantine.release(waiting.id, reason="", actor=ACTOR, now=world.now)
    world.set_online(waiting, True)
    rollouts.retry_failed(rollout, actor=ACTOR, now=world.now)
    fail(world, rollout, 10)
    assert Job.objects.filter(rollout=rollout, device=waiting.id).latest("attempt").state == "confirmed"
    assert not Job.objects.filter(rollout=rollout, device=failed.id, attempt=2).exists()


def test_a_device_that_could_not_run_it_is_tried_again_once_its_firmware_changes(world: World) -> None:
    device, *_ = world.add(3)
    target = world.manifest()
    world.send(device)
    refuse(device, target.pk, RefusalCode.OP_MISSING)
    rollout = world.started(target, PLAN | {"max_attempts": 1, "soak_s": 600})
    fail(world, rollout, 40)
    jobs = Job.objects.filter(rollout=rollout, device=device.id).order_by("attempt")
    assert [(job.state, job.code, job.retry_at) for job in jobs] == [("rejected", "op_missing", None)]
    said = rollouts.explain(rollout, device.id, now=world.now)
    assert said is not None
    assert (said["code"], said["next"]) == ("unfit", None)
    world.pass_time(10)
    assert rollout.state == "halted", "preflight was wrong about it: a person looks first"
    seen = rollout.halted_on_id
    rollouts.resume(rollout, actor=SECOND, now=world.now, ack_evidence=seen, reason="its firmware is old")
    world.send(device)
    world.tick(rollout)
    assert jobs.count() == 1, "the same device as before"
    device.faults.clear()
    world.send(device, replace(device.report(), firmware_text="1.1.0"))
    for _ in range(12):
        world.tick(rollout)
        world.step()
    assert [(job.attempt, job.state) for job in jobs.all()] == [(1, "rejected"), (2, "confirmed")]
    trail = AuditEvent.objects.get(verb="job.renew")
    assert (trail.actor_kind, trail.actor, trail.subject_id) == ("device", device.id, str(jobs[0].pk))
    assert DeviceEvent.objects.filter(device=device.id, kind="inventory", code="firmware").count() >= 1
