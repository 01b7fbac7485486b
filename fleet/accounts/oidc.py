"""Who a person of an identity provider is here: by issuer and subject, which never change.

An e-mail address is no identity: providers let people choose it. It counts once, when it is verified and an
administrator has invited exactly this address; from then on the subject does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, transaction

from fleet.accounts import audit, invitations, people
from fleet.accounts.audit import Actor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import Identity, Invitation, Role, User

_CHOSEN: Final = re.compile(r"[^\w.@+-]")
_RANKS: Final = [Role.ADMIN, Role.APPROVER, Role.OPERATOR, Role.VIEWER]
MOST_NAMES: Final = 50


@dataclass(frozen=True)
class Rules:
    """What a claim means here. roles: value of `role_claim` -> role; with no entry the provider says nothing
    about roles, and who was invited keeps the invitation's. group_claim: names the claim with the device
    groups that a person is limited to; "" when the provider says nothing about them.
    """

    roles: Mapping[str, str]
    role_claim: str = "roles"
    group_claim: str = ""

    @classmethod
    def of_settings(cls) -> Rules:
        """As the installation is configured (FLEET_OIDC_ROLES, _ROLE_CLAIM, _GROUP_CLAIM)."""
        return cls(settings.OIDC_ROLES, settings.OIDC_ROLE_CLAIM, settings.OIDC_GROUP_CLAIM)

    def role(self, claims: Mapping[str, Any]) -> str | None:
        """The highest role that the claims give, `viewer` when they give none, None without a map."""
        if not self.roles:
            return None
        given = {self.roles[value] for value in _texts(claims.get(self.role_claim)) if value in self.roles}
        return next((str(role) for role in _RANKS if role in given), str(Role.VIEWER))

    def change(self, claims: Mapping[str, Any]) -> people.Change | None:
        """What the claims change about a person; None when the provider says nothing about it."""
        if not self.roles and not self.group_claim:
            return None
        limit = people.check_limit(_texts(claims.get(self.group_claim))) if self.group_claim else None
        return people.Change(role=self.role(claims), group_limit=limit)


def person_for(issuer: str, claims: Mapping[str, Any], *, rules: Rules, actor: Actor, now: datetime) -> User:
    """The person whom the provider's claims mean, as the claims have them now; made when they are invited.

    Raises AccountError `not_found` for somebody who is neither known nor invited, or is disabled.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise AccountError("validation", "the provider names no subject")
    known = Identity.objects.select_related("user").filter(issuer=issuer, subject=subject).first()
    if known is not None:
        if not known.user.is_active:
            raise AccountError("not_found", "this account is disabled")
        return _as_claimed(known.user, claims, rules, actor=actor, now=now)
    found = _invitation(claims, now=now)
    if found is None:
        raise AccountError("not_found", "nobody has invited you: ask an administrator, with your address")
    try:
        with transaction.atomic():
            user = _make(found, claims, rules, actor=actor, now=now)
            Identity.objects.create(issuer=issuer, subject=subject, user=user, made_at=now)
    except IntegrityError:
        raise AccountError("illegal_transition", "this was done twice at once: sign in again") from None
    return user


def _invitation(claims: Mapping[str, Any], *, now: datetime) -> Invitation | None:
    email = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(email, str) or not email.strip():
        return None
    return invitations.waiting(now).filter(email__iexact=email.strip()[:254]).first()


def _make(found: Invitation, claims: Mapping[str, Any], rules: Rules, *, actor: Actor, now: datetime) -> User:
    """An account without a password, in the transaction that uses the invitation up."""
    name = _free_name(claims, found)
    invitations.claim(found, name, actor=actor, now=now)
    change = rules.change(claims)
    role = rules.role(claims) or found.role
    limit = change.group_limit if change is not None and rules.group_claim else found.group_limit
    user: User = User.objects.create_user(name, email=found.email, role=role, group_limit=limit)
    audit.record(
        actor=actor,
        verb="user.create",
        subject_kind="user",
        subject_id=name,
        at=now,
        after={"role": role, "group_limit": limit, "by": "identity provider"},
    )
    return user


def _as_claimed(user: User, claims: Mapping[str, Any], rules: Rules, *, actor: Actor, now: datetime) -> User:
    """The person with role and groups that the provider says now; the last administrator stays one."""
    change = rules.change(claims)
    if change is None:
        return user
    try:
        return people.change(user, change, rev=user.rev, actor=actor, now=now)
    except AccountError as error:
        if error.code != "in_use":
            raise
        return user


def _free_name(claims: Mapping[str, Any], found: Invitation) -> str:
    """A user name from what the provider calls them; the text is theirs to choose, so it is cut to a name."""
    wanted = claims.get("preferred_username")
    text = wanted if isinstance(wanted, str) and wanted else found.email.partition("@")[0]
    base = _CHOSEN.sub("-", User.normalize_username(text))[:100].strip("-.") or "person"
    for n in range(1, 1000):
        name = base if n == 1 else f"{base}-{n}"
        if not User.objects.filter(username__iexact=name).exists():
            return name
    raise AccountError("duplicate", "no user name is free")


def _texts(value: Any) -> list[str]:
    """A claim as a list of texts: providers send one, or many."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items[:MOST_NAMES] if isinstance(item, str) and 0 < len(item) <= 32]
