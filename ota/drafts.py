"""Rollouts before they are submitted: making a draft, changing one that has not started, removing one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from ota import approval
from ota.choices import RolloutState
from ota.errors import RolloutError
from ota.models import Manifest, Rollout
from ota.permits import permitted, refreshed, refused
from ota.plan import Plan
from ota.targeting import Target
from ota.transitions import move_rollout


def create(
    name: str,
    manifest: Manifest,
    *,
    plan: Plan | Mapping[str, Any],
    actor: Actor,
    now: datetime,
    slot: int | None = None,
    target: Mapping[str, Any] | None = None,
) -> Rollout:
    """Store a draft. slot: None = the manifest's. target: as `ota.targeting.Target` reads it, None = all.

    Raises PlanError naming the field that is wrong, RolloutError `validation` for the name; then nothing is
    stored.
    """
    parsed = plan if isinstance(plan, Plan) else Plan.parse(plan)
    aim = Target.parse(target or {})
    aim.check(now=now)
    with transaction.atomic():
        rollout = Rollout.objects.create(
            name=_name(name),
            manifest=manifest,
            slot=manifest.slot if slot is None else slot,
            target=aim.to_json(),
            plan=parsed.to_json(),
            salt=secrets.token_bytes(16),
            created_by=actor.name,
            authors=[actor.person],
            created_at=now,
        )
        _audit(rollout, "rollout.create", actor, now, after={"name": name, "manifest": manifest.mid})
    return rollout


def edit(
    rollout: Rollout,
    *,
    actor: Actor,
    now: datetime,
    name: str | None = None,
    plan: Plan | Mapping[str, Any] | None = None,
    target: Mapping[str, Any] | None = None,
) -> Rollout:
    """Change a rollout that has not started; it goes back to `draft` and what was approved is void.

    Whoever changes it is one of its authors from then on. Raises as `create`, and ImmutableError for one that
    has started or ended.
    """
    values: dict[str, Any] = {}
    if name is not None:
        values["name"] = _name(name)
    if plan is not None:
        values["plan"] = (plan if isinstance(plan, Plan) else Plan.parse(plan)).to_json()
    if target is not None:
        aim = Target.parse(target)
        aim.check(now=now)
        values["target"] = aim.to_json()
    with transaction.atomic():
        fresh = permitted(rollout, "edit")
        values["authors"] = sorted({*approval.authors(fresh), actor.person})
        approval.void(fresh, now=now)
        if fresh.state == RolloutState.DRAFT:
            if not Rollout.objects.filter(pk=fresh.pk, state=fresh.state, rev=fresh.rev).update(
                rev=fresh.rev + 1, **values
            ):
                raise refused(rollout, "edit")
            _audit(fresh, "rollout.edit", actor, now, after={"changed": sorted(set(values) - {"authors"})})
        elif not move_rollout(fresh, RolloutState.DRAFT, actor=actor, now=now, summary={}, **values):
            raise refused(rollout, "edit")
    return refreshed(rollout)


def delete(rollout: Rollout, *, actor: Actor, now: datetime) -> None:
    """Remove a draft for good; its audit trail stays. Raises IllegalTransition when it is no draft any more,
    ImmutableError when it has started or ended.
    """
    with transaction.atomic():
        fresh = permitted(rollout, "delete")
        # the UPDATE locks the row: whoever was quicker is noticed, whoever is slower finds nothing
        if not Rollout.objects.filter(pk=fresh.pk, state=fresh.state, rev=fresh.rev).update(
            rev=fresh.rev + 1
        ):
            raise refused(rollout, "delete")
        _audit(fresh, "rollout.delete", actor, now, after={"name": fresh.name})
        fresh.delete()


def _name(name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= 80:
        raise RolloutError("validation", f"a name has 1 to 80 characters, this has {len(name)}")
    return name


def _audit(rollout: Rollout, verb: str, actor: Actor, now: datetime, *, after: dict[str, Any]) -> None:
    audit.record(
        actor=actor, verb=verb, subject_kind="rollout", subject_id=str(rollout.pk), at=now, after=after
    )
