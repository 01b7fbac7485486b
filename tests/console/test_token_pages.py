"""API tokens in the console: made by anybody for themselves, shown once, ended for good."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import ApiToken, AuditEvent, User

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
