"""One's own account: who one is, the password, the sessions."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import auth, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from fleet.accounts import second_factor, sessions, users
from fleet.accounts.models import RecoveryCode, User
from fleet.console import throttle
from fleet.console.access import actor, needs_second_factor, page
from fleet.console.views.sign_in import see_other

WRONG_PASSWORD = "The present password is wrong, or there were too many tries."  # noqa: S105


@require_safe
@page(is_own=True)
def account(request: HttpRequest) -> HttpResponse:
    """Name, role, password, second factor and sessions of who is signed in."""
    return render(request, "console/account.html", facts(request))


def facts(request: HttpRequest, **more: Any) -> dict[str, Any]:
    """What the page of one's own account shows."""
    user, now = cast(User, request.user), timezone.now()
    return {
        "sessions": sessions.sessions_of(user, now=now),
        "this_session": request.session.session_key,
        "codes_left": RecoveryCode.objects.filter(user=user).count() if user.second_factor else 0,
        "codes_of": second_factor.RECOVERY_CODES,
        "is_due": needs_second_factor(request),
        **more,
    }


@never_cache
@sensitive_post_parameters()
@require_POST
@page(is_own=True)
def change_password(request: HttpRequest) -> HttpResponse:
    """POST `old` and `new`: every other session of the person ends. 422 when the old one is wrong or the new
    one weak.
    """
    user, now, address = cast(User, request.user), timezone.now(), request.META.get("REMOTE_ADDR", "")
    old, new = request.POST.get("old", "")[:128], request.POST.get("new", "")[:128]
    is_held = throttle.wait_s(user.username, address, now_s=now.timestamp())
    errors: dict[str, list[str]] = {}
    if is_held or not user.check_password(old):
        errors["old"] = [WRONG_PASSWORD]
        if not is_held:
            throttle.failed(user.username, address, now_s=now.timestamp())
    else:
        try:
            users.set_password(user, new, actor=actor(request), now=now)
        except ValidationError as error:
            errors["new"] = error.messages
    if errors:
        return render(request, "console/account.html", facts(request, errors=errors), status=422)
    auth.update_session_auth_hash(request, user)
    sessions.begin(request, user, now=now, backend=request.session[auth.BACKEND_SESSION_KEY])
    sessions.end_others(user, request.session.session_key, actor=actor(request), now=now)
    messages.success(request, "The password is changed. Your other sessions are signed out.")
    return see_other("/account")


@require_POST
@page(is_own=True)
def end_others(request: HttpRequest) -> HttpResponse:
    """Sign this person out everywhere but here."""
    key, now = request.session.session_key, timezone.now()
    n = sessions.end_others(cast(User, request.user), key, actor=actor(request), now=now)
    messages.success(request, f"{n} other session{'' if n == 1 else 's'} signed out.")
    return see_other("/account")
