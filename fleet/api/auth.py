"""Bearer tokens and scopes. Every endpoint names the scope it needs; the token's owner must still have it."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer

from fleet.accounts import tokens
from fleet.accounts.audit import Actor
from fleet.accounts.models import ApiToken
from fleet.api import rates
from fleet.api.errors import ApiProblem


class Scope(HttpBearer):
    """Authenticates a token, counts its call and asks for one of some scopes. Problems: `token_missing`,
    `token_invalid`, `token_expired`, `rate_limited`, `scope_missing`.
    """

    openapi_name = "ApiToken"

    def __init__(self, *scopes: str, knows_limits: bool = False) -> None:
        """knows_limits: the route shows and changes nothing outside the token's groups (`fleet.api.within`);
        any other is refused to a token that has a limit.
        """
        super().__init__()
        self.scopes = scopes
        self.knows_limits = knows_limits

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken:
        """The token, when it is live, within its rate and has one of the scopes."""
        address = request.META.get("REMOTE_ADDR", "")
        found = tokens.authenticate(token, now=timezone.now(), address=address)
        used = rates.count(request, found.public_id)
        request.rate = used  # type: ignore[attr-defined]
        if used is not None and used.is_over:
            raise ApiProblem(
                "rate_limited",
                f"{used.quota} {used.policy} a minute are allowed; ask again in {used.reset_s} s",
                policy=used.policy,
                limit=used.quota,
            )
        if not tokens.effective_scopes(found) & set(self.scopes):
            raise missing(*self.scopes)
        if not self.knows_limits and tokens.effective_limit(found) is not None:
            detail = "this token is limited to groups of devices, and this is not about devices of groups"
            raise ApiProblem("scope_missing", detail, scope=self.scopes[0])
        return found


def missing(*scopes: str) -> ApiProblem:
    """The problem of a token that has none of these scopes."""
    return ApiProblem("scope_missing", f"this token lacks the scope {' or '.join(scopes)}", scope=scopes[0])


def require(request: HttpRequest, scope: str) -> None:
    """Ask for a scope that the object's state makes necessary. Raises ApiProblem `scope_missing`."""
    token: Any = request.auth  # type: ignore[attr-defined]
    if scope not in tokens.effective_scopes(token):
        raise missing(scope)


def actor(request: HttpRequest) -> Actor:
    """Who calls, for the audit trail."""
    token: Any = getattr(request, "auth", None)
    return Actor(
        "token",
        f"{token.owner.username}/tfk_{token.public_id}" if isinstance(token, ApiToken) else "anonymous",
        request_id=getattr(request, "request_id", ""),
        source_ip=request.META.get("REMOTE_ADDR", ""),
    )


def person(request: HttpRequest) -> str:
    """User name of the token's owner."""
    token: Any = getattr(request, "auth", None)
    return str(token.owner.username) if isinstance(token, ApiToken) else ""


def role(request: HttpRequest) -> str:
    """Role of the token's owner."""
    token: Any = getattr(request, "auth", None)
    return str(token.owner.role) if isinstance(token, ApiToken) else ""
