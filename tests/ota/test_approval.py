"""Approval: who needs one, who may give it, what it is about, what voids it, and what starts without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import approval, rollouts
from ota.errors import RolloutError
from ota.models import Approval, Manifest, Membership, Rollout, Submission
from ota.plan import Plan
from ota.rollback_target import RollbackError
from ota.transitions import IllegalTransition
from tests.ota.world import ACTOR, FIRST_PLAN, SECOND, World

pytestmark = pytest.mark.django_db

ASKS = FIRST_PLAN | {"requires_approval": True}


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    world = World(now, make_manifest)
    world.add(20)
    return world


def submitted(world: World, plan: dict[str, Any] = ASKS, **target: Any) -> Rollout:
    rollout = world.create(world.manifest(), plan, **target)
    return rollouts.submit(rollout, actor=ACTOR, now=world.now)


def digests(rollout: Rollout) -> dict[str, str]:
    row = approval.newest(rollout)
    assert row is not None
    names = ("manifest_sha256", "plan_digest", "target_digest")
    return {name: getattr(row, name) for name in names}


def approved(world: World, rollout: Rollout, actor: Actor = SECOND, **given: Any) -> Rollout:
    return rollouts.approve(rollout, actor=actor, now=world.now, **(digests(rollout) | given))


@pytest.mark.parametrize(
    ("plan", "over", "reasons"),
    [
        (FIRST_PLAN, 20, []),
        (FIRST_PLAN, 19, ["20 devices, more than 19"]),
        (FIRST_PLAN, 0, ["20 devices, more than 0"]),
        (ASKS, 100, ["the plan asks for it"]),
        (FIRST_PLAN | {"requires_approval": False}, 19, ["20 devices, more than 19"]),
        (
            FIRST_PLAN | {"rollback_to": "none", "rollback_reason": "new format", "on_fail": "halt"},
            100,
            ["there is no way back: new format"],
        ),
    ],
)
def test_policy_says_who_needs_a_second_person(
    world: World, settings: Any, plan: dict[str, Any], over: int, reasons: list[str]
) -> None:
    settings.APPROVAL_OVER = over
    rollout = submitted(world, plan)
    assert rollout.state == ("awaiting_approval" if reasons else "ready")
    facts = rollouts.state(rollout, now=world.now)
    assert facts["approval"]["reasons"] == reasons
    if reasons:
        assert f"awaiting approval: {reasons[0]}" in facts["sentence"]
        assert "Not by olga, who wrote it." in facts["sentence"]


def test_an_approved_rollout_says_who_approved_it_and_runs(world: World) -> None:
    rollout = approved(world, submitted(world), reason="read it twice")
    assert rollout.state == "ready"
    facts = rollouts.state(rollout, now=world.now)
    assert facts["approval"]["approved_by"] == "dana"
    (said,) = facts["approval"]["decisions"]
    assert (said["decision"], said["by"], said["reason"]) == ("approve", "dana", "read it twice")
    assert "approved by dana" in facts["sentence"]
    event = AuditEvent.objects.get(verb="approval.approve")
    assert (event.actor, event.reason) == ("dana", "read it twice")
    assert {key: event.after[key] for key in digests(rollout)} == digests(rollout)
    assert event.after["target_count"] == 20
    world.begin(rollout)
    assert world.run(rollout, until={"completed"}).state == "completed"


def test_a_rejection_is_for_good_and_says_why(world: World) -> None:
    rollout = submitted(world)
    with pytest.raises(RolloutError) as refused:
        rollouts.reject(rollout, actor=SECOND, now=world.now, reason=" ")
    assert refused.value.code == "validation"
    rollouts.reject(rollout, actor=SECOND, now=world.now, reason="not on a Friday")
    assert rollout.state == "rejected"
    assert rollout.finished_at == world.now
    facts = rollouts.state(rollout, now=world.now)
    assert facts["sentence"] == "Rejected by dana: not on a Friday. Nothing was sent."
    assert facts["allowed"] == []
    with pytest.raises(IllegalTransition):
        approved(world, rollout)


@pytest.mark.parametrize("name", ["olga", "olga/tfk_0011223344556677"])
def test_whoever_wrote_the_plan_cannot_approve_it_through_any_token(world: World, name: str) -> None:
    rollout = submitted(world)
    author = Actor("token" if "/" in name else "user", name)
    for say in (lambda: approved(world, rollout, author), lambda: reject(world, rollout, author)):
        with pytest.raises(RolloutError) as refused:
            say()
        assert refused.value.code == "approver_is_author"
    rollout.refresh_from_db()
    assert rollout.state == "awaiting_approval"
    assert not Approval.objects.exists()
    assert rollouts.allowed(rollout, "approver", person="olga") == []
    assert rollouts.allowed(rollout, "approver", person="dana") == ["approve", "reject"]
    assert "approve" not in rollouts.allowed(rollout, "operator", person="dana")


def reject(world: World, rollout: Rollout, actor: Actor) -> Rollout:
    return rollouts.reject(rollout, actor=actor, now=world.now, reason="no")


def test_whoever_changed_the_plan_wrote_it_too(world: World) -> None:
    rollout = submitted(world)
    rollouts.edit(rollout, actor=Actor("token", "dana/tfk_1"), now=world.now, name="mine now")
    rollouts.submit(rollout, actor=ACTOR, now=world.now)
    with pytest.raises(RolloutError, match="approver_is_author"):
        approved(world, rollout)
    approved(world, rollout, Actor("user", "eve"))
    assert rollout.state == "ready"


def test_whoever_says_again_what_is_stored_wrote_nothing_of_it(world: World) -> None:
    rollout = submitted(world)
    same: list[dict[str, Any]] = [
        {},
        {"name": f" {rollout.name} "},
        {"plan": rollout.plan},
        {"plan": ASKS},
        {"target": rollout.target},
        {"manifest": rollout.manifest, "alias": rollout.alias},
    ]
    for given in same:
        rollouts.edit(rollout, actor=SECOND, now=world.now, **given)
        assert (rollout.state, rollout.authors) == ("draft", ["olga"]), given
        rollouts.submit(rollout, actor=SECOND, now=world.now)
    with pytest.raises(RolloutError, match="approver_is_author"):
        approved(world, rollout, ACTOR)
    assert approved(world, rollout).state == "ready"


def test_a_change_that_was_taken_back_was_one_still(world: World) -> None:
    rollout = submitted(world)
    for name in ("another", rollout.name):
        rollouts.edit(rollout, actor=SECOND, now=world.now, name=name)
    rollouts.submit(rollout, actor=ACTOR, now=world.now)
    with pytest.raises(RolloutError, match="approver_is_author"):
        approved(world, rollout)


def test_what_is_stale_is_told_in_words(world: World) -> None:
    plan = ASKS | {"waves": [{"count": 2}, {"percent": 10}, {"percent": 100}], "control": {"count": 0}}
    rollout = submitted(world, plan)
    seen = digests(rollout)
    rollouts.edit(
        rollout,
        actor=ACTOR,
        now=world.now,
        plan=plan | {"waves": [{"count": 2}, {"percent": 25}, {"percent": 100}], "min_reach": 0.5},
    )
    world.add(1, prefix="late")
    rollouts.submit(rollout, actor=ACTOR, now=world.now)
    with pytest.raises(RolloutError) as refused:
        approved(world, rollout, **seen)
    assert refused.value.code == "approval_stale"
    assert refused.value.text == (
        "plan changed: min_reach 0.95 -> 0.5, waves[1].percent 10.0 -> 25.0; "
        "target changed: 20 devices -> 21 devices"
    )
    for name in seen:
        with pytest.raises(RolloutError) as refused:
            approved(world, rollout, **{name: "f" * 64})
        assert refused.value.code == "approval_stale"
        assert "ffffffffffffffff" in refused.value.text
    rollout.refresh_from_db()
    assert rollout.state == "awaiting_approval"


def test_an_edit_voids_an_approval_and_the_old_digests(world: World) -> None:
    rollout = approved(world, submitted(world))
    old = digests(rollout)
    rollouts.edit(rollout, actor=ACTOR, now=world.now, plan=ASKS | {"soak_s": 1})
    assert rollout.state == "draft"
    assert Approval.objects.get().voided_at == world.now
    rollouts.submit(rollout, actor=ACTOR, now=world.now)
    assert rollout.state == "awaiting_approval"
    assert approval.live(rollout) is None
    with pytest.raises(RolloutError, match=r"plan changed: soak_s 0 -> 1"):
        approved(world, rollout, **old)
    # back to what was approved once: the old word is void all the same
    rollouts.edit(rollout, actor=ACTOR, now=world.now, plan=ASKS)
    rollouts.submit(rollout, actor=ACTOR, now=world.now)
    assert digests(rollout) == old
    assert rollout.state == "awaiting_approval"


def test_a_name_of_another_target_is_another_plan(world: World) -> None:
    rollout = submitted(world, ASKS, classes=["host-a"])
    old = digests(rollout)
    rollouts.edit(rollout, actor=ACTOR, now=world.now, target={})
    rollouts.submit(rollout, actor=ACTOR, now=world.now)
    assert digests(rollout)["target_digest"] == old["target_digest"]
    with pytest.raises(RolloutError, match=r"target.classes\[0\] host-a -> nothing"):
        approved(world, rollout, **old)


def test_another_fleet_at_the_start_voids_the_approval(world: World) -> None:
    rollout = approved(world, submitted(world))
    world.add(5, prefix="new")
    with pytest.raises(RolloutError) as refused:
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    assert refused.value.code == "target_changed"
    rollout.refresh_from_db()
    assert rollout.state == "draft"
    assert Approval.objects.get().voided_at is not None
    assert not Membership.objects.exists()


def test_a_fleet_that_grew_over_the_limit_needs_a_word_after_all(world: World, settings: Any) -> None:
    settings.APPROVAL_OVER = 20
    rollout = submitted(world, FIRST_PLAN)
    assert rollout.state == "ready"
    world.add(1, prefix="one")  # within the 5 % that a start tolerates
    with pytest.raises(RolloutError) as refused:
        rollouts.start(rollout, actor=ACTOR, now=world.now)
    assert (refused.value.code, rollout.state) == ("target_changed", "draft")
    assert "it needs an approval (21 devices, more than 20)" in refused.value.text
    rollouts.submit(rollout, actor=ACTOR, now=world.now)
    assert rollout.state == "awaiting_approval"


def test_a_row_that_was_changed_behind_the_approval_does_not_start(world: World) -> None:
    rollout = approved(world, submitted(world))
    Rollout.objects.filter(pk=rollout.pk).update(plan=rollout.plan | {"max_in_flight": 5_000})
    with pytest.raises(RolloutError, match="it needs an approval"):
        rollouts.start(rollout, actor=ACTOR, now=world.now)


def test_two_approvers_make_one_approval(world: World) -> None:
    rollout = submitted(world)
    stale = Rollout.objects.get(pk=rollout.pk)
    approved(world, rollout)
    with pytest.raises(IllegalTransition) as refused:
        approved(world, stale, Actor("user", "eve"))
    assert refused.value.allowed == ["cancel", "edit", "start"]
    assert Approval.objects.count() == 1


@pytest.mark.parametrize("state", ["draft", "preflight", "preflight_failed", "scheduled", "ready", "running"])
def test_approving_and_rejecting_need_a_submission_that_waits(world: World, state: str) -> None:
    rollout = submitted(world)
    Rollout.objects.filter(pk=rollout.pk).update(state=state)
    for say in (lambda: approved(world, rollout), lambda: reject(world, rollout, SECOND)):
        with pytest.raises(IllegalTransition):
            say()
    assert not Approval.objects.exists()


def test_preflight_is_submit_under_its_older_name(world: World) -> None:
    rollout = world.create(world.manifest(), ASKS)
    assert rollouts.run_preflight(rollout, actor=ACTOR, now=world.now).state == "awaiting_approval"
    assert Submission.objects.get().by == "olga"
    rollouts.cancel(rollout, actor=ACTOR, now=world.now)
    assert rollout.state == "cancelled"


def test_a_killed_submission_is_finished_by_the_tick_in_the_authors_name(world: World) -> None:
    rollout = world.create(world.manifest(), ASKS)
    Rollout.objects.filter(pk=rollout.pk).update(state="preflight")
    world.tick(rollout)
    assert rollout.state == "awaiting_approval"
    assert Submission.objects.get().authors == ["olga"]
    with pytest.raises(RolloutError, match="approver_is_author"):
        approved(world, rollout, ACTOR)


def test_going_on_against_evidence_takes_a_second_person(world: World) -> None:
    from fleet.mqtt.codec.names import RefusalCode, UpdateState

    devices = list(world.devices.values())
    world.running(world.manifest())
    bad = world.manifest()
    devices[3].faults[bad.pk] = (UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH)
    rollout = world.run(world.started(bad, FIRST_PLAN), until={"halted"})
    given: dict[str, Any] = {
        "now": world.now,
        "ack_evidence": rollout.halted_on_id,
        "reason": "one bad board",
    }
    for verb in (rollouts.resume, rollouts.override):
        with pytest.raises(RolloutError) as refused:
            verb(rollout, actor=Actor("token", "olga/tfk_9"), **given)
        assert refused.value.code == "approver_is_author"
        rollout.refresh_from_db()
        assert rollout.state == "halted"
    assert rollouts.allowed(rollout, person="olga") == ["abort", "rollback"]
    rollouts.resume(rollout, actor=SECOND, **given)
    row = Approval.objects.get()
    assert (row.decision, row.by, row.evidence_id) == ("resume", "dana", given["ack_evidence"])


def test_without_a_way_back_nothing_rolls_back(world: World) -> None:
    plan = FIRST_PLAN | {"rollback_to": "none", "rollback_reason": "new format", "on_fail": "halt"}
    rollout = approved(world, submitted(world, plan))
    world.begin(rollout)
    assert rollouts.allowed(rollout) == ["pause", "abort"]
    with pytest.raises(RollbackError, match="new format"):
        rollouts.rollback(rollout, actor=ACTOR, now=world.now)


def test_differences_are_named_by_their_place() -> None:
    old = Plan.parse(FIRST_PLAN).to_json()
    later = datetime.fromisoformat("2026-05-02T22:00:00Z") + timedelta(days=1)
    new = replace(Plan.parse(FIRST_PLAN), start_at=later, timers={"offered": 5.0}).to_json()
    assert list(approval.differences(old, new)) == [
        "start_at nothing -> 2026-05-03T22:00:00Z",
        "timers.offered nothing -> 5.0",
    ]
    assert list(approval.differences([1, {"a": []}], [1, {"a": [2]}, 3])) == [
        "[1].a[0] nothing -> 2",
        "[2] nothing -> 3",
    ]


def test_evidence_of_another_rollout_acknowledges_nothing(world: World) -> None:
    devices = world.add(4, prefix="bad")
    world.running(world.manifest())
    halted = []
    for pair in (devices[:2], devices[2:]):
        bad = world.manifest()
        pair[0].faults[bad.pk] = (UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH)
        ids = [device.id for device in pair]
        halted.append(world.run(world.started(bad, FIRST_PLAN, devices=ids), until={"halted"}))
    mine, other = halted
    last = AuditEvent.objects.count()
    for verb in (rollouts.resume, rollouts.override):
        with pytest.raises(RolloutError) as refused:
            verb(mine, actor=SECOND, now=world.now, ack_evidence=other.halted_on_id, reason="seen")
        assert refused.value.code == "evidence_not_current"
    mine.refresh_from_db()
    assert (mine.state, mine.waves.get().state, mine.approvals.count()) == ("halted", "failed", 0)
    assert AuditEvent.objects.count() == last
