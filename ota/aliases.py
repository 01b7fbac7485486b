"""Aliases: names such as `stable` that point to a version of a model, and where they pointed before.

An alias decides nothing on devices: it is how scripts and people say which version they mean, with a history
that nobody rewrites. Where a rollout is asked for by an alias, it is resolved when the draft is made, or when
its version is chosen anew, and not at the submission or the start: the draft, its review and its approval are
about one manifest, and what was shown is what runs, wherever the alias points by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.mqtt import topics
from ota.choices import VersionState
from ota.errors import OtaError, RegistryError
from ota.models import ModelAlias, ModelVersion, Rollout
from ota.transitions import IllegalTransition

HISTORY: Final = 50
"""Changes of an alias that are told, newest first."""
_NEVER: Final = (VersionState.REFUSED, VersionState.YANKED)


class StaleAlias(OtaError):
    """An alias was changed since it was read: `stale`. etag: of what it is now."""

    def __init__(self, row: ModelAlias) -> None:
        super().__init__(
            "stale",
            f"{row.name} points to {row.version.version} now, changed by {row.changed_by}",
            "read it again",
        )
        self.etag = f'"{row.rev}"'


@dataclass(frozen=True)
class Moved:
    """One change of an alias. was: version it pointed to, "" when it was made."""

    at: datetime
    actor: str
    was: str
    now: str
    reason: str


def point(
    version: ModelVersion,
    name: str,
    *,
    rev: int | None,
    reason: str = "",
    actor: Actor,
    now: datetime,
) -> ModelAlias:
    """Make an alias of the version's model point to it. The same again changes nothing and is no error.

    rev: the revision that whoever asks has read; None: there was none. Raises RegistryError `validation` for
    the name, IllegalTransition for a version that was refused or taken back, StaleAlias for another revision,
    also when somebody else made it meanwhile.
    """
    if not topics.is_model_name(name):
        raise RegistryError(
            "validation",
            "an alias is 1 to 32 of a-z, 0-9, dot, underscore and hyphen, not starting with a sign",
        )
    try:
        with transaction.atomic():
            # A version that is taken back in this moment waits here, or is seen as taken back.
            state = (
                ModelVersion.objects.select_for_update().values_list("state", flat=True).get(pk=version.pk)
            )
            if state in _NEVER:
                raise IllegalTransition(state, [], asked="alias")
            row = aliases(version.model_id).filter(name=name).first()
            if row is None or rev is None:
                return _made(version, name, row, rev, reason, actor, now)
            return _moved(version, row, rev, reason, actor, now)
    except IntegrityError:  # made by somebody else after it was looked for
        raise StaleAlias(aliases(version.model_id).get(name=name)) from None


def aliases(model_name: str) -> QuerySet[ModelAlias]:
    """Aliases of a model with the versions they point to, by name."""
    return ModelAlias.objects.filter(model_id=model_name).select_related("version").order_by("name")


def named(model_name: str, name: str) -> tuple[ModelVersion, str] | None:
    """The version of a model that has this name, or that the alias of this name points to now.

    Second: the alias that was asked for, "" when it was the version's own name, which goes before an alias of
    the same spelling. None when there is neither.
    """
    row = ModelVersion.objects.filter(model_id=model_name, version=name).first()
    if row is not None:
        return row, ""
    alias = aliases(model_name).filter(name=name).first()
    return (alias.version, alias.name) if alias is not None else None


def moved_to(rollout: Rollout) -> str | None:
    """Where the alias that a rollout was asked for by points now, when that is not the rollout's version any
    more; "" when there is no such alias any more. None: it still does, or the version was named itself.
    """
    if not rollout.alias:
        return None
    version = rollout.manifest.version
    now = aliases(version.model_id).filter(name=rollout.alias).first()
    if now is None:
        return ""
    return None if now.version_id == version.pk else now.version.version


def history(rows: Sequence[ModelAlias]) -> dict[str, list[Moved]]:
    """Changes of some aliases by their names, newest first, HISTORY of all of them together."""
    names = {row.subject_id: row.name for row in rows}
    found: dict[str, list[Moved]] = {row.name: [] for row in rows}
    events = AuditEvent.objects.filter(subject_kind="alias", subject_id__in=list(names)).order_by(
        "-at", "-id"
    )
    for event in events[:HISTORY]:
        before, after = event.before or {}, event.after or {}
        found[names[event.subject_id]].append(
            Moved(event.at, event.actor, before.get("version", ""), after.get("version", ""), event.reason)
        )
    return found


def _made(
    version: ModelVersion,
    name: str,
    row: ModelAlias | None,
    rev: int | None,
    reason: str,
    actor: Actor,
    now: datetime,
) -> ModelAlias:
    if row is not None:  # nobody has read it, so nobody may move it
        raise StaleAlias(row)
    if rev is not None:
        raise RegistryError("not_found", f"{version.model_id} has no alias {name}")
    made = ModelAlias.objects.create(
        model_id=version.model_id, name=name, version=version, changed_at=now, changed_by=actor.name
    )
    _record(made, None, version, reason, actor, now)
    return made


def _moved(
    version: ModelVersion, row: ModelAlias, rev: int, reason: str, actor: Actor, now: datetime
) -> ModelAlias:
    before = row.version
    if before.pk == version.pk and row.rev == rev:
        return row
    written = ModelAlias.objects.filter(pk=row.pk, rev=rev).update(
        version=version, rev=F("rev") + 1, changed_at=now, changed_by=actor.name
    )
    if not written:
        row.refresh_from_db()
        raise StaleAlias(row)
    row.refresh_from_db()
    _record(row, before, version, reason, actor, now)
    return row


def _record(
    row: ModelAlias,
    before: ModelVersion | None,
    after: ModelVersion,
    reason: str,
    actor: Actor,
    now: datetime,
) -> None:
    audit.record(
        actor=actor,
        verb="alias.set",
        subject_kind="alias",
        subject_id=row.subject_id,
        at=now,
        before={"version": before.version} if before else None,
        after={"version": after.version},
        reason=reason,
    )
