"""Operations: the start of a rollout, which a worker does, and how far such work is."""

import uuid
from typing import Any

from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Router

from fleet.api import within
from fleet.api.auth import Scope, actor
from fleet.api.errors import document, status_of
from fleet.api.idempotency import idempotent
from fleet.api.render import stamp
from fleet.api.routes.rollouts import VerbBody, expect, rollout_of
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


@router.get(
    "/operations/{operation_id}", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any]
)
def get_operation(request: HttpRequest, operation_id: uuid.UUID) -> Any:
    """How far it is, and what came of it; kept for 30 days after its end."""
    found = Operation.objects.defer("frozen").select_related("rollout").filter(id=operation_id).first()
    if found is None:
        raise Http404(f"no operation {operation_id}")
    within.require_rollout(request, found.rollout)
    return operation_json(found)


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
