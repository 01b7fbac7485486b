"""People who sign in: the first administrator, and users that an administrator adds."""

import secrets
from datetime import datetime

from django.contrib.auth.hashers import make_password
from django.contrib.auth.password_validation import validate_password
from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.accounts.models import Role, User
from fleet.accounts.scopes import ROLE_SCOPES as ROLE_SCOPES

FIRST_ADMIN = "admin"


def ensure_admin(now: datetime) -> str | None:
    """Make the first administrator, named `admin`. Returns the password, shown once, or None when an
    administrator exists.

    Safe to call twice and from two processes: the unique name decides, and only its maker learns the
    password.
    """
    if User.objects.filter(role=Role.ADMIN, is_active=True).exists():
        return None
    password = secrets.token_urlsafe(15)
    with transaction.atomic():
        # One INSERT ... ON CONFLICT DO NOTHING would hide who won; get_or_create tells it, and keeps a racing
        # loser from overwriting.
        _, is_new = User.objects.get_or_create(
            username=FIRST_ADMIN,
            defaults={"role": Role.ADMIN, "is_staff": False, "password": make_password(password)},
        )
        if not is_new:
            return None
        audit.record(
            actor=SYSTEM,
            verb="user.create",
            subject_kind="user",
            subject_id=FIRST_ADMIN,
            at=now,
            after={"role": Role.ADMIN.value},
        )
    return password


def create_user(name: str, role: Role, password: str, *, actor: Actor, now: datetime) -> User:
    """Add a person.

    Raises django's ValidationError for a weak password and IntegrityError for a name in use.
    """
    validate_password(password)
    with transaction.atomic():
        user: User = User.objects.create_user(name, password=password, role=role)
        audit.record(
            actor=actor,
            verb="user.create",
            subject_kind="user",
            subject_id=name,
            at=now,
            after={"role": role.value},
        )
    return user


def set_password(user: User, password: str, *, actor: Actor, now: datetime) -> None:
    """Give a person another password; every session that began with the old one ends.

    Raises django's ValidationError for a weak one.
    """
    validate_password(password, user)
    with transaction.atomic():
        user.set_password(password)
        user.save(update_fields=["password"])
        audit.record(
            actor=actor, verb="user.set_password", subject_kind="user", subject_id=user.username, at=now
        )
