"""What an administrator changes about a person: role, whether they may sign in, which devices they see.

Nobody changes themselves, and the last administrator stays one: an installation that nobody can administer
is mended only on its machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import F, Q

from fleet.accounts import audit, sessions
from fleet.accounts.audit import Actor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import Invitation, Role, User

MAX_GROUPS: Final = 50
_NAME: Final = 32


@dataclass(frozen=True)
class Change:
    """What changes; None leaves a value as it is. group_limit: names, or `no_limit` to see all devices."""

    role: str | None = None
    is_active: bool | None = None
    group_limit: Sequence[str] | None = None
    no_limit: bool = False


def change(user: User, asked: Change, *, rev: int, actor: Actor, now: datetime) -> User:
    """Change a person as they were at revision `rev`. A disabled person's sessions end at once, and their
    tokens count no more; what they invited others by ends with their being administrator.

    What is as asked for already is left alone. Raises AccountError `validation` (nothing named, no such
    role), `in_use` (oneself, or the last administrator), `stale`.
    """
    values = _values(user, asked)
    if actor.kind in ("user", "token") and actor.person == user.username:
        raise AccountError("in_use", "this is your own account: another administrator changes it")
    if not values and user.rev == rev:
        return user
    with transaction.atomic():
        # all administrators are locked, in one order, so that two cannot demote each other at once
        admins = User.objects.select_for_update().filter(role=Role.ADMIN, is_active=True).order_by("pk")
        others = [row for row in admins if row.pk != user.pk]
        stays = values.get("role", user.role) == Role.ADMIN and values.get("is_active", user.is_active)
        was = user.role == Role.ADMIN and user.is_active
        if was and not stays and not others:
            raise AccountError("in_use", f"{user.username} is the last administrator who may sign in")
        before = {name: getattr(user, name) for name in values}
        if User.objects.filter(pk=user.pk, rev=rev).update(rev=F("rev") + 1, **values) != 1:
            raise AccountError("stale", f"{user.username} was changed meanwhile: read them again")
        audit.record(
            actor=actor,
            verb="user.change",
            subject_kind="user",
            subject_id=user.username,
            at=now,
            before=before,
            after=values,
        )
        if was and not stays:
            _end_invitations(user, actor=actor, now=now)
        if values.get("is_active") is False:
            sessions.end_others(user, None, actor=actor, now=now)
    user.refresh_from_db()
    return user


def check_limit(names: Sequence[str] | None) -> list[str] | None:
    """A limit as it is stored: each name once, sorted. Raises AccountError `validation`."""
    if names is None:
        return None
    found = sorted(set(names))
    if len(found) > MAX_GROUPS or any(not 1 <= len(name) <= _NAME for name in found):
        raise AccountError("validation", f"at most {MAX_GROUPS} names of groups", field="groups")
    return found


def _values(user: User, asked: Change) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if asked.role is not None:
        if asked.role not in Role.values:
            raise AccountError("validation", f"a role is one of {', '.join(Role.values)}", field="role")
        values["role"] = asked.role
    if asked.is_active is not None:
        values["is_active"] = asked.is_active
    if asked.no_limit:
        values["group_limit"] = None
    elif asked.group_limit is not None:
        values["group_limit"] = check_limit(asked.group_limit)
    if not values:
        raise AccountError("validation", "name what is to change: role, is_active or groups")
    return {name: value for name, value in values.items() if value != getattr(user, name)}


def _end_invitations(user: User, *, actor: Actor, now: datetime) -> None:
    waiting = Invitation.objects.filter(Q(made_by=user.username), used_at=None, revoked_at=None)
    for row in waiting.filter(expires_at__gt=now):
        audit.record(
            actor=actor,
            verb="invitation.revoke",
            subject_kind="invitation",
            subject_id=str(row.pk),
            at=now,
            reason=f"{user.username} is no administrator any more",
        )
    waiting.update(revoked_at=now)
