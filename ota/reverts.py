"""Taking back what a finished rollout left: a new rollout of kind `revert`; the finished one stays as it is.

It runs the same machine (preflight, waves, gates, audit), offers action 1 and so loads nothing: each device
tries the model in its other bank again. Devices that do not hold it there are left out as `not_in_bank`; a
rollout of the version signed anew reaches those.
"""

from __future__ import annotations

import secrets
from collections import Counter
from datetime import datetime
from typing import Any

from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from ota import rollback_target
from ota.choices import JobState
from ota.models import Manifest, Rollout
from ota.offers import install_jobs
from ota.permits import permitted
from ota.plan import NOWHERE, Plan
from ota.rollback_target import RollbackError
from ota.targeting import MAX_NAMED, Target

VERB = "create-revert"
_FEW = 20
"""Fewer devices than this go back in one wave."""


def create_revert(rollout: Rollout, *, actor: Actor, now: datetime, reason: str = "") -> Rollout:
    """A draft that takes confirmed devices of a completed rollout back to what most of them ran before.

    Its plan may be edited like any other. Raises IllegalTransition when the rollout is not completed,
    RollbackError (`rollback_unavailable`) when its plan has no way back, none of its devices ran a model
    before, or they are more than a target can name.
    """
    with transaction.atomic():
        before = permitted(rollout, VERB)
        if before.plan.get("rollback_to") == NOWHERE:
            rollback_target.available(before)
        manifest, ids = _most(before)
        plan, kept = Plan.parse(before.plan), {"max_in_flight", "max_in_flight_later", "soak_s", "timers"}
        stored: dict[str, Any] = {name: value for name, value in plan.to_json().items() if name in kept}
        share = [] if len(ids) < _FEW else [{"percent": 10}]
        stored |= {"waves": [*share, {"percent": 100}], "on_fail": "halt"}
        made = Rollout.objects.create(
            name=f"Revert of {before.name}"[:80],
            kind="revert",
            reverts=before,
            manifest=manifest,
            slot=before.slot,
            target=Target(devices=tuple(ids)).to_json(),
            plan=Plan.parse(stored).to_json(),
            salt=secrets.token_bytes(16),
            reason=reason,
            created_by=actor.name,
            created_at=now,
        )
        audit.record(
            actor=actor,
            verb="rollout.create_revert",
            subject_kind="rollout",
            subject_id=str(made.pk),
            at=now,
            after={"reverts": str(before.pk), "manifest": manifest.mid, "devices": len(ids)},
            reason=reason,
        )
    return made


def _most(rollout: Rollout) -> tuple[Manifest, list[str]]:
    """The manifest that most confirmed devices go back to, and these devices."""
    done = install_jobs(rollout).filter(state=JobState.CONFIRMED, device__retired_at=None)
    ids = sorted(set(done.values_list("device_id", flat=True)))
    goals = rollback_target.goals(rollout, ids)
    found = Counter(target for target in goals.values() if target)
    if not found:
        raise RollbackError("none of its devices ran a model before", "roll out another version")
    target, count = found.most_common(1)[0]
    if count > MAX_NAMED:
        raise RollbackError(f"{count:,} devices would go back, a target names at most {MAX_NAMED:,}")
    return Manifest.objects.get(pk=target), [name for name in ids if goals[name] == target]
