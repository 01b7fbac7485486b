"""Where a rollback leads, what it needs, and what happens when a device cannot go there by itself."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices.models import DeviceSlot
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import rollback_target, rollouts
from ota.models import DesiredState, Job, Manifest, Rollout, Staging
from ota.plan import Plan, PlanError
from ota.rollback import exposed_jobs
from ota.rollback_target import RollbackError
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.django_db
SLOW = FIRST_PLAN | {"soak_s": 600}


@pytest.fixture
def world(make_manifest: Callable[..., Manifest], now: datetime) -> World:
    return World(now, make_manifest)


@pytest.fixture
def resigned(now: datetime) -> Callable[[Manifest], Manifest]:
    """Factory of a further manifest of a version, with the highest sequence number of its model."""

    def sign(before: Manifest) -> Manifest:
        model = before.version.model
        model.refresh_from_db()
        model.last_seq += 1
        model.save()
        digest = hashlib.sha256(bytes(before.message) + model.last_seq.to_bytes(4)).hexdigest()
        row = Manifest.objects.get(pk=before.pk)
        row.pk, row.mid, row.seq = digest, digest[:16], model.last_seq
        row.save(force_insert=True)
        return Manifest.objects.get(pk=digest)

    return sign


def installed(world: World, manifest: Manifest, plan: Any = None) -> Rollout:
    """A running rollout whose devices have all confirmed."""
    rollout = world.started(manifest, plan or SLOW)
    for _ in range(8):
        world.tick(rollout)
        world.step()
    return rollout


def taken_back(world: World, rollout: Rollout, until: str = "rolled_back") -> Rollout:
    for _ in range(16):
        world.tick(rollout)
        Staging.objects.exclude(state="staged").update(state="staged")  # as the staging worker does
        world.step()
    assert rollout.state == until, rollouts.state(rollout, now=world.now)["sentence"]
    return rollout


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rollback_to": "yesterday"}, "rollback_to"),
        ({"rollback_to": 3}, "rollback_to"),
        ({"rollback_to": "AB" * 32}, "rollback_to"),
        ({"rollback_to": "none", "on_fail": "halt"}, "rollback_reason"),
        ({"rollback_to": "previous", "rollback_reason": "why not"}, "rollback_reason"),
        ({"rollback_to": "none", "rollback_reason": "the old one is unsafe"}, "on_fail"),
    ],
)
def test_a_way_back_that_means_nothing_is_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(PlanError) as refused:
        Plan.parse(FIRST_PLAN | given)
    assert refused.value.field == field


def test_no_way_back_is_a_decision_with_a_reason(world: World) -> None:
    world.add(2)
    why = {"rollback_to": "none", "rollback_reason": "the old one is unsafe", "on_fail": "halt"}
    rollout = installed(world, world.manifest(), SLOW | why)
    for dry_run in (True, False):
        with pytest.raises(RollbackError) as refused:
            rollouts.rollback(rollout, actor=ACTOR, now=world.now, dry_run=dry_run)
        assert refused.value.code == "rollback_unavailable"
        assert "the old one is unsafe" in refused.value.text
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_the_way_back_is_preflighted(world: World) -> None:
    world.add(2)
    base, new = world.manifest(), world.manifest()
    world.running(base)

    def reasons(plan: dict[str, Any]) -> list[str]:
        row = rollouts.run_preflight(world.create(new, plan), actor=ACTOR, now=world.now)
        return [reason["code"] for reason in row.summary["reasons"]]

    assert reasons(SLOW) == []
    assert reasons(SLOW | {"rollback_to": "ab" * 32}) == ["rollback_unavailable"]
    assert reasons(SLOW | {"rollback_to": base.pk}) == []
    other = world.manifest(["host-b"])
    assert reasons(SLOW | {"rollback_to": other.pk}) == ["rollback_unavailable"], "another class"
    Manifest.objects.filter(pk=new.pk).update(floor=base.seq + 1)
    assert reasons(SLOW) == ["rollback_unavailable"], "devices would refuse it below the floor"
    assert reasons(SLOW | {"rollback_to": base.pk}) == ["rollback_unavailable"]
    Manifest.objects.filter(pk=new.pk).update(floor=0)
    Manifest.objects.filter(pk=base.pk).update(revoked_at=world.now)
    assert reasons(SLOW) == ["rollback_unavailable"], "revoked"


def test_devices_that_lack_the_target_fetch_it_signed_anew(
    world: World, resigned: Callable[[Manifest], Manifest]
) -> None:
    held, lost = world.add(2)
    base, new = world.manifest(), world.manifest()
    world.running(base)
    rollout = installed(world, new)
    lost.other = ""  # its other bank was erased
    world.send(lost)
    counted = rollouts.rollback(rollout, actor=ACTOR, now=world.now, dry_run=True)
    assert isinstance(counted, dict)
    assert (counted["revert_without_download"], counted["needs_download"]) == (1, 1)
    assert counted["download_bytes"] == base.chunks * 4096
    again = resigned(base)
    rollouts.rollback(rollout, actor=ACTOR, now=world.now, reason="worse")
    world.tick(rollout)
    assert DesiredState.objects.get(pk=held.id).entries["0"][:2] == [1, base.pk]
    assert DesiredState.objects.get(pk=lost.id).entries["0"][1] == new.pk, "nothing before it is staged"
    taken_back(world, rollout)
    assert DesiredState.objects.get(pk=lost.id).entries["0"][:2] == [0, again.pk]
    assert (held.run, lost.run) == (base.pk, again.pk)
    facts = rollouts.state(rollout, now=world.now)
    assert facts["rollback"]["fetched"] == 1
    assert "2 devices went back, 1 of them with a download" in facts["sentence"]


def test_devices_counted_by_the_database_go_back_as_each_by_its_name(world: World) -> None:
    """Whatever they ran, hold, lost or never reported, and however often they were tried."""
    devices = world.add(9)
    base, older, new = world.manifest(), world.manifest(), world.manifest()
    world.running(base, devices[:5])
    world.running(older, devices[5:7])
    rollout = installed(world, new)
    devices[1].other = ""
    devices[2].other = older.pk
    for device in devices[1:3]:
        world.send(device)
    world.set_online(devices[4], False)
    DeviceSlot.objects.filter(device_id=devices[6].id).delete()
    again = Job.objects.get(rollout=rollout, device=devices[0].id)
    again.pk, again.attempt, again.state, again.exposed_at = None, 90, "timed_out", world.now
    again.save(force_insert=True)
    for to in ("previous", older.pk):
        Rollout.objects.filter(pk=rollout.pk).update(plan=rollout.plan | {"rollback_to": to})
        rollout.refresh_from_db()
        targets = rollback_target.goals(rollout, [device.id for device in devices])
        lacking = rollback_target.without(rollout, targets)
        assert lacking
        found: Counter[tuple[str, bool, bool]] = Counter()
        for way in rollback_target.ways(rollout, exposed_jobs(rollout)):
            found[way.target, way.is_lacking, way.is_online] += way.devices
        assert found == Counter(
            (targets[device.id], device.id in lacking, device.online) for device in devices
        )
    Manifest.objects.filter(pk=older.pk).update(revoked_at=world.now)
    ways = rollback_target.ways(rollout, exposed_jobs(rollout))
    assert sum(way.devices for way in ways if way.is_lacking) == 8, "all but the one that never reported"


def test_a_refused_revert_falls_back_to_a_download_and_is_listed_when_that_fails_too(
    world: World, resigned: Callable[[Manifest], Manifest]
) -> None:
    good, bad = world.add(2)
    base, new = world.manifest(), world.manifest()
    world.running(base)
    rollout = installed(world, new)
    again = resigned(base)
    for device in (good, bad):
        device.faults[base.pk] = (UpdateState.REFUSED, RefusalCode.FLOOR)
        device.other = ""  # and no report has said so
    bad.faults[again.pk] = (UpdateState.REFUSED, RefusalCode.TARGET_CLASS)
    rollouts.rollback(rollout, actor=ACTOR, now=world.now)
    taken_back(world, rollout, "rollback_incomplete")
    tries = Job.objects.filter(rollout=rollout, kind="revert", device=good.id).order_by("attempt")
    assert [(job.state, job.code, job.target) for job in tries] == [
        ("rejected", "not_in_bank", base.pk),
        ("confirmed", "", again.pk),
    ]
    assert AuditEvent.objects.filter(verb="job.fall_back").count() == 2
    rest = rollouts.state(rollout, now=world.now)["rollback"]["rest"]
    assert [(item["device_id"], item["code"]) for item in rest] == [(bad.id, "target_class")]
    assert Job.objects.filter(rollout=rollout, kind="revert", device=bad.id).count() == 2, "tried once"


def test_a_rollback_may_lead_to_another_version(world: World) -> None:
    devices = world.add(3)
    older, base, new = world.manifest(), world.manifest(), world.manifest()
    world.running(base)
    for device in devices[1:]:
        device.other = older.pk
        world.send(device)
    rollout = installed(world, new, SLOW | {"rollback_to": base.pk})
    rollouts.rollback(rollout, actor=ACTOR, now=world.now)
    taken_back(world, rollout)
    assert {device.run for device in devices} == {base.pk}
    with pytest.raises(IllegalTransition):
        rollouts.rollback(rollout, actor=ACTOR, now=world.now)


def test_a_completed_rollout_is_taken_back_by_a_rollout_of_its_own(world: World) -> None:
    devices = world.add(4)
    base, new = world.manifest(), world.manifest()
    world.running(base)
    first = world.started(new, FIRST_PLAN)
    world.run(first, until={"completed"})
    finished = Rollout.objects.filter(pk=first.pk).values().get()
    with pytest.raises(IllegalTransition) as refused:
        rollouts.rollback(first, actor=ACTOR, now=world.now)
    assert (refused.value.state, refused.value.allowed) == ("completed", ["create-revert"])
    devices[3].other = ""
    world.send(devices[3])
    Staging.objects.filter(manifest=base).update(state="collected")  # nothing will be loaded
    revert = rollouts.create_revert(first, actor=ACTOR, now=world.now, reason="it drifts")
    assert (revert.state, revert.kind, revert.manifest_id) == ("draft", "revert", base.pk)
    assert (revert.name, revert.reverts_id) == ("Revert of walk", first.pk)
    rollouts.run_preflight(revert, actor=ACTOR, now=world.now)
    assert (revert.state, revert.summary["skipped"]) == ("ready", {"not_in_bank": 1})
    world.begin(revert)
    world.tick(revert)
    told = DesiredState.objects.filter(pk__in=[device.id for device in devices[:3]])
    assert {tuple(row.entries["0"][:2]) for row in told} == {(1, base.pk)}
    world.run(revert, until={"completed"})
    assert [device.run for device in devices] == [base.pk] * 3 + [new.pk]
    assert Rollout.objects.filter(pk=first.pk).values().get() == finished, "never reopened"
    facts = rollouts.state(first, now=world.now)
    assert facts["reverted_by"] == [{"id": str(revert.pk), "name": "Revert of walk"}]
    assert AuditEvent.objects.get(verb="rollout.create_revert").reason == "it drifts"


def test_devices_that_ran_nothing_before_cannot_be_taken_back_later(world: World) -> None:
    world.add(2)
    first = world.started(world.manifest(), FIRST_PLAN)
    world.run(first, until={"completed"})
    with pytest.raises(RollbackError) as refused:
        rollouts.create_revert(first, actor=ACTOR, now=world.now)
    assert refused.value.code == "rollback_unavailable"
    assert Rollout.objects.count() == 1
