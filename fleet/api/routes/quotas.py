"""Limits of the installation, and what is used of them."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router

from fleet.accounts.scopes import READ
from fleet.api import quotas
from fleet.api.auth import Scope

router = Router(tags=["accounts"])


@router.get("/quotas", auth=Scope(*sorted(READ)), response=dict[str, Any])
def list_quotas(request: HttpRequest) -> Any:
    """Every limit that something enforces. `per`: what it is for: the `installation`, one `request`, a
    `minute` of the asking token, a `caller` or a web `process`. `limit` is null where none is set, `used`
    where nothing is counted; `reset_s` says when the used calls of a minute begin anew.
    """
    return {"items": quotas.told(request.auth, now=timezone.now())}  # type: ignore[attr-defined]
