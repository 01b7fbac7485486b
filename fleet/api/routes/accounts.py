"""API tokens."""

from datetime import timedelta
from typing import Any

from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field

from fleet.accounts import people, tokens
from fleet.accounts.models import ApiToken
from fleet.accounts.scopes import ALL_SCOPES
from fleet.api.auth import Scope, actor, require
from fleet.api.paging import page
from fleet.api.render import token_json
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


class TokenBody(Strict):
    """A new token of the caller's own account. groups: the device groups it is limited to; null: all."""

    name: str = Field(min_length=1, max_length=64)
    scopes: list[str] = Field(min_length=1, max_length=32)
    days: int = Field(90, ge=1, le=366)
    groups: list[str] | None = Field(None, max_length=people.MAX_GROUPS)


@router.get("/tokens", auth=Scope("users:admin"), response=dict[str, Any])
def list_tokens(
    request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = SORTS.parameter()
) -> Any:
    """Tokens of everyone, without secrets."""
    rows, order = ApiToken.objects.select_related("owner"), SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=token_json)


@router.post("/tokens", auth=Scope("users:admin"), response={201: dict[str, Any]})
def issue_token(request: HttpRequest, body: TokenBody) -> Any:
    """Make a token that can do no more than the asking one; its text is in this answer and nowhere else."""
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
    )
    return Status(201, {**token_json(made), "token": text})


@router.delete("/tokens/{public_id}", auth=Scope("users:admin"), response={204: None})
def revoke_token(request: HttpRequest, public_id: str) -> Any:
    """End a token for good."""
    found = ApiToken.objects.filter(public_id=public_id).first()
    if found is None:
        raise Http404(f"no token {public_id}")
    tokens.revoke(found, actor=actor(request), now=timezone.now())
    return Status(204, None)
