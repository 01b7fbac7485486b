"""Asking for password or code again before what is dangerous; then on to the page that was asked for."""

from __future__ import annotations

from typing import cast

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from fleet.accounts import sessions
from fleet.accounts.models import User
from fleet.console import throttle
from fleet.console.access import page
from fleet.console.views.sign_in import code_passes, oidc_name, see_other
from fleet.console.views.theme import safe_next

REFUSAL = (
    "That did not work: it is wrong or was used, or there were too many tries. Wait a moment and try again."
)


@never_cache
@sensitive_post_parameters("password", "code")
@require_http_methods(["GET", "HEAD", "POST"])
@page(is_own=True)
def reauth(request: HttpRequest) -> HttpResponse:
    """The form, and what it does: 303 to `next`, or 422 with one wording for every failure.

    The code is asked for when there is a second factor, else the password.
    """
    wanted = safe_next(request, request.POST.get("next") or request.GET.get("next", ""))
    user, context = cast(User, request.user), {"next": wanted, "oidc_name": oidc_name()}
    if request.method != "POST":
        return render(request, "console/reauth.html", context)
    if user.second_factor:
        is_right = code_passes(request, user, request.POST.get("code", ""))
    else:
        is_right = _password_passes(request, user, request.POST.get("password", "")[:128])
    if not is_right:
        return render(request, "console/reauth.html", {**context, "refusal": REFUSAL}, status=422)
    sessions.passed(request, user, now=timezone.now())
    return see_other(wanted)


def _password_passes(request: HttpRequest, user: User, password: str) -> bool:
    now_s, address = timezone.now().timestamp(), request.META.get("REMOTE_ADDR", "")
    if throttle.wait_s(user.username, address, now_s=now_s):
        return False
    if not user.check_password(password):
        throttle.failed(user.username, address, now_s=now_s)
        return False
    throttle.succeeded(user.username, address)
    return True
