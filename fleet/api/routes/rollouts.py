"""Rollouts: plan, verbs, live state, jobs."""

import uuid
from collections.abc import Callable
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field

from fleet.accounts.models import AuditEvent
from fleet.alerts import pausing
from fleet.api import within
from fleet.api.auth import Scope, actor, person, require, role
from fleet.api.errors import ApiProblem
from fleet.api.idempotency import idempotent
from fleet.api.paging import page
from fleet.api.render import audit_json, stamp
from fleet.api.revisions import may_match, must_match, tag
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts
from fleet.devices.models import Device
from fleet.ranks import Ranked
from ota import aliases, reach, rollouts
from ota.choices import RolloutState
from ota.job_lists import jobs_of
from ota.models import Job, Manifest, Rollout
from ota.rollout_lists import MANIFEST_BYTES, listed
from ota.trail import trail_of

router = Router(tags=["rollouts"])
SORTS = Sorts(
    Rollout,
    {
        "id": "id",
        "name": "name",
        "state": Ranked("state", tuple(RolloutState.values)),
        "created_at": "created_at",
        "finished_at": "finished_at",
    },
    default="-id",
    most=2,
)
"""People plan them: what is sorted are some thousands after years."""
JOB_SORTS = Sorts(Job, {"id": "id", "device": "device_id"}, default="id")
"""Nothing that changes while a job runs: its index would be written with each state. `state` is a filter."""
EVENT_SORTS = Sorts(AuditEvent, {"id": "id"}, default="-id")


class Target(Strict):
    """Which devices: those that satisfy every part that is given. Empty parts do not restrict."""

    classes: list[str] = Field(default_factory=list, max_length=100)
    devices: list[str] = Field(default_factory=list, max_length=10_000)
    groups: list[str] = Field(default_factory=list, max_length=100)
    q: str = Field(default="", max_length=2_000)


class RolloutBody(Strict):
    """A new rollout. The newest manifest of the version in that slot is what it rolls out.

    version: a version of the model, or an alias of it, which is resolved now: where it points later changes
    nothing. The answer says which by `manifest.version` and `alias`.
    """

    name: str = Field(min_length=1, max_length=80)
    model: str = Field(max_length=32)
    version: str = Field(max_length=32)
    slot: int = Field(0, ge=0, le=3)
    target: Target = Field(default_factory=Target)
    plan: dict[str, Any]


class RolloutPatch(Strict):
    """What changes of a rollout that has not started; an absent field stays."""

    name: str | None = Field(None, min_length=1, max_length=80)
    target: Target | None = None
    plan: dict[str, Any] | None = None


class VerbBody(Strict):
    """Body of a verb. ack_evidence: the evidence id that resume after a halt acknowledges."""

    reason: str = Field("", max_length=500)
    dry_run: bool = False
    ack_evidence: uuid.UUID | None = None


class ApproveBody(Strict):
    """What the approver has read, by its digests."""

    manifest_sha256: str = Field(min_length=64, max_length=64)
    plan_digest: str = Field(min_length=64, max_length=64)
    target_digest: str = Field(min_length=64, max_length=64)
    reason: str = Field("", max_length=500)


def manifest_of(model: str, name: str, slot: int) -> tuple[Manifest, str]:
    """Newest live manifest of a version in a slot, and the alias when the version was named by one.

    Problem `not_found` for an unknown name, `preflight_required` when the version was not released.
    """
    found = aliases.named(model, name)
    if found is None:
        raise ApiProblem("not_found", f"no version {name} of {model}")
    version, alias = found
    manifest = version.manifests.filter(slot=slot, revoked_at=None).order_by("-seq").first()
    if manifest is None:
        raise ApiProblem("preflight_required", f"{version} is not released for slot {slot}: release it first")
    return manifest, alias


@router.get("", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any])
def list_rollouts(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
    state: str = "",
) -> Any:
    """Rollouts, newest first."""
    rows = listed()
    if state:
        rows = rows.filter(state=state)
    return page(
        rows,
        order=SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"state": state},
        render=lambda row: {
            "id": str(row.id),
            "name": row.name,
            "kind": row.kind,
            "state": row.state,
            "model": row.manifest.version.model_id,
            "version": row.manifest.version.version,
            "created_at": stamp(row.created_at),
            "created_by": row.created_by,
            "finished_at": stamp(row.finished_at),
            "superseded_by": str(row.superseded_by_id) if row.superseded_by_id else None,
        },
    )


@router.post("", auth=Scope("rollouts:write", knows_limits=True), response={201: dict[str, Any]})
@idempotent(is_required=False)
def create(request: HttpRequest, body: RolloutBody) -> Any:
    """Make a draft. A token that is limited to groups names some of these in target.groups."""
    within.require_target(request, body.target.dict(), body.plan)
    manifest, alias = manifest_of(body.model, body.version, body.slot)
    made = rollouts.create(
        body.name,
        manifest,
        alias=alias,
        slot=body.slot,
        target=body.target.dict(),
        plan=body.plan,
        actor=actor(request),
        now=timezone.now(),
    )
    return 201, _state(request, made)


@router.get("/{rollout_id}", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any])
def get_rollout(request: HttpRequest, rollout_id: uuid.UUID, response: HttpResponse) -> Any:
    """Live state: sentence, waves, gates, failures, allowed verbs. Its ETag is the revision `rev`."""
    return _tagged(request, rollout_of(rollout_id), response)


@router.patch("/{rollout_id}", auth=Scope("rollouts:write", knows_limits=True), response=dict[str, Any])
def change(request: HttpRequest, rollout_id: uuid.UUID, body: RolloutPatch, response: HttpResponse) -> Any:
    """Change a rollout that has not started; it is a draft again then. Needs If-Match."""
    given = {name: value for name, value in body.dict(exclude_unset=True).items() if value is not None}
    if not given:
        raise ApiProblem("validation", "name what is to change: name, target or plan")
    row = rollout_of(rollout_id)
    within.require_rollout(request, row)
    within.require_target(request, given.get("target", row.target), given.get("plan"))
    must_match(request, row.rev)
    row.expected_rev = row.rev
    rollouts.edit(row, actor=actor(request), now=timezone.now(), **given)
    return _tagged(request, row, response)


@router.delete("/{rollout_id}", auth=Scope("rollouts:write", knows_limits=True), response={204: None})
def delete(request: HttpRequest, rollout_id: uuid.UUID) -> Any:
    """Remove a draft. Needs If-Match."""
    row = rollout_of(rollout_id)
    within.require_rollout(request, row)
    must_match(request, row.rev)
    row.expected_rev = row.rev
    rollouts.delete(row, actor=actor(request), now=timezone.now())
    return Status(204, None)


_SUMMARIES = {"retry-failed": "Try the devices of a rollout again that failed with a retryable code"}
_AS_STORED = (
    "Checks the draft as it is stored and puts it up for approval. Which pages of its plan somebody has "
    "saved in the console is not asked: one that was left after its first page has no quality gate yet, and "
    "`summary.notes` says so."
)
_DESCRIPTIONS = {"submit": _AS_STORED, "preflight": _AS_STORED}


def _verb(
    name: str,
    run: Callable[[HttpRequest, Rollout, VerbBody], Any],
    scopes: tuple[str, ...] = ("rollouts:write",),
) -> None:
    @router.post(
        f"/{{rollout_id}}/{name}",
        auth=Scope(*scopes, knows_limits=True),
        response=dict[str, Any],
        operation_id=f"rollout_{name.replace('-', '_')}",
        summary=_SUMMARIES.get(name, f"{name.capitalize()} a rollout"),
        description=_DESCRIPTIONS.get(name),
    )
    @idempotent(is_required=name in {"resume", "abort", "rollback", "retry-failed"})
    def endpoint(request: HttpRequest, rollout_id: uuid.UUID, body: VerbBody) -> Any:
        rollout = rollout_of(rollout_id)
        expect(request, rollout)
        answer = run(request, rollout, body)
        return answer if isinstance(answer, dict) else _state(request, rollout_of(rollout_id))


_verb("submit", lambda r, x, b: rollouts.submit(x, actor=actor(r), now=timezone.now()))
_verb("preflight", lambda r, x, b: rollouts.submit(x, actor=actor(r), now=timezone.now()))
_verb(
    "reject",
    lambda r, x, b: rollouts.reject(x, reason=b.reason, actor=actor(r), now=timezone.now()),
    ("rollouts:approve",),
)
_verb("pause", lambda r, x, b: rollouts.pause(x, reason=b.reason, actor=actor(r), now=timezone.now()))
_verb("resume", lambda r, x, b: _resume(r, x, b), ("rollouts:write", "rollouts:approve"))
_verb(
    "abort",
    lambda r, x, b: rollouts.abort(x, reason=b.reason, dry_run=b.dry_run, actor=actor(r), now=timezone.now()),
)
_verb(
    "rollback",
    lambda r, x, b: rollouts.rollback(
        x, reason=b.reason, dry_run=b.dry_run, actor=actor(r), now=timezone.now()
    ),
)
_verb(
    "retry-failed",
    lambda r, x, b: rollouts.retry_failed(
        x, reason=b.reason, dry_run=b.dry_run, actor=actor(r), now=timezone.now()
    ),
)


@router.post(
    "/{rollout_id}/create-revert",
    auth=Scope("rollouts:write", knows_limits=True),
    response={201: dict[str, Any]},
)
@idempotent(is_required=True)
def create_revert(request: HttpRequest, rollout_id: uuid.UUID, body: VerbBody) -> Any:
    """Draft a rollout that takes a completed one back; the completed one is never reopened."""
    row = rollout_of(rollout_id)
    expect(request, row)
    made = rollouts.create_revert(row, reason=body.reason, actor=actor(request), now=timezone.now())
    return 201, _state(request, made)


_verb("cancel", lambda r, x, b: rollouts.cancel(x, reason=b.reason, actor=actor(r), now=timezone.now()))


@router.post(
    "/{rollout_id}/approve", auth=Scope("rollouts:approve", knows_limits=True), response=dict[str, Any]
)
@idempotent(is_required=False)
def approve(request: HttpRequest, rollout_id: uuid.UUID, body: ApproveBody) -> Any:
    """Let what was submitted run. The digests are those of `approval.submission`, as they were read."""
    rollout = rollout_of(rollout_id)
    expect(request, rollout)
    rollouts.approve(rollout, actor=actor(request), now=timezone.now(), **body.dict())
    return _state(request, rollout_of(rollout_id))


@router.get("/{rollout_id}/jobs", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any])
def list_jobs(
    request: HttpRequest,
    rollout_id: uuid.UUID,
    limit: int = 50,
    cursor: str = "",
    sort: str = JOB_SORTS.parameter(),
    state: str = "",
    code: str = "",
) -> Any:
    """Device jobs of a rollout."""
    rows = jobs_of(rollout_of(rollout_id))
    if within.limit_of(request) is not None:
        rows = rows.filter(device__in=Device.objects.filter(within.devices(request)))
    if state:
        rows = rows.filter(state=state)
    if code:
        rows = rows.filter(code=code)
    return page(
        rows,
        order=JOB_SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"rollout": str(rollout_id), "state": state, "code": code},
        render=lambda job: {
            "id": str(job.id),
            "device": job.device_id,
            "wave": job.wave.n,
            "kind": job.kind,
            "attempt": job.attempt,
            "state": job.state,
            "code": job.code,
            "retry_at": stamp(job.retry_at),
            "have": job.have,
            "total": job.total,
            "offered_at": stamp(job.offered_at),
            "exposed_at": stamp(job.exposed_at),
            "confirmed_at": stamp(job.confirmed_at),
            "finished_at": stamp(job.finished_at),
        },
    )


@router.get("/{rollout_id}/events", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any])
def list_events(
    request: HttpRequest,
    rollout_id: uuid.UUID,
    limit: int = 50,
    cursor: str = "",
    sort: str = EVENT_SORTS.parameter(),
) -> Any:
    """The audit trail of the rollout and its waves, newest first."""
    row = rollout_of(rollout_id)
    within.require_rollout(request, row)
    return page(
        trail_of(row),
        order=EVENT_SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"rollout": str(rollout_id)},
        render=audit_json,
    )


@router.get(
    "/{rollout_id}/explain/{device_id}",
    auth=Scope("rollouts:read", knows_limits=True),
    response=dict[str, Any],
)
def explain(request: HttpRequest, rollout_id: uuid.UUID, device_id: str) -> Any:
    """Why this device is where it is in this rollout, and what happens next."""
    within.require_device(request, device_id)
    found = rollouts.explain(rollout_of(rollout_id), device_id, now=timezone.now())
    if found is None:
        raise Http404(f"no device {device_id}")
    return found


def _resume(request: HttpRequest, rollout: Rollout, body: VerbBody) -> Any:
    require(request, "rollouts:approve" if rollout.state == RolloutState.HALTED else "rollouts:write")
    return pausing.resume(
        rollout, reason=body.reason, ack_evidence=body.ack_evidence, actor=actor(request), now=timezone.now()
    )


def rollout_of(rollout_id: uuid.UUID) -> Rollout:
    """The rollout of this id. Raises Http404."""
    rows = Rollout.objects.select_related("manifest__version").defer(*MANIFEST_BYTES)
    found = rows.filter(id=rollout_id).first()
    if found is None:
        raise Http404(f"no rollout {rollout_id}")
    return found


def expect(request: HttpRequest, rollout: Rollout) -> None:
    """Hold a verb to the revision that If-Match names, when there is one, and to the token's limit.

    Raises ApiProblem `stale`, `scope_missing`.
    """
    within.require_rollout(request, rollout)
    if may_match(request, rollout.rev):
        rollout.expected_rev = rollout.rev


def _tagged(request: HttpRequest, rollout: Rollout, response: HttpResponse) -> dict[str, Any]:
    state = _state(request, rollout)
    tag(response, state["rev"])
    return state


def _state(request: HttpRequest, rollout: Rollout) -> dict[str, Any]:
    state = rollouts.state(rollout, role=role(request), person=person(request), now=timezone.now())
    return reach.told(state, rollout, within.limit_of(request))
