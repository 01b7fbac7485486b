"""What the verdicts of a rollout rested on."""

import uuid
from typing import Any

from django.http import Http404, HttpRequest
from ninja import Router

from fleet.api import within
from fleet.api.auth import Scope
from fleet.api.paging import page
from fleet.api.render import stamp
from fleet.api.routes.rollouts import rollout_of
from fleet.api.sorting import Sorts
from ota.evidence import CODE_VERSION, recheck
from ota.models import Evidence

router = Router(tags=["rollouts"])
SORTS = Sorts(Evidence, {"id": "id"}, default="-id")


@router.get("/{rollout_id}/gate", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any])
def list_evidence(
    request: HttpRequest,
    rollout_id: uuid.UUID,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
) -> Any:
    """Verdicts so far, newest first."""
    rollout = rollout_of(rollout_id)
    within.require_rollout(request, rollout)
    return page(
        Evidence.objects.filter(rollout=rollout).select_related("wave"),
        order=SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"rollout": str(rollout_id)},
        render=_evidence,
    )


@router.get(
    "/{rollout_id}/gate/{evidence_id}",
    auth=Scope("rollouts:read", knows_limits=True),
    response=dict[str, Any],
)
def get_evidence(request: HttpRequest, rollout_id: uuid.UUID, evidence_id: uuid.UUID) -> Any:
    """One verdict with everything it rested on, judged again: `recheck` says whether it is still the same."""
    row = (
        Evidence.objects.select_related("wave", "rollout")
        .filter(rollout_id=rollout_id, id=evidence_id)
        .first()
    )
    if row is None:
        raise Http404(f"no evidence {evidence_id} of this rollout")
    within.require_rollout(request, row.rollout)
    again = recheck(row)
    found = {"is_same": again.is_same, "verdict": again.verdict, "problem": again.problem}
    return {**_evidence(row), "inputs": row.inputs, "recheck": {**found, "code_version": CODE_VERSION}}


def _evidence(row: Evidence) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "wave": row.wave.n,
        "at": stamp(row.at),
        "verdict": row.verdict,
        "rows": row.rows,
        "inputs_sha256": row.inputs_sha256,
        "code_version": row.code_version,
    }
