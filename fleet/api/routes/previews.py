"""What a plan would mean for the fleet, without storing anything."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router

from fleet.api import within
from fleet.api.auth import Scope
from fleet.api.routes.rollouts import RolloutBody, manifest_of
from ota import rollouts
from ota.models import Rollout
from ota.plan import Plan
from ota.targeting import Target

router = Router(tags=["rollouts"])


@router.post("/rollouts:preview", auth=Scope("rollouts:read", knows_limits=True), response=dict[str, Any])
def preview(request: HttpRequest, body: RolloutBody) -> Any:
    """Who the target reaches, how the waves fall, what they can show, and why preflight would fail."""
    within.require_target(request, body.target.dict(), body.plan)
    manifest, _ = manifest_of(body.model, body.version, body.slot)
    target = Target.parse(body.target.dict())
    now = timezone.now()
    target.check(now=now)
    draft = Rollout(
        name=body.name,
        manifest=manifest,
        slot=body.slot,
        target=target.to_json(),
        plan=Plan.parse(body.plan).to_json(),
        created_at=now,
    )
    return rollouts.preview(draft, now=now)
