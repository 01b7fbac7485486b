"""API tokens in the console: made by anybody for themselves, shown once, ended for good."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import ApiToken, AuditEvent, User
from tests.console.conftest import show_again

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db
NEW = {"name": "nightly", "days": "30", "scopes": ["devices:read", "models:read"]}


def test_a_viewer_makes_a_token_that_works_and_sees_its_value_once(as_role: AsRole) -> None:
    client = as_role("viewer")
    assert 'data-test="empty"' in client.get("/settings/tokens").content.decode()
    made = client.post("/settings/tokens", NEW)
    assert made.status_code == 201
    assert "no-store" in made["Cache-Control"]
    value = re.search(r'data-test="token-value">(tfk_\w+)<', made.content.decode())
    assert value is not None
    row = tokens.authenticate(value[1], now=timezone.now())
    assert (row.owner.username, row.scopes) == ("viewer-of-test", ["devices:read", "models:read"])
    assert row.expires_at is not None
    assert timedelta(days=29) < row.expires_at - timezone.now() < timedelta(days=31)
    again = client.get("/settings/tokens").content.decode()
    assert value[1] not in again
    assert f"tfk_{row.public_id}_…" in again
    assert "nightly" in again
    assert AuditEvent.objects.get(verb="token.issue").actor == "viewer-of-test"
    bearer = {"HTTP_AUTHORIZATION": f"Bearer {value[1]}"}
    assert client.get("/api/v1/devices", **bearer).status_code == 200
    client.post(f"/settings/tokens/{row.public_id}/revoke")
    assert client.get("/api/v1/devices", **bearer).status_code == 401
    assert 'data-state="revoked"' in client.get("/settings/tokens").content.decode()


@pytest.mark.parametrize(
    "changes",
    [{"scopes": ["keys:admin"]}, {"scopes": []}, {"name": ""}, {"name": "x" * 65}, {"days": "9999"}],
)
def test_more_than_one_may_or_nothing_at_all_is_refused_and_what_was_typed_stays(
    as_role: AsRole, changes: dict[str, object]
) -> None:
    client = as_role("viewer")
    refused = client.post("/settings/tokens", NEW | changes)
    assert refused.status_code == 422
    assert 'aria-invalid="true"' in refused.content.decode() or "error-scopes" in refused.content.decode()
    assert not ApiToken.objects.exists()
    assert "keys:admin" not in client.get("/settings/tokens").content.decode()


def test_only_an_administrator_sees_and_ends_what_others_have(as_role: AsRole) -> None:
    admin, viewer = as_role("admin"), as_role("viewer")
    admin.post("/settings/tokens", NEW)
    row = ApiToken.objects.get()
    assert f"tfk_{row.public_id}" not in viewer.get("/settings/tokens?all=1").content.decode()
    assert viewer.post(f"/settings/tokens/{row.public_id}/revoke").status_code == 404
    viewer.post("/settings/tokens", NEW | {"name": "of a viewer"})
    assert "of a viewer" not in admin.get("/settings/tokens").content.decode()
    assert "of a viewer" in admin.get("/settings/tokens?all=1").content.decode()
    theirs = ApiToken.objects.get(name="of a viewer")
    answer = admin.post(f"/settings/tokens/{theirs.public_id}/revoke")
    assert (answer.status_code, answer["Location"]) == (303, "/settings/tokens?all=1")
    theirs.refresh_from_db()
    assert theirs.revoked_at is not None


def test_an_expired_token_says_so(as_role: AsRole) -> None:
    client = as_role("viewer")
    owner = User.objects.get(username="viewer-of-test")
    long_ago = timezone.now() - timedelta(days=40)
    tokens.issue(owner, "old", ["devices:read"], actor=SYSTEM, now=long_ago, ttl=timedelta(days=1))
    assert 'data-state="expired"' in client.get("/settings/tokens").content.decode()


def test_a_token_is_bound_to_networks_on_its_page(as_role: AsRole) -> None:
    client = as_role("viewer")
    client.post("/settings/tokens", NEW | {"networks": "10.1.0.0/16, 192.0.2.7"})
    row = ApiToken.objects.get()
    assert row.networks == ["10.1.0.0/16", "192.0.2.7/32"]
    assert "from 10.1.0.0/16, 192.0.2.7/32" in client.get("/settings/tokens").content.decode()
    path = f"/settings/tokens/{row.public_id}"
    html = client.get(path).content.decode()
    assert 'value="10.1.0.0/16, 192.0.2.7/32"' in html
    assert "You are at <code>127.0.0.1</code>" in html
    wrong = client.post(path, {"networks": "10.1.0.1/16", "rev": "1"})
    assert wrong.status_code == 422
    assert 'data-test="error-networks"' in wrong.content.decode()
    assert client.post(path, {"networks": "", "rev": "1"}).status_code == 303
    stale = client.post(path, {"networks": "10.0.0.0/8", "rev": "1"})
    assert stale.status_code == 409
    assert "stale: " in stale.content.decode()
    row.refresh_from_db()
    assert (row.networks, row.rev) == (None, 2)
    assert AuditEvent.objects.get(verb="token.change").actor == "viewer-of-test"
    assert client.post("/settings/tokens", NEW | {"networks": "the office"}).status_code == 422
    assert ApiToken.objects.count() == 1


def test_changing_a_token_asks_for_the_password_again(as_role: AsRole) -> None:
    client = as_role("viewer")
    client.post("/settings/tokens", NEW)
    row = ApiToken.objects.get()
    show_again(client, ago_s=3600)
    path = f"/settings/tokens/{row.public_id}"
    assert client.get(path).status_code == 200
    for one in (path, f"{path}/rotate"):
        asked = client.post(one, {"networks": "10.0.0.0/8", "rev": "1", "grace_hours": "0"})
        assert (asked.status_code, asked["Location"]) == (303, f"/reauth?next={quote(one, safe='')}")
    before, digest = row.rev, bytes(row.digest)
    row.refresh_from_db()
    assert (row.rev, bytes(row.digest)) == (before, digest)


def test_a_new_secret_is_shown_once_to_its_owner_and_to_nobody_else(as_role: AsRole) -> None:
    owner, admin = as_role("viewer"), as_role("admin")
    owner.post("/settings/tokens", NEW)
    row = ApiToken.objects.get()
    path = f"/settings/tokens/{row.public_id}"
    assert 'data-test="rotate-token"' not in admin.get(path).content.decode()
    assert admin.post(f"{path}/rotate", {"grace_hours": "0"}).status_code == 403
    assert as_role("operator").get(path).status_code == 404
    assert 'data-test="rotate-token"' in owner.get(path).content.decode()
    assert owner.post(f"{path}/rotate", {"grace_hours": "2"}).status_code == 422
    done = owner.post(f"{path}/rotate", {"grace_hours": "1"})
    assert "no-store" in done["Cache-Control"]
    value = re.search(r'data-test="token-value">(tfk_\w+)<', done.content.decode())
    assert value is not None
    assert tokens.authenticate(value[1], now=timezone.now()).pk == row.pk
    with CaptureQueriesContext(connection) as seen:
        again = owner.get(path).content.decode()
    assert len(seen) <= 5, "session, person, token, and what every page asks"
    assert value[1] not in again
    assert 'data-test="former-until"' in again
    owner.post(f"{path}/revoke")
    assert owner.post(f"{path}/rotate", {"grace_hours": "0"}).status_code == 409
    over = owner.get(path).content.decode()
    assert 'data-state="revoked"' in over
    assert 'data-test="networks-form"' not in over


def test_a_form_for_a_new_secret_that_is_sent_twice_makes_one(as_role: AsRole) -> None:
    client = as_role("viewer")
    client.post("/settings/tokens", NEW)
    path = f"/settings/tokens/{ApiToken.objects.get().public_id}"
    drawn = re.findall(r'name="once" value="([^"]+)"', client.get(f"{path}/rotate").content.decode())
    said = {"grace_hours": "1", "once": drawn[0]}
    assert client.post(f"{path}/rotate", said | {"grace_hours": "2"}).status_code == 422
    done = client.post(f"{path}/rotate", said)
    assert done.status_code == 201, "what was refused before left no number behind"
    again = client.post(f"{path}/rotate", said, HTTP_REFERER=f"http://testserver{path}/rotate")
    assert (again.status_code, again["Location"]) == (303, path)
    assert "it was done once" in client.get(path).content.decode()
    assert AuditEvent.objects.filter(verb="token.rotate").count() == 1
    value = re.search(r'data-test="token-value">(tfk_\w+)<', done.content.decode())
    assert value is not None
    assert tokens.authenticate(value[1], now=timezone.now()), "the secret that was shown is the one"
    fresh = re.findall(r'name="once" value="([^"]+)"', client.get(f"{path}/rotate").content.decode())
    assert client.post(f"{path}/rotate", said | {"once": fresh[0]}).status_code == 201
    assert AuditEvent.objects.filter(verb="token.rotate").count() == 2
