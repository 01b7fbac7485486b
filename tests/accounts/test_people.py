"""Changing people: nobody changes themselves, one administrator stays, a disabled person is out at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client

from fleet.accounts import invitations, people, tokens
from fleet.accounts.audit import SYSTEM, Actor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import AuditEvent, Invitation, SignIn, User
from fleet.accounts.people import Change

pytestmark = pytest.mark.django_db
DANA = Actor("user", "dana")


def change(user: User, now: datetime, actor: Actor = DANA, **asked: Any) -> User:
    return people.change(user, Change(**asked), rev=user.rev, actor=actor, now=now)


def test_a_role_changes_with_its_revision_and_is_recorded(viewer: User, now: datetime) -> None:
    done = change(viewer, now, role="operator", group_limit=["b", "a", "a"])
    assert (done.role, done.group_limit, done.rev) == ("operator", ["a", "b"], 2)
    row = AuditEvent.objects.get(verb="user.change")
    assert (row.actor, row.subject_id) == ("dana", "viewer")
    assert (row.before, row.after) == (
        {"role": "viewer", "group_limit": None},
        {"role": "operator", "group_limit": ["a", "b"]},
    )
    with pytest.raises(AccountError, match="stale"):
        people.change(done, Change(role="viewer"), rev=1, actor=DANA, now=now)
    assert change(done, now, role="operator").rev == 2, "what is so already is left alone"
    assert change(done, now, no_limit=True).group_limit is None
    for asked in ({}, {"role": "emperor"}, {"group_limit": ["x" * 33]}, {"group_limit": ["g"] * 1 + [""]}):
        with pytest.raises(AccountError, match="validation"):
            change(done, now, **asked)


def test_nobody_changes_themselves_nor_the_last_administrator(make_user: Any, now: datetime) -> None:
    dana, kim = make_user("admin", "dana"), make_user("admin", "kim")
    for who in (DANA, Actor("token", "dana/tfk_0123")):
        with pytest.raises(AccountError, match="in_use"):
            change(dana, now, actor=who, role="viewer")
    kim = change(kim, now, role="viewer")
    for asked in ({"role": "viewer"}, {"is_active": False}):
        with pytest.raises(AccountError, match="in_use"):
            change(dana, now, actor=SYSTEM, **asked)
    assert User.objects.get(username="dana").role == "admin"
    change(kim, now, role="admin")
    change(dana, now, actor=SYSTEM, is_active=False)


@pytest.mark.django_db(transaction=True)
def test_two_administrators_who_demote_each_other_at_once_leave_one(make_user: Any, now: datetime) -> None:
    pair = [make_user("admin", "dana"), make_user("admin", "kim")]

    def demote(user: User) -> str:
        try:
            change(
                user, now, actor=Actor("user", "kim" if user.username == "dana" else "dana"), role="viewer"
            )
            return "done"
        except AccountError as error:
            return error.code
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(demote, pair)) == ["done", "in_use"]
    assert User.objects.filter(role="admin").count() == 1


def test_a_disabled_person_is_out_at_once(make_user: Any, now: datetime) -> None:
    user = make_user("operator", "olga")
    client = Client()
    client.post("/login", {"username": "olga", "password": "pass-olga-word"})
    assert client.get("/devices").status_code == 200
    _, text = tokens.issue(user, "ci", ["devices:read"], actor=SYSTEM, now=now)
    user.refresh_from_db()
    user = change(user, now, is_active=False)
    assert client.get("/devices").status_code == 302
    assert SignIn.objects.count() == 0
    with pytest.raises(tokens.TokenError, match="token_invalid"):
        tokens.authenticate(text, now=now)
    change(user, now, is_active=True)
    assert client.get("/devices").status_code == 302, "the old session stays ended"


def test_an_invitation_makes_one_account_within_seven_days(now: datetime) -> None:
    made, path = invitations.invite(
        "operator", email=" kim@example.org ", group_limit=["a"], actor=DANA, now=now
    )
    token = path.removeprefix("/invitation/")
    assert token not in repr(list(Invitation.objects.values())) + repr(list(AuditEvent.objects.values()))
    assert invitations.find(token, now=now + timedelta(days=7)) is None
    assert invitations.find(token[:-1] + "x", now=now) is None
    assert invitations.find(token, now=now) == made
    for name, password, field in (("a b", "a long enough phrase", "username"), ("kim", "short", None)):
        with pytest.raises(ValidationError) as told:
            invitations.accept(made, name, password, actor=DANA, now=now)
        assert field is None or field in told.value.message_dict
    User.objects.create_user("Kim", password="x")
    with pytest.raises(AccountError, match="duplicate"):
        invitations.accept(made, "kim", "a long enough phrase", actor=DANA, now=now)
    user = invitations.accept(made, "kim2", "a long enough phrase", actor=Actor("user", "kim2"), now=now)
    user.refresh_from_db()
    assert (user.role, user.email, user.group_limit) == ("operator", "kim@example.org", ["a"])
    assert invitations.find(token, now=now) is None
    with pytest.raises(AccountError, match="illegal_transition"):
        invitations.accept(made, "kim3", "a long enough phrase", actor=DANA, now=now)
    assert not User.objects.filter(username="kim3").exists()
    verbs = AuditEvent.objects.order_by("id").values_list("verb", flat=True)
    assert list(verbs) == ["invitation.make", "invitation.accept", "user.create"]


def test_an_invitation_can_be_revoked_and_ends_with_who_made_it(make_user: Any, now: datetime) -> None:
    make_user("admin", "kim")
    dana = make_user("admin", "dana")
    one, path = invitations.invite("admin", actor=DANA, now=now)
    assert invitations.revoke(one, actor=DANA, now=now)
    assert not invitations.revoke(one, actor=DANA, now=now)
    assert invitations.find(path.removeprefix("/invitation/"), now=now) is None
    _, path = invitations.invite("admin", actor=Actor("token", "dana/tfk_01"), now=now)
    change(dana, now, actor=Actor("user", "kim"), role="operator")
    assert invitations.find(path.removeprefix("/invitation/"), now=now) is None
    assert AuditEvent.objects.filter(verb="invitation.revoke").count() == 2


def test_the_link_is_mailed_when_a_server_is_configured(
    now: datetime, settings: Any, mailoutbox: Any
) -> None:
    made, path = invitations.invite("viewer", email="kim@example.org", actor=DANA, now=now)
    assert not invitations.mail(made, path)
    settings.EMAIL_IS_CONFIGURED, settings.PUBLIC_URL = True, "https://fleet.example.org/"
    assert invitations.mail(made, path)
    (message,) = mailoutbox
    assert message.to == ["kim@example.org"]
    assert f"https://fleet.example.org{path}\n" in message.body
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    assert not invitations.mail(made, path), "nobody listens there"


@pytest.mark.parametrize(
    ("role", "email"),
    [("emperor", ""), ("viewer", "no address"), ("viewer", "a@b.example\nBcc: x@y.example")],
)
def test_what_is_no_invitation_is_refused(role: str, email: str, now: datetime) -> None:
    with pytest.raises(AccountError, match="validation"):
        invitations.invite(role, email=email, actor=DANA, now=now)
    assert Invitation.objects.count() == 0
