"""Invitations: a link that makes one account, once, within seven days. Only a keyed digest of it is kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.crypto import salted_hmac

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import Invitation, Role, User
from fleet.accounts.people import check_limit
from fleet.accounts.users import create_user

log = structlog.get_logger(__name__)
VALID: Final = timedelta(days=7)
MAX_WAITING: Final = 200


def invite(
    role: str,
    *,
    actor: Actor,
    now: datetime,
    email: str = "",
    group_limit: Sequence[str] | None = None,
) -> tuple[Invitation, str]:
    """Make an invitation. The address path of the pair is shown once and can never be read again.

    Raises AccountError `validation` for a role, an address or a limit that is none, or when MAX_WAITING wait.
    """
    if role not in Role.values:
        raise AccountError("validation", f"a role is one of {', '.join(Role.values)}", field="role")
    email = email.strip()
    if email:
        try:
            validate_email(email)
        except ValidationError:
            raise AccountError("validation", "this is no e-mail address", field="email") from None
    limit = check_limit(group_limit)
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        if waiting(now).count() >= MAX_WAITING:
            raise AccountError("validation", f"{MAX_WAITING} invitations wait already: revoke some")
        made = Invitation.objects.create(
            digest=_digest(token),
            email=email,
            role=role,
            group_limit=limit,
            made_by=actor.person,
            made_at=now,
            expires_at=now + VALID,
        )
        audit.record(
            actor=actor,
            verb="invitation.make",
            subject_kind="invitation",
            subject_id=str(made.pk),
            at=now,
            after={"role": role, "email": email, "group_limit": limit},
        )
    return made, f"/invitation/{token}"


def waiting(now: datetime) -> QuerySet[Invitation]:
    """Invitations that can still be taken."""
    return Invitation.objects.filter(used_at=None, revoked_at=None, expires_at__gt=now)


def find(token: str, *, now: datetime) -> Invitation | None:
    """The invitation of a link, while it can be taken."""
    return waiting(now).filter(digest=_digest(token)).first() if len(token) <= 64 else None


def accept(found: Invitation, name: str, password: str, *, actor: Actor, now: datetime) -> User:
    """Take the place: make the account, and use the invitation up. Of two at once, one gets it.

    Raises AccountError `illegal_transition` (used, revoked or over meanwhile), `duplicate` (the name, also
    when it differs in case alone), django's ValidationError with the field `username` or `password`.
    """
    made = User(username=User.normalize_username(name.strip()), role=found.role, password="unset")  # noqa: S106
    made.clean_fields(exclude=["password"])
    try:
        with transaction.atomic():
            claim(found, made.username, actor=actor, now=now)
            if User.objects.filter(username__iexact=made.username).exists():
                raise AccountError("duplicate", "this user name is in use", field="username")
            user = create_user(made.username, Role(found.role), password, actor=actor, now=now)
            user.email, user.group_limit = found.email, found.group_limit
            user.save(update_fields=["email", "group_limit"])
    except IntegrityError:
        raise AccountError("duplicate", "this user name is in use", field="username") from None
    return user


def claim(found: Invitation, name: str, *, actor: Actor, now: datetime) -> None:
    """Use an invitation up, in the transaction that makes the account.

    Raises AccountError `illegal_transition` for all but one of those who try.
    """
    if waiting(now).filter(pk=found.pk).update(used_at=now) != 1:
        raise AccountError("illegal_transition", "this invitation was used, or ended, meanwhile")
    audit.record(
        actor=actor,
        verb="invitation.accept",
        subject_kind="invitation",
        subject_id=str(found.pk),
        at=now,
        after={"user": name, "role": found.role},
    )


def revoke(found: Invitation, *, actor: Actor, now: datetime) -> bool:
    """End an invitation. True for the call that ended it; one that was used stays used."""
    with transaction.atomic():
        rows = Invitation.objects.filter(pk=found.pk, used_at=None, revoked_at=None)
        if rows.update(revoked_at=now) != 1:
            return False
        audit.record(
            actor=actor,
            verb="invitation.revoke",
            subject_kind="invitation",
            subject_id=str(found.pk),
            at=now,
        )
    return True


def mail(found: Invitation, path: str) -> bool:
    """Send the link to the address of the invitation, when there is one and a mail server is configured.

    Call it after the transaction. True when the server took it; a failure is logged and the link is still
    good.
    """
    if not found.email or not settings.EMAIL_IS_CONFIGURED:
        return False
    text = (
        f"{found.made_by} invites you to the TinyFleet installation at {settings.PUBLIC_URL} as {found.role}."
        f"\n\nChoose a user name and a password here, until {found.expires_at:%Y-%m-%d %H:%M} UTC:\n\n"
        f"{settings.PUBLIC_URL.rstrip('/')}{path}\n\nThe link works once. Not expected? Ignore it.\n"
    )
    try:
        return send_mail("Your invitation to TinyFleet", text, None, [found.email]) == 1
    except OSError as error:  # smtplib's errors are OSErrors too
        log.warning("invitation_not_mailed", invitation=str(found.pk), error=str(error)[:200])
        return False


def _digest(token: str) -> bytes:
    return salted_hmac("fleet.accounts.invitations", token, algorithm="sha256").digest()
