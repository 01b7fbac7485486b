"""Operations: the start of a rollout or a large export, which workers do, and how far such work is."""

import uuid
from typing import Any

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Router

from fleet.accounts.tokens import effective_scopes
from fleet.api import within
from fleet.api.auth import Scope, actor, person, require
from fleet.api.errors import ApiProblem, document, status_of
from fleet.api.idempotency import idempotent
from fleet.api.paging import merged_page
from fleet.api.render import stamp
from fleet.api.routes.rollouts import VerbBody, expect, rollout_of
from fleet.api.sorting import Sorts
from fleet.telemetry import export_jobs
from fleet.telemetry.export_models import ExportJob
from ota import rollouts
from ota.choices import OperationState
from ota.models import Operation

router = Router(tags=["rollouts"])


@router.post(
    "/rollouts/{rollout_id}/start",
    auth=Scope("rollouts:write", knows_limits=True),
    response={200: dict[str, Any], 202: dict[str, Any]},
    operation_id="rollout_start",
    summary="Start a rollout",
)
@idempotent(is_required=True)
def start(request: HttpRequest, rollout_id: uuid.UUID, body: VerbBody) -> Any:
    """Check and freeze the devices now: 202 with the operation that writes their places and lets the rollout
    run. `dry_run`: 200 with the counts.
    """
    row = rollout_of(rollout_id)
    expect(request, row)
    asked = rollouts.start(row, dry_run=body.dry_run, actor=actor(request), now=timezone.now())
    return asked if isinstance(asked, dict) else (202, operation_json(asked))


_READ = Scope("rollouts:read", "telemetry:read")
SORTS = Sorts(Operation, {"id": "id"}, default="-id")


@router.get("/operations", auth=_READ, response=dict[str, Any])
def list_operations(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
    state: OperationState | None = None,
) -> Any:
    """Starts of rollouts and large exports that the token may read of, newest first."""
    mine = effective_scopes(request.auth)  # type: ignore[attr-defined]
    sources: list[QuerySet[Any]] = []
    if "rollouts:read" in mine:
        sources.append(Operation.objects.defer("frozen"))
    if "telemetry:read" in mine:
        sources.append(ExportJob.objects.all())
    return merged_page(
        [rows.filter(state=state) if state else rows for rows in sources],
        order=SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"state": state or ""},
        render=lambda row: operation_json(row) if isinstance(row, Operation) else export_json(row),
    )


@router.get(
    "/operations/{operation_id}",
    auth=Scope("rollouts:read", "telemetry:read", knows_limits=True),
    response=dict[str, Any],
)
def get_operation(request: HttpRequest, operation_id: uuid.UUID) -> Any:
    """How far it is, and what came of it; kept for 30 days after its end. One of a rollout needs the scope
    rollouts:read, an export telemetry:read.
    """
    found = Operation.objects.defer("frozen").select_related("rollout").filter(id=operation_id).first()
    if found is not None:
        require(request, "rollouts:read")
        within.require_rollout(request, found.rollout)
        return operation_json(found)
    if within.limit_of(request) is not None:  # an export is of the whole fleet
        raise Http404(f"no operation {operation_id}")
    return export_json(_export(request, operation_id))


@router.post(
    "/operations/{operation_id}/cancel", auth=_READ, response=dict[str, Any], summary="Cancel an operation"
)
@idempotent(is_required=False)
def cancel_operation(request: HttpRequest, operation_id: uuid.UUID) -> Any:
    """End an export that is not finished; what it wrote is deleted. Whoever asked for it may, and an
    administrator. A start of a rollout is ended by cancelling the rollout.
    """
    started = Operation.objects.defer("frozen").filter(id=operation_id).first()
    if started is not None:
        require(request, "rollouts:read")
        detail = f"cancel the rollout instead: POST /api/v1/rollouts/{started.rollout_id}/cancel"
        raise ApiProblem("illegal_transition", detail, state=str(started.state), allowed=[])
    job = _export(request, operation_id)
    if job.asked_by.person != person(request):
        require(request, "users:admin")
    return export_json(export_jobs.cancel(job, actor=actor(request), now=timezone.now()))


def _export(request: HttpRequest, operation_id: uuid.UUID) -> ExportJob:
    job = ExportJob.objects.filter(pk=operation_id).first()
    if job is None:
        raise Http404(f"no operation {operation_id}")
    require(request, "telemetry:read")
    return job


def export_json(job: ExportJob) -> dict[str, Any]:
    """A large export as it is told. `progress` counts rows, total null until they are counted; `result`: the
    file once it succeeded, while it is kept; `problem`: as of any operation.
    """
    is_there = export_jobs.file_of(job) is not None
    told = job.problem
    kept = job.finished_at + export_jobs.KEPT if job.finished_at and is_there else None
    return {
        "id": str(job.id),
        "kind": "telemetry.export",
        "state": str(job.state),
        "progress": {"done": job.done, "total": job.total},
        "result": f"/api/v1/telemetry/exports/{job.id}" if is_there else None,
        "bytes": job.size,
        "kept_until": stamp(kept),
        "problem": document(status_of(told["code"]), told["code"], told["text"]) if told else None,
        "asked_by": job.asked_by.name,
        "asked_at": stamp(job.asked_at),
        "finished_at": stamp(job.finished_at),
    }


def operation_json(row: Operation) -> dict[str, Any]:
    """An operation as it is told. `progress` counts devices; `result`: where to look once it succeeded;
    `problem`: of a failed one, as an error would have been answered.
    """
    is_done = row.state == OperationState.SUCCEEDED
    told = row.problem
    return {
        "id": str(row.id),
        "kind": row.kind,
        "state": str(row.state),
        "rollout": str(row.rollout_id),
        "progress": {"done": row.done, "total": row.total},
        "result": f"/api/v1/rollouts/{row.rollout_id}" if is_done else None,
        "problem": document(status_of(told["code"]), told["code"], told["text"]) if told else None,
        "asked_by": row.asked_by.name,
        "asked_at": stamp(row.asked_at),
        "finished_at": stamp(row.finished_at),
    }
