"""Tokens and the audit trail over REST."""

import pytest

from fleet.accounts.models import ApiToken
from tests.api.conftest import Caller

pytestmark = pytest.mark.django_db


def test_a_token_is_shown_once_works_and_ends(call: Caller) -> None:
    made = call("POST", "/tokens", {"name": "ci", "scopes": ["devices:read"], "days": 30})
    assert made.status_code == 201
    text, public_id = made.json()["token"], made.json()["id"]
    bearer = f"Bearer {text}"
    assert call("GET", "/devices", AUTHORIZATION=bearer).status_code == 200
    assert call("GET", "/models", AUTHORIZATION=bearer).json()["scope"] == "models:read"
    listed = call("GET", "/tokens")
    assert public_id in [item["id"] for item in listed.json()["items"]]
    secret = text.rsplit("_", 1)[1]
    assert secret not in listed.content.decode()
    row = ApiToken.objects.get(public_id=public_id)
    assert row.expires_at is not None
    assert (row.expires_at - row.created_at).days == 30
    assert call("DELETE", f"/tokens/{public_id}").status_code == 204
    assert call("GET", "/devices", AUTHORIZATION=bearer).json()["code"] == "token_invalid"
    assert call("DELETE", f"/tokens/{public_id}").status_code == 204, "ending twice is one end"
    trail = call("GET", f"/audit?subject_kind=token&subject_id={public_id}&verb=token.revoke")
    assert len(trail.json()["items"]) == 1


def test_a_token_makes_none_that_can_do_more_than_itself(call: Caller) -> None:
    limited = call.as_role("admin", ["users:admin", "devices:read"])
    answer = limited("POST", "/tokens", {"name": "more", "scopes": ["devices:read", "models:sign"]})
    assert (answer.status_code, answer.json()["scope"]) == (403, "models:sign")
    assert limited("POST", "/tokens", {"name": "less", "scopes": ["devices:read"]}).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "scopes": ["devices:read"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["devices:fly"]},
        {"name": "x", "scopes": ["devices:read"], "days": 0},
        {"name": "x", "scopes": ["devices:read"], "days": 367},
        {"name": "x", "scopes": ["devices:read"], "owner": "root"},
    ],
)
def test_a_token_that_cannot_be_is_refused(call: Caller, body: object) -> None:
    before = ApiToken.objects.count()
    answer = call("POST", "/tokens", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert ApiToken.objects.count() == before


def test_unknown_tokens_are_404(call: Caller) -> None:
    assert call("DELETE", "/tokens/0000000000000000").status_code == 404


def test_the_audit_trail_says_who_did_what_to_what(call: Caller) -> None:
    for name in ("kws", "vib", "wake"):
        assert call("POST", "/models", {"name": name}, X_REQUEST_ID=f"req-{name}").status_code == 201
    page = call("GET", "/audit?verb=model.create&limit=2").json()
    rest = call("GET", f"/audit?verb=model.create&limit=2&cursor={page['next']}").json()
    rows = page["items"] + rest["items"]
    assert [row["subject"] for row in rows] == [
        {"kind": "model", "id": name} for name in ("wake", "vib", "kws")
    ]
    assert rows[0]["request_id"] == "req-wake"
    assert rows[0]["actor"] == {"kind": "token", "name": f"admin/tfk_{call.token.public_id}"}
    assert rows[0]["source_ip"] == "127.0.0.1"
    (one,) = call("GET", "/audit?subject_kind=model&subject_id=vib").json()["items"]
    assert one["verb"] == "model.create"
