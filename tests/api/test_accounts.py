"""Tokens and the audit trail over REST."""

from typing import Any

import pytest

from fleet.accounts.models import ApiToken, AuditEvent
from fleet.api.routes.stream import _may_go_on
from fleet.devices.groups import MAX_GROUPS
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


def test_a_token_gets_a_new_secret_and_the_old_one_a_grace_when_that_is_asked_for(call: Caller) -> None:
    made = call("POST", "/tokens", {"name": "ci", "scopes": ["devices:read"]}).json()
    path, old = f"/tokens/{made['id']}", f"Bearer {made['token']}"
    first = call("POST", f"{path}/rotate", {})
    assert (first.status_code, first["ETag"]) == (200, '"2"')
    assert first.json()["former_secret_until"] is None
    assert call("GET", "/devices", AUTHORIZATION=old).json()["code"] == "token_invalid"
    now_held = f"Bearer {first.json()['token']}"
    assert call("GET", "/devices", AUTHORIZATION=now_held).status_code == 200
    second = call("POST", f"{path}/rotate", {"grace_hours": 1}).json()
    assert second["former_secret_until"]
    for text in (now_held, f"Bearer {second['token']}"):
        assert call("GET", "/devices", AUTHORIZATION=text).status_code == 200
    shown = call("GET", path).json()
    assert "token" not in shown
    call("DELETE", path)
    refused = call("POST", f"{path}/rotate", {})
    assert (refused.status_code, refused.json()["state"]) == (409, "revoked")
    assert call("POST", f"{path}/rotate", {"grace_hours": 169}).json()["code"] == "validation"


def test_nobody_gets_a_secret_that_acts_for_somebody_else_or_does_more(call: Caller) -> None:
    theirs = call.as_role("viewer").token
    refused = call("POST", f"/tokens/{theirs.public_id}/rotate", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    small = call.as_role("admin", ["users:admin"])
    wider = call("POST", "/tokens", {"name": "wide", "scopes": ["keys:admin"]}).json()
    refused = small("POST", f"/tokens/{wider['id']}/rotate", {})
    assert (refused.status_code, refused.json()["scope"]) == (403, "keys:admin")
    assert not AuditEvent.objects.filter(verb="token.rotate").exists()


def test_a_token_is_bound_to_networks_and_moved_under_its_revision(call: Caller) -> None:
    made = call(
        "POST",
        "/tokens",
        {"name": "ci", "scopes": ["devices:read"], "networks": ["10.1.0.0/16", "127.0.0.1"]},
    ).json()
    assert made["networks"] == ["10.1.0.0/16", "127.0.0.1/32"]
    path, bearer = f"/tokens/{made['id']}", f"Bearer {made['token']}"
    assert call("GET", "/devices", AUTHORIZATION=bearer).status_code == 200
    assert call("PATCH", path, {"networks": ["10.1.0.0/16"]}).json()["code"] == "if_match_required"
    shown = bytes(ApiToken.objects.get(public_id=made["id"]).digest)
    assert not _may_go_on(made["id"], shown, "rollouts", "127.0.0.1"), "its scopes name no rollouts"
    assert _may_go_on(made["id"], shown, "device:d1", "127.0.0.1")
    assert not _may_go_on(made["id"], shown, "device:d1", "192.0.2.1"), "an open stream ends too"
    changed = call("PATCH", path, {"networks": ["10.1.0.0/16"]}, if_match=call("GET", path)["ETag"])
    assert (changed.status_code, changed["ETag"]) == (200, '"2"')
    refused = call("GET", "/devices", AUTHORIZATION=bearer)
    assert (refused.status_code, refused.json()["code"]) == (401, "token_invalid")
    assert call("PATCH", path, {"networks": None}, if_match='"1"').status_code == 412
    wrong = call("PATCH", path, {"networks": ["10.1.0.1/16"]}, if_match='"2"').json()
    assert (wrong["code"], wrong["errors"][0]["pointer"]) == ("validation", "/networks")
    assert call("PATCH", path, {"networks": None}, if_match='"2"').json()["networks"] is None
    assert call("GET", "/devices", AUTHORIZATION=bearer).status_code == 200
    assert call("PATCH", path, {}, if_match='"3"').json()["code"] == "validation"


@pytest.fixture
def bound(call: Caller) -> Caller:
    """An administrator's token that is taken from this machine and one network only."""
    made = call.as_role("admin")
    ApiToken.objects.filter(pk=made.token.pk).update(networks=["127.0.0.1/32", "10.1.0.0/16"])
    return made


@pytest.mark.parametrize(
    ("networks", "status"),
    [
        (None, 403),
        (["0.0.0.0/0"], 403),
        (["10.0.0.0/8"], 403),
        (["10.1.2.0/24", "10.2.0.0/16"], 403),
        (["::/0"], 403),
        (["nowhere"], 422),
        (["10.1.0.0/16"], 200),
        (["10.1.2.3", "127.0.0.1"], 200),
    ],
)
def test_a_token_bound_to_networks_frees_neither_itself_nor_another(
    call: Caller, bound: Caller, networks: list[str] | None, status: int
) -> None:
    code = {403: "scope_missing", 422: "validation"}.get(status)
    other = call("POST", "/tokens", {"name": "wide", "scopes": ["devices:read"]}).json()["id"]
    for public_id in (bound.token.public_id, other):
        before = ApiToken.objects.get(public_id=public_id).networks
        etag = call("GET", f"/tokens/{public_id}")["ETag"]
        answer = bound("PATCH", f"/tokens/{public_id}", {"networks": networks}, if_match=etag)
        assert (answer.status_code, answer.json().get("code")) == (status, code)
        if status != 200:
            assert ApiToken.objects.get(public_id=public_id).networks == before
        ApiToken.objects.filter(pk=bound.token.pk).update(networks=["127.0.0.1/32", "10.1.0.0/16"])
    n = ApiToken.objects.count()
    body = {"name": "more", "scopes": ["devices:read"], "networks": networks}
    answer = bound("POST", "/tokens", body)
    assert (answer.status_code, answer.json().get("code")) == (201 if status == 200 else status, code)
    assert ApiToken.objects.count() == n + (status == 200)


@pytest.mark.parametrize(
    ("networks", "status"),
    [(None, 403), (["10.0.0.0/8"], 403), (["127.0.0.1/32"], 200), (["10.1.9.0/24"], 200)],
)
def test_a_token_bound_to_networks_gets_no_secret_that_works_elsewhere(
    call: Caller, bound: Caller, networks: list[str] | None, status: int
) -> None:
    other = call("POST", "/tokens", {"name": "x", "scopes": ["devices:read"], "networks": networks}).json()[
        "id"
    ]
    answer = bound("POST", f"/tokens/{other}/rotate", {})
    assert answer.status_code == status
    assert AuditEvent.objects.filter(verb="token.rotate").exists() is (status == 200)
    if status == 403:
        assert answer.json()["code"] == "scope_missing"
    assert bound("POST", f"/tokens/{bound.token.public_id}/rotate", {}).status_code == 200, (
        "its own stays bound"
    )


def test_a_token_without_networks_binds_and_frees_as_it_is_asked(call: Caller) -> None:
    made = call(
        "POST", "/tokens", {"name": "x", "scopes": ["devices:read"], "networks": ["10.0.0.0/8"]}
    ).json()
    assert call("POST", f"/tokens/{made['id']}/rotate", {}).status_code == 200
    assert call("PATCH", f"/tokens/{made['id']}", {"networks": None}, if_match='"2"').status_code == 200


def test_a_header_that_the_caller_writes_changes_no_address(call: Caller) -> None:
    body = {"name": "ci", "scopes": ["devices:read"], "networks": ["10.1.0.0/16"]}
    bearer = f"Bearer {call('POST', '/tokens', body).json()['token']}"
    for name in ("X_FORWARDED_FOR", "X_REAL_IP", "FORWARDED"):
        answer = call("GET", "/devices", AUTHORIZATION=bearer, **{name: "10.1.2.3"})
        assert answer.status_code == 401, name


def test_quotas_name_what_is_enforced_and_count_the_asking_tokens_calls(call: Caller, settings: Any) -> None:
    settings.API_RATES = {"reads": 50, "writes": 20, "telemetry-queries": 0}
    call("GET", "/devices")
    call("POST", "/groups", {"name": "line", "kind": "static"})
    told = {one["name"]: one for one in call("GET", "/quotas").json()["items"]}
    assert (told["reads"]["limit"], told["reads"]["used"], told["reads"]["per"]) == (50, 2, "minute")
    assert 0 < told["reads"]["reset_s"] <= 60
    assert (told["writes"]["limit"], told["writes"]["used"]) == (20, 1)
    assert (told["telemetry_queries"]["limit"], told["telemetry_queries"]["used"]) == (None, None)
    assert (told["groups"]["limit"], told["groups"]["used"]) == (MAX_GROUPS, 1)
    assert told["model_upload"] == {
        "name": "model_upload", "unit": "bytes", "per": "request", "limit": 16 * 1024 * 1024, "used": None,
        "reset_s": None,
    }  # fmt: skip
    other = call.as_role("viewer")("GET", "/quotas").json()["items"][0]
    assert (other["name"], other["used"]) == ("reads", 1), "of the asking token only"
