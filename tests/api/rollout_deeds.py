"""The deeds of rollouts, as `deeds`."""

from __future__ import annotations

from typing import Any, Final

from ota.models import Job, Rollout
from tests.api.conftest import clock
from tests.api.stage import MATCH, WHY, Deed, Deeds, Stage
from tests.api.test_rollouts import begin, draft_of, verb
from tests.api.test_waves import halted
from tests.ota.world import FIRST_PLAN

DEEDS = Deeds()
TAKEN_BACK: Final = {"job.cancelling": 6}
deed = DEEDS.of


@deed("POST /rollouts")
def _draft(stage: Stage) -> Deed:
    stage.world.add(6)
    return Deed("/rollouts", "rollout.create", "rollout:", draft_of(stage.world.manifest()))


@deed("PATCH /rollouts/{rollout_id}")
def _edit(stage: Stage) -> Deed:
    return Deed(stage.draft(), "rollout.edit", "rollout:", {"name": "other"}, headers=MATCH)


@deed("DELETE /rollouts/{rollout_id}")
def _delete(stage: Stage) -> Deed:
    return Deed(stage.draft(), "rollout.delete", "rollout:", headers=MATCH)


@deed("POST /rollouts/{rollout_id}/submit")
def _submit(stage: Stage) -> Deed:
    beside = {"rollout.ready": 1}
    return Deed(f"{stage.draft()}/submit", "rollout.preflight", "rollout:", {}, beside=beside)


@deed("POST /rollouts/{rollout_id}/preflight")
def _preflight(stage: Stage) -> Deed:
    beside = {"rollout.ready": 1}
    return Deed(f"{stage.draft()}/preflight", "rollout.preflight", "rollout:", {}, beside=beside)


def _waiting(stage: Stage) -> tuple[str, dict[str, Any]]:
    """Path of a rollout that awaits approval of another's plan, and the digests to approve."""
    operator = stage.call.as_role("operator")
    stage.world.add(6)
    plan = FIRST_PLAN | {"requires_approval": True}
    path = f"/rollouts/{operator('POST', '/rollouts', draft_of(stage.world.manifest(), plan)).json()['id']}"
    verb(operator, path, "submit")
    about = stage.call("GET", path).json()["approval"]["submission"]
    return path, {name: about[name] for name in ("manifest_sha256", "plan_digest", "target_digest")}


@deed("POST /rollouts/{rollout_id}/approve")
def _approve(stage: Stage) -> Deed:
    path, digests = _waiting(stage)
    beside = {"rollout.ready": 1}
    return Deed(f"{path}/approve", "approval.approve", "rollout:", digests, beside=beside)


@deed("POST /rollouts/{rollout_id}/reject")
def _reject(stage: Stage) -> Deed:
    path, _ = _waiting(stage)
    beside = {"rollout.rejected": 1}
    return Deed(f"{path}/reject", "approval.reject", "rollout:", WHY, beside=beside)


@deed("POST /rollouts/{rollout_id}/start")
def _start(stage: Stage) -> Deed:
    return Deed(f"{stage.ready()}/start", "rollout.start", "rollout:", {})


@deed("POST /rollouts/{rollout_id}/cancel")
def _cancel(stage: Stage) -> Deed:
    return Deed(f"{stage.ready()}/cancel", "rollout.cancelled", "rollout:", {})


@deed("POST /rollouts/{rollout_id}/pause")
def _pause(stage: Stage) -> Deed:
    return Deed(f"{stage.running()[0]}/pause", "rollout.paused", "rollout:", WHY, beside=TAKEN_BACK)


@deed("POST /rollouts/{rollout_id}/resume")
def _resume(stage: Stage) -> Deed:
    path, _ = stage.running()
    verb(stage.call, path, "pause")
    return Deed(f"{path}/resume", "rollout.running", "rollout:", WHY)


@deed("POST /rollouts/{rollout_id}/abort")
def _abort(stage: Stage) -> Deed:
    return Deed(f"{stage.running()[0]}/abort", "rollout.aborting", "rollout:", WHY, beside=TAKEN_BACK)


@deed("POST /rollouts/{rollout_id}/rollback")
def _rollback(stage: Stage) -> Deed:
    return Deed(f"{stage.running()[0]}/rollback", "rollout.rolling_back", "rollout:", WHY, beside=TAKEN_BACK)


@deed("POST /rollouts/{rollout_id}/retry-failed")
def _retry(stage: Stage) -> Deed:
    path, rollout = stage.running()
    ids = Job.objects.filter(rollout=rollout).values_list("pk", flat=True)[:1]
    Job.objects.filter(pk__in=list(ids)).update(state="timed_out", code="downloading", finished_at=clock())
    return Deed(f"{path}/retry-failed", "rollout.retry_failed", "rollout:", WHY)


@deed("POST /rollouts/{rollout_id}/create-revert")
def _revert(stage: Stage) -> Deed:
    stage.world.add(6)
    old = stage.world.manifest()
    stage.world.running(old)
    new = stage.world.manifest()
    path = f"/rollouts/{stage.call('POST', '/rollouts', draft_of(new)).json()['id']}"
    verb(stage.call, path, "submit")
    begin(stage.call, path)
    rollout = Rollout.objects.get()
    stage.world.now = rollout.started_at or stage.world.now
    stage.world.run(rollout, until={"completed"})
    return Deed(f"{path}/create-revert", "rollout.create_revert", "rollout:", WHY)


@deed("POST /rollouts/{rollout_id}/waves/{n}/override")
def _override(stage: Stage) -> Deed:
    path, rollout = halted(stage.call, stage.world)
    body = {"evidence": str(rollout.halted_on_id), **WHY}
    beside = {"rollout.running": 1, "approval.override": 1}
    return Deed(f"{path}/waves/1/override", "wave.overridden", "wave:", body, beside=beside)
