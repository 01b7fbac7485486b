"""Plans meeting a fleet: preflight, edits, dry runs, staging, deadlines, and waves that get no answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from fleet.devices.models import Device
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollouts
from ota.models import ClassVerdict, Job, Manifest, Membership, Rollout, Staging
from ota.plan import Plan, PlanError
from ota.transitions import IllegalTransition
from tests.conftest import NOW
from tests.ota.world import ACTOR, FIRST_PLAN, GATED_PLAN, SECOND, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


def reasons(rollout: Rollout) -> list[str]:
    return [reason["code"] for reason in rollouts.preview(rollout, now=NOW)["reasons"]]


def test_a_preview_needs_no_stored_rollout(world: World) -> None:
    world.add(40)
    world.running(world.manifest())
    draft = Rollout(
        name="x", manifest=world.manifest(), plan=Plan.parse(GATED_PLAN).to_json(), target={}, salt=b"preview"
    )
    facts = rollouts.preview(draft, now=world.now)
    assert facts["reasons"] == []
    assert facts["eligible"] == facts["baselines"] == 40
    assert [(wave["size"], wave["is_gated"], wave["pairs"]) for wave in facts["waves"]] == [
        (12, True, 12),
        (28, False, 0),
    ]
    assert facts["detectable"]["pairs"] == 12
    assert not Rollout.objects.exists()


def test_each_refused_class_is_a_reason(world: World) -> None:
    world.add(3)
    world.add(3, "host-b", "small")
    manifest = world.manifest(("host-a", "host-b"))
    rollout = world.create(manifest, FIRST_PLAN)
    small = ClassVerdict.objects.filter(version=manifest.version, device_class="host-b")
    small.update(kind="refuse", code="arena_too_small", text="needs 60,000 of 49,152 bytes")
    assert reasons(rollout) == ["arena_too_small"]
    small.update(kind="unproven", code="", text="no golden vectors")
    assert reasons(rollout) == ["unproven"]
    small.update(acknowledged_by="dana")
    assert reasons(rollout) == []
    only = world.create(manifest, FIRST_PLAN, classes=["host-a"])
    small.update(kind="refuse", code="arena_too_small")
    assert reasons(only) == []
    assert rollouts.preview(only, now=world.now)["eligible"] == 3


def test_a_revoked_manifest_or_another_slot_is_refused(world: World) -> None:
    world.add(2)
    manifest = world.manifest()
    rollout = world.create(manifest, FIRST_PLAN)
    Rollout.objects.filter(pk=rollout.pk).update(slot=1)
    rollout.refresh_from_db()
    assert reasons(rollout) == ["io_contract"]
    Manifest.objects.filter(pk=manifest.pk).update(revoked_at=world.now)
    rollout = Rollout.objects.get(pk=rollout.pk)
    assert reasons(rollout) == ["key_revoked", "io_contract"]


def test_unknown_names_and_empty_names_store_nothing(world: World) -> None:
    world.add(1)
    manifest = world.manifest()
    for target, code in (
        ({"devices": ["ghost"]}, "unknown_device"),
        ({"classes": ["ghost"]}, "unknown_class"),
    ):
        with pytest.raises(PlanError) as refused:
            world.create(manifest, FIRST_PLAN, **target)
        assert refused.value.code == code
    with pytest.raises(PlanError):
        world.create(manifest, FIRST_PLAN, colour=["red"])
    with pytest.raises(rollouts.RolloutError):
        rollouts.create(" ", manifest, plan=FIRST_PLAN, actor=ACTOR, now=world.now)
    assert not Rollout.objects.exists()


def test_an_edit_voids_the_preflight(world: World) -> None:
    devices = world.add(4)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    rollouts.edit(rollout, actor=ACTOR, now=world.now, name="other", target={"devices": [devices[0].id]})
    assert (rollout.state, rollout.name, rollout.summary) == ("draft", "other", {})
    with pytest.raises(IllegalTransition):
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    rollouts.run_preflight(rollout, actor=ACTOR, now=world.now)
    assert rollout.summary["eligible"] == 1


def test_nothing_is_offered_before_the_chunks_are_staged(world: World) -> None:
    world.add(2)
    manifest = world.manifest()
    Staging.objects.filter(manifest=manifest).update(state="staging")
    rollout = world.started(manifest, FIRST_PLAN)
    world.tick(rollout)
    assert set(Job.objects.values_list("state", flat=True)) == {"queued"}
    text = rollouts.state(rollout, now=world.now)["sentence"]
    assert "Nothing is offered before the chunks are staged." in text
    Staging.objects.filter(manifest=manifest).update(state="staged")
    world.run(rollout, until={"completed"})


def test_offline_and_quarantined_devices_wait_and_are_no_success(world: World) -> None:
    devices = world.add(6)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.set_online(devices[0], False)
    Device.objects.filter(pk=devices[1].id).update(quarantined_at=world.now)
    world.run(rollout, until={"completed"})
    facts = rollouts.state(rollout, now=world.now)
    assert facts["counts"] == {"confirmed": 4, "skipped": 2}
    codes = Job.objects.filter(state="skipped").order_by("device_id").values_list("code", flat=True)
    assert list(codes) == ["offline_at_end", "quarantined"]


def test_explain_names_the_first_thing_in_the_way(world: World) -> None:
    devices = world.add(40)
    world.running(world.manifest())
    world.pass_time(300)
    rollout = world.ready(world.manifest(), GATED_PLAN | {"max_in_flight": 1})

    def why(device_id: str) -> list[str]:
        found = rollouts.explain(rollout, device_id, now=world.now)
        assert found is not None
        assert found["sentence"]
        return [found["code"], *(item["code"] for item in found["blockers"])]

    assert why(devices[0].id) == ["not_started", "not_started"]
    world.begin(rollout)
    world.tick(rollout)
    members = Membership.objects.filter(rollout=rollout)
    control = members.filter(arm="control")[0].device_id
    later = members.filter(arm="wave", wave=2)[0].device_id
    offered = Job.objects.get(rollout=rollout, state="offered").device_id
    queued = Job.objects.filter(rollout=rollout, state="queued")[0].device_id
    assert why(control) == ["control", "control", "wave_not_open"]
    assert why(later) == ["wave_not_open", "wave_not_open"]
    assert why(queued) == ["concurrency_cap", "concurrency_cap"]
    assert why(offered) == ["job"]
    world.set_online(world.devices[queued], False)
    assert why(queued) == ["offline", "offline"]
    (new,) = world.add(1, prefix="late")
    assert why(new.id) == ["not_targeted", "not_targeted"]
    assert rollouts.explain(rollout, "ghost", now=world.now) is None


def test_abort_says_what_it_would_do(world: World) -> None:
    world.add(6)
    rollout = world.started(world.manifest(), FIRST_PLAN | {"max_in_flight": 4})
    world.tick(rollout)
    counts = rollouts.abort(rollout, actor=ACTOR, now=world.now, dry_run=True)
    assert counts == {
        "dry_run": True, "keep": 0, "withdrawn": 4, "in_trial": 0, "cancelled": 2, "download_bytes": 0,
    }  # fmt: skip
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_an_unreached_wave_is_halted_and_never_passed(world: World) -> None:
    devices = world.add(10)
    world.running(world.manifest())
    plan = FIRST_PLAN | {
        "waves": [{"count": 6}, {"percent": 100}],
        "reach_deadline_s": 60,
        "max_soak_s": 30,
        "soak_s": 5,
    }
    rollout = world.started(world.manifest(), plan)
    for device in devices[:8]:
        world.set_online(device, False)
    world.run(rollout, until={"halted"})
    wave = rollout.waves.get(n=1)
    assert (wave.state, wave.verdict) == ("failed", "inconclusive")
    assert "reach" in wave.reasons
    assert rollout.waves.get(n=2).opened_at is None


def test_an_inconclusive_wave_may_wait_for_a_person(world: World) -> None:
    world.add(40)
    world.running(world.manifest())
    world.pass_time(600)
    plan = GATED_PLAN | {"on_inconclusive": "manual", "min_pairs": 12, "max_soak_s": 100}
    rollout = world.started(world.manifest(), plan)
    control = Membership.objects.filter(rollout=rollout, arm="control").values_list("device_id", flat=True)
    world.silent = set(list(control)[:3])  # nine pairs are too few for twelve
    for _ in range(40):
        world.tick(rollout)
        world.step()
        world.pass_time(10)
    wave = rollout.waves.get(n=1)
    assert (rollout.state, wave.state, wave.reasons) == ("running", "inconclusive", ["too_few_pairs"])
    facts = rollouts.state(rollout, now=world.now)
    assert "is inconclusive so far (too few pairs have matured)" in facts["sentence"]
    assert "override" in facts["allowed"]
    newest = facts["gates"][0]["evidence_id"]
    rollouts.override(rollout, actor=SECOND, now=world.now, ack_evidence=newest, reason="seen by hand")
    for _ in range(20):
        world.tick(rollout)
        world.step()
        world.pass_time(10)
    assert rollout.state == "running"
    text = rollouts.state(rollout, now=world.now)["sentence"]
    assert "28 of 28 confirmed. 25 of the 27 needed have sent telemetry of it." in text
    world.silent.clear()
    world.run(rollout, until={"completed"})


def test_a_refused_signature_halts_for_a_person_in_any_wave(world: World) -> None:
    devices = world.add(8)
    world.running(world.manifest())
    new = world.manifest()
    rollout = world.started(new, FIRST_PLAN | {"waves": [{"count": 4}, {"percent": 100}]})
    second = list(Membership.objects.filter(rollout=rollout, wave=2).values_list("device_id", flat=True))
    next(d for d in devices if d.id == second[0]).faults[new.pk] = (
        UpdateState.REFUSED,
        RefusalCode.SIGNATURE,
    )
    world.run(rollout, until={"halted"})
    assert "dev" in rollout.reason
    assert "signature" in rollout.reason
    world.pass_time(30)
    assert world.tick(rollout).state == "halted"


def test_devices_that_burned_their_counters_do_not_take_the_place_of_others(world: World) -> None:
    burned = world.add(3, prefix="a")
    (well,) = world.add(1, prefix="z")
    world.running(world.manifest())
    rollout = world.started(world.manifest(), FIRST_PLAN | {"max_in_flight": 1, "max_in_flight_later": 1})
    for device in burned:
        device.counter = 2**62  # no counter of this trust version is above it
        world.send(device)
    for _ in range(4):
        world.tick(rollout)
    assert Job.objects.get(rollout=rollout, device=well.id).state == "offered"
    answer = rollouts.explain(rollout, burned[0].id, now=world.now)
    assert answer is not None
    assert answer["code"] == "counter_burned"
