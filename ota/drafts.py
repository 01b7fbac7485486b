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
    alias: str = "",
) -> Rollout:
    """Store a draft. slot: None = the manifest's. target: as `ota.targeting.Target` reads it, None = all.
    alias: what the version was asked for by (`ota.aliases.named`), "" = by its own name.

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
            alias=alias,
            slot=manifest.slot if slot is None else slot,
            target=aim.to_json(),
            plan=parsed.to_json(),
            salt=secrets.token_bytes(16),
            created_by=actor.name,
            authors=[actor.person],
            created_at=now,
        )
        _audit(rollout, "rollout.create", actor, now, after={"name": name, **_version_words(manifest, alias)})
    return rollout


def edit(
    rollout: Rollout,
    *,
    actor: Actor,
    now: datetime,
    name: str | None = None,
    plan: Plan | Mapping[str, Any] | None = None,
    target: Mapping[str, Any] | None = None,
    manifest: Manifest | None = None,
    alias: str = "",
) -> Rollout:
    """Change a rollout that has not started; it goes back to `draft` and what was approved is void.

    manifest: another version, in its own slot; alias: what it was asked for by, counts only beside manifest.
    Whoever changes it is one of its authors from then on; whoever says again what is stored is not. Raises as
    `create`, ImmutableError for one that has started or ended, RolloutError `validation` for another version
    of a revert: it takes back what it was drafted for.
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
    if manifest is not None:
        values |= {"manifest": manifest, "alias": alias, "slot": manifest.slot}
    with transaction.atomic():
        fresh = permitted(rollout, "edit")
        if manifest is not None and fresh.kind == "revert" and manifest.pk != fresh.manifest_id:
            raise RolloutError("validation", "a revert keeps its version: make a new rollout for another one")
        changed = {name for name, value in values.items() if getattr(fresh, name) != value}
        if changed:
            values["authors"] = sorted({*approval.authors(fresh), actor.person})
        approval.void(fresh, now=now)
        was_draft = fresh.state == RolloutState.DRAFT
        before = _version_words(fresh.manifest, fresh.alias) if manifest is not None else None
        if was_draft:
            if not Rollout.objects.filter(pk=fresh.pk, state=fresh.state, rev=fresh.rev).update(
                rev=fresh.rev + 1, **values
            ):
                raise refused(rollout, "edit")
        elif not move_rollout(fresh, RolloutState.DRAFT, actor=actor, now=now, summary={}, **values):
            raise refused(rollout, "edit")
        if was_draft or manifest is not None:  # the move to draft is in the trail by itself
            after: dict[str, Any] = {"changed": sorted(changed)}
            if manifest is not None:
                after |= _version_words(manifest, alias)
            _audit(fresh, "rollout.edit", actor, now, before=before, after=after)
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


def _version_words(manifest: Manifest, alias: str) -> dict[str, str]:
    return {"manifest": manifest.mid} | ({"alias": alias} if alias else {})


def _audit(
    rollout: Rollout,
    verb: str,
    actor: Actor,
    now: datetime,
    *,
    after: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> None:
    audit.record(
        actor=actor,
        verb=verb,
        subject_kind="rollout",
        subject_id=str(rollout.pk),
        at=now,
        before=before,
        after=after,
    )
