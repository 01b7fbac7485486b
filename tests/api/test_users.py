"""People and invitations over REST."""

import pytest
from django.test import Client
from django.utils import timezone

from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import Invitation
from fleet.devices import groups
from tests.api.conftest import Caller

pytestmark = pytest.mark.django_db


def test_a_person_is_read_and_changed_by_revision(call: Caller) -> None:
    call.as_role("viewer")
    listed = call("GET", "/users").json()["items"]
    assert [row["name"] for row in listed] == ["admin", "viewer"]
    assert listed[1] == {
        **listed[1],
        "role": "viewer",
        "is_active": True,
        "groups": None,
        "has_second_factor": False,
        "last_sign_in_at": None,
    }
    answer = call("GET", "/users/viewer")
    assert "password" not in answer.content.decode()
    assert call("PATCH", "/users/viewer", {"role": "operator"}).json()["code"] == "if_match_required"
    groups.create("line", kind="static", actor=SYSTEM, now=timezone.now())
    body = {"role": "operator", "groups": ["line"]}
    done = call("PATCH", "/users/viewer", body, IF_MATCH=answer["ETag"])
    assert (done.json()["role"], done.json()["groups"], done["ETag"]) == ("operator", ["line"], '"2"')
    stale = call("PATCH", "/users/viewer", {"is_active": False}, IF_MATCH=answer["ETag"])
    assert (stale.status_code, stale.json()["etag"]) == (412, '"2"')
    free = call("PATCH", "/users/viewer", {"groups": None}, IF_MATCH='"2"')
    assert free.json()["groups"] is None
    own = call("PATCH", "/users/admin", {"role": "viewer"}, IF_MATCH="*")
    assert (own.status_code, own.json()["code"]) == (409, "in_use")
    assert call("GET", "/users/nobody").status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "validation"),
        ({"role": "emperor"}, "validation"),
        ({"role": None}, "validation"),
        ({"is_active": None}, "validation"),
        ({"password": "x"}, "validation"),
        ({"groups": ["none-such"]}, "unknown_group"),
        ({"groups": ["\0"]}, "validation"),
        ({"groups": ["g"] * 51}, "validation"),
    ],
)
def test_a_change_that_cannot_be_is_refused(call: Caller, body: object, code: str) -> None:
    call.as_role("viewer")
    answer = call("PATCH", "/users/viewer", body, IF_MATCH="*")
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert call("GET", "/users/viewer").json()["rev"] == 1


def test_an_invitation_is_made_taken_and_revoked(call: Caller) -> None:
    made = call("POST", "/users", {"role": "operator", "email": "kim@example.org"})
    assert made.status_code == 201
    link = made.json()["link"]
    assert made.json()["is_mailed"] is False
    assert link not in call("GET", "/invitations").content.decode()
    taken = Client().post(link, {"username": "kim", "password": "a long enough phrase"})
    assert (taken.status_code, taken["Location"]) == (303, "/")
    assert call("GET", "/users/kim").json()["role"] == "operator"
    second = call("POST", "/users", {"role": "viewer"}).json()
    for _ in range(2):
        assert call("DELETE", f"/invitations/{second['id']}").status_code == 204
    assert Client().get(second["link"]).status_code == 404
    assert Invitation.objects.get(pk=second["id"]).revoked_at is not None
    assert call("DELETE", "/invitations/00000000-0000-7000-8000-000000000000").status_code == 404
    for body in ({}, {"role": "x"}, {"role": "viewer", "email": "x"}, {"role": "viewer", "groups": ["none"]}):
        assert call("POST", "/users", body).status_code == 422


def test_a_token_gives_nobody_more_than_it_can_do_itself(call: Caller) -> None:
    call.as_role("viewer")
    limited = call.as_role("admin", ["users:admin", "devices:read"])
    for answer in (
        limited("POST", "/users", {"role": "operator"}),
        limited("PATCH", "/users/viewer", {"role": "admin"}, IF_MATCH="*"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert call("GET", "/users/viewer").json()["role"] == "viewer"
