"""Who a rollout is for: classes, devices, groups and a query, and that what was previewed is what runs."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.devices import groups
from fleet.devices.models import Device, DeviceGroup
from ota import rollouts
from ota.models import Manifest, Membership, TargetSnapshot
from ota.rollouts import RolloutError
from ota.targeting import Target, TargetError
from tests.ota.world import ACTOR, FIRST_PLAN, GATED_PLAN, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    world = World(now, make_manifest)
    world.add(30)
    world.add(10, "host-b", prefix="gate")
    return world


def static(world: World, name: str, *ids: str) -> DeviceGroup:
    group = groups.create(name, kind="static", actor=ACTOR, now=world.now)
    groups.set_members(group, ids, actor=ACTOR, now=world.now)
    return group


def targeted(world: World, **target: Any) -> list[str]:
    aim = Target.parse(target)
    aim.check(now=world.now)
    return sorted(aim.select(now=world.now).values_list("pk", flat=True))


def test_every_part_that_is_given_must_hold(world: World) -> None:
    Device.objects.filter(pk__in=["dev-001", "dev-002", "gate-001"]).update(tags=["line-2"])
    static(world, "pilot", "dev-002", "dev-003", "gate-001")
    groups.create("tagged", kind="dynamic", q="tag==line-2", actor=ACTOR, now=world.now)
    assert len(targeted(world)) == 40
    assert targeted(world, groups=["pilot"]) == ["dev-002", "dev-003", "gate-001"]
    assert targeted(world, groups=["pilot", "tagged"]) == ["dev-001", "dev-002", "dev-003", "gate-001"]
    assert targeted(world, groups=["pilot"], q="tag==line-2") == ["dev-002", "gate-001"]
    assert targeted(world, groups=["pilot"], q="tag==line-2", classes=["host-b"]) == ["gate-001"]
    assert targeted(world, q="id==dev-00*", devices=["dev-001", "gate-001"]) == ["dev-001"]


@pytest.mark.parametrize(
    ("target", "code", "field"),
    [
        ({"groups": ["nope"]}, "unknown_group", "target.groups"),
        ({"groups": "pilot"}, "validation", "target.groups"),
        ({"q": "tagg==a"}, "query_unknown_field", "target.q"),
        ({"q": "tag="}, "query_syntax", "target.q"),
        ({"q": "group==nope"}, "query_unknown_field", "target.q"),
        ({"q": ["a"]}, "validation", "target.q"),
        ({"query": "id==a"}, "validation", "target"),
    ],
)
def test_a_target_that_means_nothing_stores_nothing(
    world: World, target: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(TargetError) as refused:
        world.create(world.manifest(), FIRST_PLAN, **target)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert (refused.value.position is not None) == code.startswith("query")
    assert not rollouts.due(now=world.now)


def test_a_dynamic_group_is_asked_at_preview_and_frozen_at_start(world: World) -> None:
    groups.create("tagged", kind="dynamic", q="tag==line-2", actor=ACTOR, now=world.now)
    Device.objects.filter(pk__startswith="dev-01").update(tags=["line-2"])
    rollout = world.started(world.manifest(), FIRST_PLAN, groups=["tagged"])
    assert Membership.objects.filter(rollout=rollout).count() == 10
    Device.objects.filter(pk="dev-001").update(tags=["line-2"])
    world.run(rollout, until={"completed"})
    assert Membership.objects.filter(rollout=rollout).count() == 10, "later joiners never enter"
    assert rollouts.explain(rollout, "dev-001", now=world.now)["code"] == "not_targeted"  # type: ignore[index]


def test_ages_in_a_query_count_from_the_moment_it_is_asked(world: World) -> None:
    Device.objects.filter(pk="dev-001").update(enrolled_at=world.now - timedelta(days=9))
    assert targeted(world, q="enrolled_at=lt=-7d") == ["dev-001"]
    world.now += timedelta(days=8)
    assert len(targeted(world, q="enrolled_at=lt=-7d")) == 40


@pytest.mark.parametrize("verb", ["run_preflight", "start"])
def test_a_query_that_is_none_any_more_leaves_the_rollout_where_it_is(world: World, verb: str) -> None:
    group = groups.create("tagged", kind="dynamic", q="id==dev-0*", actor=ACTOR, now=world.now)
    manifest = world.manifest()
    make = world.create if verb == "run_preflight" else world.ready
    rollout = make(manifest, FIRST_PLAN, groups=["tagged"])
    before = (rollout.state, rollout.rev)
    DeviceGroup.objects.filter(pk=group.pk).update(q="was_a_field==1")
    with pytest.raises(TargetError) as refused:
        getattr(rollouts, verb)(rollout, actor=ACTOR, now=world.now)
    assert (refused.value.code, refused.value.position) == ("group_query_invalid", 0)
    rollout.refresh_from_db()
    assert (rollout.state, rollout.rev) == before
    assert not Membership.objects.filter(rollout=rollout).exists()


def test_a_preflight_that_a_kill_left_behind_ends_although_the_query_broke(world: World) -> None:
    group = groups.create("tagged", kind="dynamic", q="id==dev-0*", actor=ACTOR, now=world.now)
    rollout = world.create(world.manifest(), FIRST_PLAN, groups=["tagged"])
    type(rollout).objects.filter(pk=rollout.pk).update(state="preflight")
    DeviceGroup.objects.filter(pk=group.pk).update(q="was_a_field==1")
    world.tick(rollout)
    assert rollout.state == "preflight_failed"
    assert rollout.summary["reasons"][0]["code"] == "group_query_invalid"


def test_a_deleted_group_fails_preflight_with_its_name(world: World) -> None:
    group = static(world, "pilot", "dev-001")
    rollout = world.create(world.manifest(), FIRST_PLAN, groups=["pilot"])
    groups.delete(group, actor=ACTOR, now=world.now)
    rollouts.run_preflight(rollout, actor=ACTOR, now=world.now)
    assert (rollout.state, rollout.summary["reasons"][0]["code"]) == ("preflight_failed", "unknown_group")


def test_what_was_previewed_is_what_runs_although_the_number_is_the_same(world: World) -> None:
    Device.objects.filter(pk__startswith="dev-00").update(tags=["line-2"])
    rollout = world.ready(world.manifest(), FIRST_PLAN, q="tag==line-2")
    snapshot = TargetSnapshot.objects.get(rollout=rollout)
    assert (snapshot.count, snapshot.digest) == (9, rollout.summary["target_digest"])
    Device.objects.filter(pk="dev-001").update(tags=[])
    Device.objects.filter(pk="dev-020").update(tags=["line-2"])
    with pytest.raises(RolloutError) as refused:
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    assert refused.value.code == "target_changed"
    assert "1 left, 1 came" in refused.value.text
    rollout.refresh_from_db()
    assert rollout.state == "draft"


def test_a_fleet_that_moved_by_five_percent_may_still_start(world: World) -> None:
    rollout = world.ready(world.manifest(["host-a", "host-b"]), FIRST_PLAN)
    Device.objects.filter(pk__in=["dev-001", "dev-002"]).update(quarantined_at=world.now)
    assert world.begin(rollout).state == "running"


def test_a_preview_names_devices_and_counts_reasons_by_class(world: World) -> None:
    Device.objects.filter(pk="dev-001").update(quarantined_at=world.now)
    rollout = world.ready(world.manifest(), FIRST_PLAN)
    assert rollout.summary["sample"][:2] == ["dev-002", "dev-003"]
    assert len(rollout.summary["sample"]) == 8
    assert rollout.summary["classes"]["host-a"]["skipped"] == {"quarantined": 1}
    assert rollout.summary["classes"]["host-b"]["skipped"] == {"target_class": 10}


NAMED_PLAN = GATED_PLAN | {
    "waves": [{"named": ["dev-004", "dev-002"]}, {"count": 14}, {"percent": 100}],
    "control": {"count": 10},
    "min_pairs": 8,
}


def test_named_devices_go_first_and_are_judged_by_hard_gates_only(world: World) -> None:
    old, new = world.manifest(), world.manifest()
    world.running(old, [device for device in world.devices.values() if device.id.startswith("dev")])
    world.pass_time(600)
    rollout = world.ready(new, NAMED_PLAN)
    shown = [(wave["size"], wave["is_gated"], wave["pairs"]) for wave in rollout.summary["waves"]]
    assert shown == [(2, False, 0), (12, True, 10), (16, False, 0)], (
        "sizes are cumulative, named ones count in"
    )
    world.begin(rollout)
    rows = Membership.objects.filter(rollout=rollout, wave=1).order_by("rank")
    assert [(row.device_id, row.arm, row.rank) for row in rows] == [
        ("dev-004", "wave", 0),
        ("dev-002", "wave", 1),
    ]
    assert not Membership.objects.filter(rollout=rollout, arm="control", device_id__in=["dev-002", "dev-004"])
    assert [wave.is_gated for wave in rollout.waves.all()] == [False, True, False]
    world.run(rollout, until={"completed", "halted"})
    assert rollout.state == "completed"


@pytest.mark.parametrize(
    ("named", "code"),
    [
        (["gate-001"], "unknown_device"),
        (["dev-001", "none"], "unknown_device"),
        (["dev-002"], "empty_target"),
    ],
)
def test_a_wave_that_names_nobody_who_can_get_it_fails_preflight(
    world: World, named: list[str], code: str
) -> None:
    Device.objects.filter(pk="dev-002").update(quarantined_at=world.now)
    plan = FIRST_PLAN | {"waves": [{"named": named}, {"percent": 100}]}
    rollout = world.create(world.manifest(["host-a", "host-b"]), plan, classes=["host-a"])
    rollouts.run_preflight(rollout, actor=ACTOR, now=world.now)
    found = rollout.summary["reasons"][0]
    assert (rollout.state, found["field"]) == ("preflight_failed", "waves[0].named")
    assert found["code"] == code


def test_a_named_device_that_is_skipped_is_told(world: World) -> None:
    Device.objects.filter(pk="dev-002").update(quarantined_at=world.now)
    plan = FIRST_PLAN | {"waves": [{"named": ["dev-002", "dev-003"]}, {"percent": 100}]}
    rollout = world.ready(world.manifest(), plan)
    assert "dev-002 of wave 1 is skipped: quarantined." in rollout.summary["notes"]
    assert rollout.summary["waves"][0]["size"] == 1


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ({"classes": ["host-b"]}, "its class host-a is none of host-b"),
        ({"devices": ["gate-001"]}, "it is not on the list of devices"),
        ({"groups": ["pilot"]}, "it is in none of the groups pilot"),
        ({"q": "id==gate-*,tag==a"}, "id==gate-* does not hold and tag==a does not hold"),
        ({"q": "online==true;class==host-b;id=null=false"}, "class==host-b does not hold"),
        ({"q": "id!=dev-001"}, "id!=dev-001 does not hold"),
    ],
)
def test_a_device_outside_is_told_what_keeps_it_out(world: World, target: dict[str, Any], why: str) -> None:
    static(world, "pilot", "gate-001", "dev-009")
    rollout = world.started(world.manifest(["host-a", "host-b"]), FIRST_PLAN, **target)
    said = rollouts.explain(rollout, "dev-001", now=world.now)
    assert said is not None
    assert (said["code"], said["sentence"]) == (
        "not_targeted",
        f"The rollout does not target this device: {why}.",
    )
    groups.delete(DeviceGroup.objects.get(), actor=ACTOR, now=world.now)
    assert rollouts.explain(rollout, "dev-001", now=world.now)["code"] == "not_targeted"  # type: ignore[index]


def test_a_device_that_came_after_the_start_is_told_so(world: World) -> None:
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.add(1, prefix="late")
    said = rollouts.explain(rollout, "late-001", now=world.now)
    assert said is not None
    assert "after the start" in said["sentence"]
