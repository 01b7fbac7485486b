"""Drafts as the pages of a plan make and change them: once for a form sent twice, a page at a time."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from fleet.accounts.audit import Actor
from fleet.console.models import PlanProgress
from fleet.console.plan_form import RolloutForm
from fleet.console.plan_pages import FORM_PAGES, WHAT, WHO, PlanPage, plan_of, resets, saved_after
from ota import rollouts
from ota.models import Rollout
from ota.plan import Plan

_FORMS = uuid.UUID("5f1de3c2-1c0f-4b0a-9d51-8f5b3b3f7c11")


def form_key(person: str, once: str) -> uuid.UUID:
    """What a form is known by that a page was served with: its random `once`, and whose it is."""
    return uuid.uuid5(_FORMS, f"{person}\n{once}")


def made_by(key: uuid.UUID) -> Rollout | None:
    """The draft that this form has made already."""
    found = PlanProgress.objects.select_related("rollout").filter(made_by=key).first()
    return found.rollout if found is not None else None


def make(form: RolloutForm, plan: Plan, *, key: uuid.UUID, actor: Actor, now: datetime) -> Rollout:
    """Store the draft that the first page describes. Of two forms sent at once one makes it, both get it.

    Raises as `ota.rollouts.create`.
    """
    if (made := made_by(key)) is not None:
        return made
    said = form.cleaned_data
    try:
        with transaction.atomic():
            row = rollouts.create(
                said["name"], said["manifest"], alias=form.alias, plan=plan, actor=actor, now=now
            )
            PlanProgress.objects.create(
                rollout=row, made_by=key, preset=said["preset"] or "production", saved=[WHAT.name]
            )
    except IntegrityError:
        made = made_by(key)
        if made is None:
            raise
        return made
    return row


def save(page: PlanPage, form: RolloutForm, plan: Plan, row: Rollout, *, actor: Actor, now: datetime) -> bool:
    """Save what a page changed to the row as it was read, and that the page was saved. False: no change.

    A page on which nothing was changed makes nobody an author and voids no approval. Raises as
    `ota.rollouts.edit`, StaleError when somebody was faster.
    """
    given = changes(page, form, plan, row)
    with transaction.atomic():
        if given:
            row.expected_rev = row.rev
            rollouts.edit(row, actor=actor, now=now, **given)
            row.expected_rev = None
        note(page, form, row)
    return bool(given)


def note(page: PlanPage, form: RolloutForm, row: Rollout) -> None:
    """Keep that somebody read and saved a page."""
    progress = PlanProgress.objects.select_for_update().filter(pk=row.pk).first()
    if progress is None:
        if not resets(page, form):
            return  # made elsewhere: all of its pages are saved
        progress = PlanProgress(rollout=row, saved=list(FORM_PAGES))
    progress.saved = saved_after(page, form, progress.saved)
    if resets(page, form):
        progress.preset = form.cleaned_data["preset"]
    progress.save()


def changes(page: PlanPage, form: RolloutForm, plan: Plan, row: Rollout) -> dict[str, Any]:
    """What of the row a page changes, as `ota.rollouts.edit` takes it."""
    said, changed = form.cleaned_data, form.differs_in(page.fields)
    given: dict[str, Any] = {}
    if "name" in changed:
        given["name"] = said["name"]
    if "manifest" in changed and (said["manifest"].pk != row.manifest_id or form.alias != row.alias):
        given |= {"manifest": said["manifest"], "alias": form.alias}
    if page is WHO and changed and form.target() != _aim(row):
        given["target"] = form.target()
    if plan != Plan.parse(row.plan):
        given["plan"] = plan
    return given


def _aim(row: Rollout) -> dict[str, Any]:
    """Whom a stored rollout means, every part given."""
    return {"classes": [], "devices": [], "groups": [], "q": "", **row.target}


def is_stored(page: PlanPage, form: RolloutForm, row: Rollout) -> bool:
    """True when what a page sent is what is stored: one that was sent twice is no conflict."""
    plan = plan_of(form, row) if form.is_valid() else None
    return plan is not None and not changes(page, form, plan, row)
