"""People and their invitations."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field

from fleet.accounts import invitations, people
from fleet.accounts.models import Invitation, Role, User
from fleet.accounts.scopes import ROLE_SCOPES
from fleet.api.auth import Scope, actor, require
from fleet.api.errors import ApiProblem
from fleet.api.paging import page
from fleet.api.render import stamp
from fleet.api.revisions import must_match, tag
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts
from fleet.devices import limits
from fleet.ranks import Ranked

router = Router(tags=["accounts"])
ADMIN = Scope("users:admin")
ROLE = Ranked("role", tuple(Role.values))
SORTS = Sorts(
    User,
    {"name": "username", "role": ROLE, "created_at": "date_joined", "last_sign_in_at": "last_login"},
    default="name",
    key="username",
    most=3,
)
INVITATION_SORTS = Sorts(
    Invitation,
    {"id": "id", "role": ROLE, "expires_at": "expires_at", "used_at": "used_at"},
    default="-id",
    most=2,
)


class InvitationBody(Strict):
    """Who is invited. groups: the device groups they are limited to; absent or null: all devices."""

    role: Role
    email: str = Field("", max_length=254)
    groups: list[str] | None = Field(None, max_length=people.MAX_GROUPS)


class UserPatch(Strict):
    """What changes of a person; an absent field stays. groups null: all devices."""

    role: Role | None = None
    is_active: bool | None = None
    groups: list[str] | None = Field(None, max_length=people.MAX_GROUPS)


@router.get("/users", auth=ADMIN, response=dict[str, Any])
def list_users(request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = SORTS.parameter()) -> Any:
    """People by name of sign-in."""
    rows, order = User.objects.all(), SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=user_json)


@router.get("/users/{name}", auth=ADMIN, response=dict[str, Any])
def get_user(request: HttpRequest, name: str, response: HttpResponse) -> Any:
    """One person. Their ETag is the revision that PATCH asks for."""
    return _tagged(_user(name), response)


@router.patch("/users/{name}", auth=ADMIN, response=dict[str, Any])
def change_user(request: HttpRequest, name: str, body: UserPatch, response: HttpResponse) -> Any:
    """Change role, groups, or whether they may sign in. Needs If-Match. A token gives no role that can do
    more than itself. 409 `in_use`: yourself, or the last administrator.
    """
    row, given = _user(name), body.dict(exclude_unset=True)
    must_match(request, row.rev)
    if any(given.get(field, "") is None for field in ("role", "is_active")):
        raise ApiProblem("validation", "role and is_active cannot be null")
    _may_give(request, body.role)
    limits.check(body.groups or [])
    asked = people.Change(
        role=body.role,
        is_active=body.is_active,
        group_limit=body.groups,
        no_limit="groups" in given and body.groups is None,
    )
    return _tagged(people.change(row, asked, rev=row.rev, actor=actor(request), now=timezone.now()), response)


@router.post("/users", auth=ADMIN, response={201: dict[str, Any]})
def invite_user(request: HttpRequest, body: InvitationBody) -> Any:
    """Invite a person. The link is in this answer only; it is mailed too when an address is given and a mail
    server is configured. Whoever opens it chooses name and password, within seven days.
    """
    _may_give(request, body.role)
    limits.check(body.groups or [])
    made, path = invitations.invite(
        body.role, email=body.email, group_limit=body.groups, actor=actor(request), now=timezone.now()
    )
    is_mailed = invitations.mail(made, path)  # with a key before the commit: a link not stored opens nothing
    return Status(201, {**invitation_json(made), "link": path, "is_mailed": is_mailed})


@router.get("/invitations", auth=ADMIN, response=dict[str, Any])
def list_invitations(
    request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = INVITATION_SORTS.parameter()
) -> Any:
    """Invitations, newest first, without their links."""
    rows, order = Invitation.objects.all(), INVITATION_SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=invitation_json)


@router.delete("/invitations/{invitation_id}", auth=ADMIN, response={204: None})
def revoke_invitation(request: HttpRequest, invitation_id: UUID) -> Any:
    """End an invitation; its link opens nothing any more."""
    row = Invitation.objects.filter(pk=invitation_id).first()
    if row is None:
        raise Http404("no such invitation")
    invitations.revoke(row, actor=actor(request), now=timezone.now())
    return Status(204, None)


def user_json(row: User) -> dict[str, Any]:
    """A person without anything secret. groups: null when all devices are theirs to see."""
    return {
        "name": row.username,
        "email": row.email,
        "role": row.role,
        "is_active": row.is_active,
        "groups": row.group_limit,
        "has_second_factor": bool(row.second_factor),
        "last_sign_in_at": stamp(row.last_login),
        "created_at": stamp(row.date_joined),
        "rev": row.rev,
    }


def invitation_json(row: Invitation) -> dict[str, Any]:
    """An invitation without its link."""
    return {
        "id": str(row.pk),
        "email": row.email,
        "role": row.role,
        "groups": row.group_limit,
        "made_by": row.made_by,
        "made_at": stamp(row.made_at),
        "expires_at": stamp(row.expires_at),
        "used_at": stamp(row.used_at),
        "revoked_at": stamp(row.revoked_at),
    }


def _may_give(request: HttpRequest, role: str | None) -> None:
    for scope in sorted(ROLE_SCOPES[role]) if role else ():
        require(request, scope)


def _user(name: str) -> User:
    row = User.objects.filter(username=name).first()
    if row is None:
        raise Http404(f"no person {name}")
    return row


def _tagged(row: User, response: HttpResponse) -> dict[str, Any]:
    tag(response, row.rev)
    return user_json(row)
