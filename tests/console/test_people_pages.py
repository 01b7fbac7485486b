"""People in the console: list, invitation, change."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

import pytest
from django.core import cache as django_cache
from django.test import Client
from django.utils import timezone

from fleet.accounts import second_factor
from fleet.accounts.models import AuditEvent, Invitation, SecondFactor, User
from fleet.devices import groups
from tests.accounts.authenticator import code_at
from tests.console import rows
from tests.console.conftest import show_again
from tests.console.test_rollout_pages import AsRole

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _clean_cache() -> None:
    django_cache.cache.clear()


def test_an_administrator_invites_and_the_invited_person_signs_in(as_role: AsRole) -> None:
    client = as_role("admin")
    assert "Nobody is invited" in client.get("/settings/users").content.decode()
    answer = client.post("/settings/invitations", {"role": "operator", "email": "kim@example.org"})
    assert answer.status_code == 201
    html = unescape(answer.content.decode())
    assert "hand the link over yourself" in html
    link = re.search(r'data-test="link">http://[^/]+(/invitation/[\w-]+)<', html)
    assert link is not None
    listed = client.get("/settings/users").content.decode()
    assert "kim@example.org" in listed
    assert link[1] not in listed, "the link is shown once"
    guest = Client()
    assert "invites you as operator" in guest.get(link[1]).content.decode()
    refused = guest.post(link[1], {"username": "kim kim", "password": "short"})
    assert refused.status_code == 422
    assert 'data-test="error-username"' in refused.content.decode()
    weak = guest.post(link[1], {"username": "kim", "password": "short"})
    assert 'data-test="error-password"' in weak.content.decode()
    assert guest.post(link[1], {"username": "kim", "password": "a long enough phrase"}).status_code == 303
    assert guest.get("/account").context["user"].username == "kim"
    assert Client().get(link[1]).status_code == 404
    assert "Nobody is invited" in client.get("/settings/users").content.decode()


def test_an_invitation_can_be_taken_back_and_guessing_links_waits(as_role: AsRole) -> None:
    client = as_role("admin")
    client.post("/settings/invitations", {"role": "viewer"})
    row = Invitation.objects.get()
    assert client.post(f"/settings/invitations/{row.pk}/revoke")["Location"] == "/settings/users"
    row.refresh_from_db()
    assert row.revoked_at is not None
    made = client.post("/settings/invitations", {"role": "viewer"}).content.decode()
    link = re.search(r"/invitation/[\w-]+", made)
    assert link is not None
    for _ in range(5):
        assert Client().get("/invitation/guess").status_code == 404
    assert Client().get(link[0]).status_code == 404, "this address waits now"


@pytest.mark.parametrize(
    ("typed", "field"),
    [({"role": "viewer", "email": "x"}, "email"), ({"role": "viewer", "groups": "q"}, "groups")],
)
def test_what_is_no_invitation_stays_in_the_form(as_role: AsRole, typed: dict[str, str], field: str) -> None:
    answer = as_role("admin").post("/settings/invitations", typed)
    assert answer.status_code == 422
    html = answer.content.decode()
    assert f'data-test="error-{field}"' in html
    assert f'value="{typed[field]}"' in html
    assert Invitation.objects.count() == 0


def test_a_person_is_changed_and_a_second_change_of_the_same_page_is_refused(
    as_role: AsRole, viewer: User, filled: rows.Filled
) -> None:
    groups.create("pilot", kind="static", actor=rows.ADMIN, now=timezone.now())
    client = as_role("admin")
    page = client.get("/settings/users/viewer").content.decode()
    assert 'name="rev" value="1"' in page
    typed = {"role": "operator", "is_active": "1", "groups": "pilot", "rev": "1"}
    assert client.post("/settings/users/viewer", typed)["Location"] == "/settings/users"
    viewer.refresh_from_db()
    assert (viewer.role, viewer.group_limit, viewer.is_active) == ("operator", ["pilot"], True)
    stale = client.post("/settings/users/viewer", {**typed, "role": "viewer"})
    assert stale.status_code == 409
    assert "stale" in stale.content.decode()
    assert "They are operator now" in unescape(stale.content.decode())
    assert client.post("/settings/users/viewer", {**typed, "rev": "2", "groups": "nope"}).status_code == 422
    assert client.post("/settings/users/viewer", {**typed, "rev": "x"}).status_code == 409
    assert client.post("/settings/users/viewer", {**typed, "rev": "2", "groups": "-"}).status_code == 303
    viewer.refresh_from_db()
    assert viewer.group_limit == []
    own = client.post("/settings/users/admin-of-test", {**typed, "groups": ""})
    assert own.status_code == 409
    assert "your own account" in own.content.decode()
    assert client.get("/settings/users/nobody").status_code == 404


def test_nobody_else_sees_people_and_changing_asks_again(as_role: AsRole, viewer: User) -> None:
    for role in ("viewer", "operator", "approver"):
        client = as_role(role)
        assert client.get("/settings/users").status_code == 403
        assert client.post("/settings/users/viewer", {"role": "admin"}).status_code == 403
        assert client.post("/settings/invitations", {"role": "admin"}).status_code == 403
        assert "/settings/users" not in client.get("/account").content.decode()
    client = as_role("admin")
    assert "/settings/users" in client.get("/account").content.decode()
    show_again(client, ago_s=601)
    asked = client.post("/settings/invitations", {"role": "admin", "email": "kim@example.org"})
    assert asked["Location"] == "/reauth?next=%2Fsettings%2Fusers"
    client.post("/reauth", {"password": "pass-admin-of-test-word", "next": "/settings/users"})
    assert 'value="kim@example.org"' in client.get("/settings/users").content.decode()
    assert Invitation.objects.count() == 0


def test_a_text_that_cannot_be_stored_is_refused_and_no_fault(as_role: AsRole, viewer: User) -> None:
    client = as_role("admin")
    made = client.post("/settings/invitations", {"role": "viewer", "groups": "a\0b"})
    changed = client.post("/settings/users/viewer", {"role": "viewer", "groups": "\0", "rev": "1"})
    for answer in (made, changed, client.get("/settings/users/%00"), client.get("/devices/%00")):
        assert answer.status_code == 422
        assert "validation" in answer.content.decode()
    assert Invitation.objects.count() == 0


def test_an_administrator_takes_a_lost_second_factor_away_with_a_reason(
    as_role: AsRole, make_user: Callable[..., User]
) -> None:
    now, client, kim = timezone.now(), as_role("admin"), make_user("operator", "kim")
    path, page = "/settings/users/kim/second-factor/remove", "/settings/users/kim"
    none = client.post(path, {"reason": "lost"})
    assert (none.status_code, "has no second factor" in none.content.decode()) == (409, True)
    factor = second_factor.begin(kim, now=now)
    code = code_at(second_factor.secret_text(factor), now)
    assert second_factor.confirm(factor, code, actor=rows.ADMIN, now=now) is not None
    assert 'data-test="remove-second-factor"' in client.get(page).content.decode()
    assert client.post(path, {"reason": " "}).status_code == 422
    assert as_role("operator").post(path, {"reason": "lost"}).status_code == 403
    assert client.post("/settings/users/nobody/second-factor/remove", {"reason": "lost"}).status_code == 404
    own = client.post("/settings/users/admin-of-test/second-factor/remove", {"reason": "lost"})
    assert (own.status_code, "your own second factor" in own.content.decode()) == (409, True)
    show_again(client, ago_s=3_600)
    asked = client.post(path, {"reason": "her phone is gone"})
    assert asked["Location"] == "/reauth?next=%2Fsettings%2Fusers%2Fkim"
    assert SecondFactor.objects.filter(user=kim).exists(), "it asks again first"
    show_again(client)
    assert 'value="her phone is gone"' in client.get(page).content.decode(), "what was typed is kept"
    done = client.post(path, {"reason": "her phone is gone"})
    assert (done.status_code, done["Location"]) == (303, page)
    html = client.get(page).content.decode()
    assert "The second factor of kim is removed" in html
    assert 'data-test="remove-second-factor"' not in html
    assert not SecondFactor.objects.filter(user=kim).exists()
    row = AuditEvent.objects.get(verb="second_factor.remove")
    assert (row.actor, row.subject_id, row.reason) == ("admin-of-test", "kim", "her phone is gone")
