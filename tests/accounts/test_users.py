"""The first administrator is made once, with a password that is known to its maker alone."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from fleet.accounts import users
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import AuditEvent, Role, User

pytestmark = pytest.mark.django_db


def test_the_first_administrator_is_made_once(now: Any) -> None:
    password = users.ensure_admin(now)
    assert password is not None
    assert len(password) >= 20
    made = User.objects.get(username="admin")
    assert made.role == Role.ADMIN
    assert made.check_password(password)
    assert users.ensure_admin(now) is None
    made.refresh_from_db()
    assert made.check_password(password), "a second call leaves the password alone"
    events = AuditEvent.objects.filter(verb="user.create")
    assert events.count() == 1
    assert password not in repr(events.values().get())


def test_an_administrator_under_another_name_is_enough(make_user: Any, now: Any) -> None:
    make_user("admin", "dana")
    assert users.ensure_admin(now) is None
    assert not User.objects.filter(username="admin").exists()


def test_a_weak_password_makes_no_user(now: Any) -> None:
    with pytest.raises(ValidationError):
        users.create_user("kim", Role.VIEWER, "short", actor=SYSTEM, now=now)
    assert not User.objects.filter(username="kim").exists()
    users.create_user("kim", Role.VIEWER, "a long enough phrase", actor=SYSTEM, now=now)
    assert AuditEvent.objects.get(verb="user.create").subject_id == "kim"
