"""API tokens."""

from datetime import timedelta
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field

from fleet.accounts import networks, people, tokens
from fleet.accounts.models import ApiToken
from fleet.accounts.scopes import ALL_SCOPES
from fleet.api.auth import Scope, actor, require
from fleet.api.errors import ApiProblem
from fleet.api.paging import page
from fleet.api.render import token_json
from fleet.api.revisions import must_match, tag
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts
from fleet.devices import limits

router = Router(tags=["accounts"])
SORTS = Sorts(
    ApiToken,
    {
        "created_at": "id",  # what an answer calls id is drawn at random
        "name": "name",
        "owner": "owner__username",
        "expires_at": "expires_at",
        "last_used_at": "last_used_at",
    },
    default="-created_at",
    most=3,
)


_NETWORKS = "Networks it may be used from, as 10.1.0.0/16, 2001:db8::/32 or one address; null: from any."


class TokenBody(Strict):
    """A new token of the caller's own account. groups: the device groups it is limited to; null: all."""

    name: str = Field(min_length=1, max_length=64)
    scopes: list[str] = Field(min_length=1, max_length=32)
    days: int = Field(90, ge=1, le=366)
    groups: list[str] | None = Field(None, max_length=people.MAX_GROUPS)
    networks: list[str] | None = Field(None, max_length=networks.MOST, description=_NETWORKS)


class TokenPatch(Strict):
    """What changes of a token: from where it may be used."""

    networks: list[str] | None = Field(max_length=networks.MOST, description=_NETWORKS)


class TokenSecretBody(Strict):
    """A new secret. grace_hours: how long the secret before is taken as well; 0 ends it at once."""

    grace_hours: int = Field(0, ge=0, le=7 * 24)


@router.get("/tokens", auth=Scope("users:admin"), response=dict[str, Any])
def list_tokens(
    request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = SORTS.parameter()
) -> Any:
    """Tokens of everyone, without secrets."""
    rows, order = ApiToken.objects.select_related("owner"), SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=token_json)


@router.post("/tokens", auth=Scope("users:admin"), response={201: dict[str, Any]})
def issue_token(request: HttpRequest, body: TokenBody) -> Any:
    """Make a token that can do no more than the asking one, nor from elsewhere; its text is in this answer
    and nowhere else.
    """
    for scope in body.scopes:
        if scope in ALL_SCOPES:
            require(request, scope)
    limits.check(body.groups or [])
    made, text = tokens.issue(
        request.auth.owner,  # type: ignore[attr-defined]
        body.name,
        body.scopes,
        actor=actor(request),
        now=timezone.now(),
        ttl=timedelta(days=body.days),
        group_limit=body.groups,
        allowed_from=body.networks,
        within=_networks(request),
    )
    return Status(201, {**token_json(made), "token": text})


@router.get("/tokens/{public_id}", auth=Scope("users:admin"), response=dict[str, Any])
def get_token(request: HttpRequest, public_id: str, response: HttpResponse) -> Any:
    """One token, without its secret."""
    found = _token(public_id)
    tag(response, found.rev)
    return token_json(found)


@router.patch("/tokens/{public_id}", auth=Scope("users:admin"), response=dict[str, Any])
def change_token(request: HttpRequest, public_id: str, body: TokenPatch, response: HttpResponse) -> Any:
    """Say from which networks a token may be used: a token bound to some names no others. Needs If-Match.
    Anything else is another token.
    """
    found = _token(public_id)
    must_match(request, found.rev)
    tokens.change(
        found,
        allowed_from=body.networks,
        actor=actor(request),
        now=timezone.now(),
        within=_networks(request),
    )
    tag(response, found.rev)
    return token_json(found)


@router.post("/tokens/{public_id}/rotate", auth=Scope("users:admin"), response=dict[str, Any])
def rotate_token(request: HttpRequest, public_id: str, body: TokenSecretBody, response: HttpResponse) -> Any:
    """Give a token of one's own account a new secret; its text is in this answer and nowhere else. Whoever
    asks has all of its scopes, and its networks are in theirs: its text may do what they may do, and no more.
    """
    found = _token(public_id)
    if found.owner_id != request.auth.owner_id:  # type: ignore[attr-defined]
        detail = f"only {found.owner.username} can have a secret that acts as {found.owner.username}"
        raise ApiProblem("scope_missing", detail)
    for scope in sorted(tokens.effective_scopes(found)):
        require(request, scope)
    grace = timedelta(hours=body.grace_hours)
    text = tokens.rotate(
        found, actor=actor(request), now=timezone.now(), grace=grace, within=_networks(request)
    )
    tag(response, found.rev)
    return {**token_json(found), "token": text}


@router.delete("/tokens/{public_id}", auth=Scope("users:admin"), response={204: None})
def revoke_token(request: HttpRequest, public_id: str) -> Any:
    """End a token for good."""
    tokens.revoke(_token(public_id), actor=actor(request), now=timezone.now())
    return Status(204, None)


def _networks(request: HttpRequest) -> list[str] | None:
    """Networks that the asking token is bound to; None: none."""
    found: list[str] | None = request.auth.networks  # type: ignore[attr-defined]
    return found


def _token(public_id: str) -> ApiToken:
    found = ApiToken.objects.select_related("owner").filter(public_id=public_id).first()
    if found is None:
        raise Http404(f"no token {public_id[:40]}")
    return found
