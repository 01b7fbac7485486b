"""Who may open a page, who acts, and how a refusal looks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string

from fleet.accounts.audit import Actor
from fleet.accounts.models import User
from fleet.accounts.scopes import scopes_of
from fleet.devices.errors import DeviceError
from ota.errors import OtaError

log = logging.getLogger(__name__)
View = Callable[..., HttpResponseBase]

CONFLICTS = frozenset(
    {"illegal_transition", "immutable", "in_use", "duplicate", "overlap", "evidence_not_current"}
    | {"approval_stale", "target_changed", "stale"}
)


def page(*scopes: str) -> Callable[[View], View]:
    """A view for people who have one of `scopes`.

    Nobody signed in: to the login page and back. Scope missing: 403 that names it. An OtaError that the view
    does not answer itself: 409 or 422 with its code. Database away: 503, nothing changed.
    """

    def wrap(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if not request.user.is_authenticated:
                    return _to_login(request)
                if not scopes_of(request.user).intersection(scopes):
                    raise PermissionDenied(f"scope_missing: your role does not include {scopes[0]}")
                return view(request, *args, **kwargs)
            except OtaError as error:
                return refused(request, error)
            except OperationalError as error:
                log.error("database unavailable: %s", error)
                text = render_to_string("503.html", {"request_id": getattr(request, "request_id", "")})
                return HttpResponse(text, status=503)

        return guarded

    return wrap


def _to_login(request: HttpRequest) -> HttpResponse:
    """A page goes to the login; a fragment is told to, so that the page around it stays."""
    if request.headers.get("HX-Request"):
        return HttpResponse("signed out", status=401)
    return redirect_to_login(request.get_full_path() if request.method == "GET" else "/")


def actor(request: HttpRequest) -> Actor:
    """Who acts, for the audit trail."""
    return Actor(
        "user",
        request.user.get_username(),
        request_id=getattr(request, "request_id", ""),
        source_ip=request.META.get("REMOTE_ADDR", ""),
    )


def person(request: HttpRequest) -> str:
    """User name of the signed-in person."""
    return str(request.user.get_username())


def role(request: HttpRequest) -> str:
    """Role of the signed-in person."""
    return str(getattr(request.user, "role", ""))


def scopes(request: HttpRequest) -> frozenset[str]:
    """What the signed-in person may do."""
    return scopes_of(cast(User, request.user))


def see(url: str) -> HttpResponse:
    """303 to a page: what a POST that did its work answers with."""
    answer = HttpResponseRedirect(url)
    answer.status_code = 303
    return answer


def refused(request: HttpRequest, error: OtaError | DeviceError, *, back: str = "") -> HttpResponse:
    """The page for a verb that was refused: what, why, what is allowed, and the way back."""
    status = 409 if error.code in CONFLICTS else 403 if error.code == "approver_is_author" else 422
    context: dict[str, Any] = {
        "error": error,
        "state": getattr(error, "state", ""),
        "allowed": getattr(error, "allowed", []),
        "back": back or _referer_path(request),
    }
    return render(request, "console/refused.html", context, status=status)


def _referer_path(request: HttpRequest) -> str:
    """Path of the page the form stood on, when it is ours."""
    here = f"{request.scheme}://{request.get_host()}"
    referer = request.headers.get("Referer", "")
    return referer.removeprefix(here) if referer.startswith(f"{here}/") else "/"
