"""What a token may see that is limited to groups of devices: one place for every route that knows limits.

A route that does not is refused to such a token by `fleet.api.auth.Scope`.
"""

from collections.abc import Mapping
from typing import Any

from django.db.models import Q
from django.http import Http404, HttpRequest
from django.utils import timezone

from fleet.accounts.models import ApiToken
from fleet.accounts.tokens import effective_limit
from fleet.api.errors import ApiProblem
from fleet.devices import limits
from fleet.telemetry import narrowing
from ota.models import Rollout
from ota.reach import is_within


def limit_of(request: HttpRequest) -> frozenset[str] | None:
    """Names of the groups that the asking token is limited to; None: no limit."""
    token: Any = getattr(request, "auth", None)
    return effective_limit(token) if isinstance(token, ApiToken) else None


def devices(request: HttpRequest) -> Q:
    """The condition over Device that the token's limit means."""
    return limits.inside(limit_of(request), now=timezone.now())


def require_device(request: HttpRequest, device_id: str) -> None:
    """Raise Http404 for a device outside the limit, as for one that does not exist."""
    limit = limit_of(request)
    if limit is not None and not limits.is_inside(limit, device_id, now=timezone.now()):
        raise Http404(f"no device {device_id}")


def require_target(request: HttpRequest, target: Mapping[str, Any], plan: Mapping[str, Any] | None) -> None:
    """Raise ApiProblem `scope_missing` for a rollout that reaches beyond the limit, or takes devices from
    rollouts that do.
    """
    limit = limit_of(request)
    if not is_within(limit, target):
        detail = f"this token is limited to devices of {_names(limit)}: target.groups names some of these"
        raise ApiProblem("scope_missing", detail, scope="rollouts:write", groups=sorted(limit or ()))
    if limit is not None and plan is not None and plan.get("supersede"):
        detail = "a token that is limited to groups cannot supersede the rollouts of others"
        raise ApiProblem("scope_missing", detail, scope="rollouts:write", groups=sorted(limit))


def require_rollout(request: HttpRequest, rollout: Rollout) -> None:
    """Raise ApiProblem `scope_missing` when the rollout reaches beyond the limit: it may be read, as far as
    `ota.reach.told` goes, and no verb is allowed.
    """
    require_target(request, rollout.target, None)


def narrowed(request: HttpRequest, q: str) -> str:
    """A telemetry query that counts nothing outside the limit. Raises QueryError for a query that is none."""
    return narrowing.narrowed(q, limit_of(request))


def _names(limit: frozenset[str] | None) -> str:
    return ", ".join(sorted(limit or ())) or "no group"
