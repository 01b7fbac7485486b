"""Waves of a rollout: how far each has come, and the override of one that did not pass."""

import uuid
from typing import Any

from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Router
from pydantic import Field

from fleet.api.auth import Scope, actor, role
from fleet.api.idempotency import idempotent
from fleet.api.routes.devices import Strict
from fleet.api.routes.rollouts import expect, rollout_of
from ota import rollouts

router = Router(tags=["rollouts"])


class OverrideBody(Strict):
    """Body of an override. evidence: the id of the evidence that the wave's verdict rests on, as GET tells
    it.
    """

    evidence: uuid.UUID
    reason: str = Field(min_length=1, max_length=500)
    dry_run: bool = False


@router.get("/{rollout_id}/waves", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any])
def list_waves(request: HttpRequest, rollout_id: uuid.UUID) -> Any:
    """Every wave with its devices by state, its verdict and the evidence behind it; none before the start."""
    state = rollouts.state(rollout_of(rollout_id), role=role(request), now=timezone.now())
    judged = {gate["wave"]: gate["evidence_id"] for gate in state["gates"]}
    items = [{**wave, "evidence_id": judged.get(wave["n"])} for wave in state["waves"]]
    return {"items": items, "rev": state["rev"]}


@router.post(
    "/{rollout_id}/waves/{n}/override",
    auth=Scope("rollouts:approve", knows_limits=True),
    response=dict[str, Any],
)
@idempotent(is_required=False)
def override(request: HttpRequest, rollout_id: uuid.UUID, n: int, body: OverrideBody) -> Any:
    """Let a failed or inconclusive wave count as passed, against the evidence named. It stays marked."""
    row = rollout_of(rollout_id)
    expect(request, row)
    if not row.waves.filter(n=n).exists():
        raise Http404(f"the rollout has no wave {n}")
    done = rollouts.override(
        row,
        wave=n,
        ack_evidence=body.evidence,
        reason=body.reason,
        dry_run=body.dry_run,
        actor=actor(request),
        now=timezone.now(),
    )
    return done if isinstance(done, dict) else rollouts.state(row, role=role(request), now=timezone.now())
