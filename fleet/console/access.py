"""Who may open a page, who acts, and how a refusal looks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, cast
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import DataError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from fleet.accounts import sessions
from fleet.accounts.audit import Actor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import Role, User
from fleet.accounts.scopes import scopes_of
from fleet.devices.errors import DeviceError
from fleet.long_answers import BusyError
from fleet.sealing import SealError
from ota.errors import OtaError

log = logging.getLogger(__name__)
View = Callable[..., HttpResponseBase]

CONFLICTS = frozenset(
    {"illegal_transition", "immutable", "in_use", "duplicate", "overlap", "evidence_not_current"}
    | {"approval_stale", "target_changed", "stale"}
)


def page(
    *scopes: str,
    asks_again: bool = False,
    is_own: bool = False,
    knows_limits: bool = False,
    stops: Collection[str] = (),
) -> Callable[[View], View]:
    """A view for people who have one of `scopes`; without scopes, for everyone who signed in.

    asks_again: password or code are asked for, unless they were a moment ago (`fleet.accounts.sessions`).
    is_own: a page of one's own account, which sets the second factor up. stops: values of the argument `verb`
    that only stop something. Neither of these waits until somebody has set a second factor up. knows_limits:
    the view shows and changes nothing outside the person's groups of devices (`limit_of`); any other is
    refused to people who are limited to some.

    Nobody signed in: to the login page and back. Second factor due: to its page. Scope missing: 403 that
    names it. An OtaError or AccountError that the view does not answer itself: 409 or 422 with its code.
    Too many files at once: 503 `contended`. A text that cannot be stored (NUL): 422. Database away: 503,
    nothing changed.
    """

    def wrap(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if not request.user.is_authenticated:
                    return _to_login(request)
                if not sessions.is_verified(request):
                    return _to_second_factor(request)
                if needs_second_factor(request) and not is_own and kwargs.get("verb") not in stops:
                    return _to("console:second-factor", request)
                if scopes and not scopes_of(request.user).intersection(scopes):
                    raise PermissionDenied(f"scope_missing: your role does not include {scopes[0]}")
                if limit_of(request) is not None and not (knows_limits or is_own):
                    return _outside(request)
                if asks_again and (asked := ask_again(request)) is not None:
                    return asked
                return view(request, *args, **kwargs)
            except (OtaError, AccountError, SealError, BusyError) as error:
                return refused(request, error)
            except (DataError, UnicodeEncodeError) as error:
                log.warning("a value cannot be stored: %s", error)
                text = "a text holds a character that cannot be stored"
                return refused(request, AccountError("validation", text))
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


def _to_second_factor(request: HttpRequest) -> HttpResponse:
    """A session from before the second factor was set up, or replaced, shows it now."""
    if request.headers.get("HX-Request"):
        return HttpResponse("signed out", status=401)
    return _to("console:login-2fa", request)


def _to(name: str, request: HttpRequest, back: str = "") -> HttpResponse:
    wanted = back or (request.get_full_path() if request.method == "GET" else request.path)
    answer = HttpResponseRedirect(f"{reverse(name)}?{urlencode({'next': wanted})}")
    answer.status_code = 303
    return answer


def _outside(request: HttpRequest) -> HttpResponse:
    """The overview is of the whole fleet: who is limited to groups begins at their devices."""
    if request.path == reverse("console:overview"):
        return HttpResponseRedirect(reverse("console:devices"))
    raise PermissionDenied(
        "scope_missing: your account is limited to groups of devices, and this page is of the whole fleet"
    )


def limit_of(request: HttpRequest) -> frozenset[str] | None:
    """Names of the groups of devices that the signed-in person is limited to; None: no limit."""
    found = getattr(request.user, "group_limit", None)
    return None if found is None else frozenset(found)


def needs_second_factor(request: HttpRequest) -> bool:
    """True for an approver or administrator of a production installation who has not set one up."""
    user = cast(User, request.user)
    return settings.PRODUCTION and user.role in (Role.APPROVER, Role.ADMIN) and not user.second_factor


KEPT_FIELDS, KEPT_CHARACTERS = 24, 2_000
_KEPT = "kept_form"


def ask_again(request: HttpRequest, *, back: str = "") -> HttpResponse | None:
    """The way to `/reauth` when password or code were not shown a moment ago, else None.

    back: path of the page that the form stood on, when it is not the form's own. A script gets 403
    `reauth_required`. What a person typed is kept for that page (`kept`).
    """
    if sessions.is_fresh(request, now=timezone.now()):
        return None
    if request.headers.get("HX-Request"):
        return HttpResponse("reauth_required", status=403)
    if request.method == "POST":
        typed = {
            name: str(value)[:KEPT_CHARACTERS]
            for name, value in list(request.POST.items())[:KEPT_FIELDS]
            if name != "csrfmiddlewaretoken" and "password" not in name and "code" not in name
        }
        request.session[_KEPT] = {"path": back or request.path, "typed": typed}
    return _to("console:reauth", request, back)


def kept(request: HttpRequest) -> dict[str, str]:
    """What was typed into the form of this page before password or code were asked for; once, else {}."""
    found: Any = request.session.get(_KEPT)
    if not isinstance(found, dict) or found.get("path") != request.path:
        return {}
    del request.session[_KEPT]
    return dict(found["typed"])


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


def refused(
    request: HttpRequest,
    error: OtaError | DeviceError | AccountError | SealError | BusyError,
    *,
    back: str = "",
) -> HttpResponse:
    """The page for a verb that was refused: what, why, what is allowed, and the way back."""
    status = 409 if error.code in CONFLICTS else 403 if error.code == "approver_is_author" else 422
    status = 503 if isinstance(error, SealError | BusyError) else status
    context: dict[str, Any] = {
        "error": error,
        "state": getattr(error, "state", ""),
        "allowed": getattr(error, "allowed", []),
        "back": back or came_from(request),
    }
    return render(request, "console/refused.html", context, status=status)


def came_from(request: HttpRequest) -> str:
    """Path of the page the form stood on, when it is ours."""
    here = f"{request.scheme}://{request.get_host()}"
    referer = request.headers.get("Referer", "")
    return referer.removeprefix(here) if referer.startswith(f"{here}/") else "/"
