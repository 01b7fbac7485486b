"""Setting a second factor up, its recovery codes, and taking it away again."""

from __future__ import annotations

from typing import Any, cast

import segno
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from fleet.accounts import second_factor, sessions
from fleet.accounts.models import SecondFactor, User
from fleet.console.access import actor, ask_again, needs_second_factor, page
from fleet.console.views.sign_in import CODE_REFUSAL, code_passes, see_other
from ota.choices import RolloutState
from ota.models import Rollout

STOPPABLE = (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED)


@never_cache
@sensitive_post_parameters("code")
@require_http_methods(["GET", "HEAD", "POST"])
@page(is_own=True)
def set_up(request: HttpRequest) -> HttpResponse:
    """GET: the QR code of a secret that waits. POST `code`: it counts from now on, and the recovery codes are
    shown, this once. 422 for a wrong code.
    """
    user, now = cast(User, request.user), timezone.now()
    if user.second_factor:
        return see_other("/account")
    factor = second_factor.pending(user, now=now)
    if factor is None or request.method != "POST":
        return _page(request, factor)
    codes = second_factor.confirm(factor, request.POST.get("code", "")[:32], actor=actor(request), now=now)
    if codes is None:
        return _page(request, factor, refusal=CODE_REFUSAL, status=422)
    user.refresh_from_db()
    sessions.passed(request, user, now=now)
    return _codes(request, codes)


@require_POST
@page(is_own=True)
def begin(request: HttpRequest) -> HttpResponse:
    """Make a secret, then to the page that shows it. It asks for the password again: who finds a session open
    must not lock its person out.
    """
    if (asked := ask_again(request, back="/account/second-factor")) is not None:
        return asked
    second_factor.begin(cast(User, request.user), now=timezone.now())
    return see_other("/account/second-factor")


@require_POST
@page(is_own=True)
def remove(request: HttpRequest) -> HttpResponse:
    """POST `code`: take the second factor away; a session alone cannot."""
    user = cast(User, request.user)
    if not code_passes(request, user, request.POST.get("code", "")):
        messages.error(request, CODE_REFUSAL, extra_tags="bad")
        return see_other("/account")
    second_factor.remove(user, actor=actor(request), now=timezone.now())
    sessions.passed(request, user, now=timezone.now())
    messages.success(request, "The second factor is removed. Your password alone signs you in.")
    return see_other("/account")


@never_cache
@require_POST
@page(is_own=True)
def renew_codes(request: HttpRequest) -> HttpResponse:
    """POST `code`: ten new recovery codes, shown this once; those before count no more."""
    user = cast(User, request.user)
    if not code_passes(request, user, request.POST.get("code", "")):
        messages.error(request, CODE_REFUSAL, extra_tags="bad")
        return see_other("/account")
    return _codes(request, second_factor.renew_codes(user, actor=actor(request), now=timezone.now()))


def _codes(request: HttpRequest, codes: list[str]) -> HttpResponse:
    return render(request, "console/recovery_codes.html", {"codes": codes})


def _page(
    request: HttpRequest, factor: SecondFactor | None, *, refusal: str = "", status: int = 200
) -> HttpResponse:
    is_due = needs_second_factor(request)
    context: dict[str, Any] = {"factor": factor, "refusal": refusal, "is_due": is_due}
    if factor is not None:
        context["qr"] = _qr(second_factor.uri(factor, account=request.user.get_username()))
        context["secret"] = second_factor.secret_text(factor)
    if is_due:  # stopping never waits for a second factor
        context["live"] = list(Rollout.objects.filter(state__in=STOPPABLE).order_by("-created_at")[:20])
    return render(request, "console/second_factor.html", context, status=status)


def _qr(text: str) -> SafeString:
    """A QR code as SVG on white, whatever the theme: readers want dark on light."""
    made = segno.make(text, error="m", micro=False)
    svg = made.svg_inline(scale=5, border=3, dark="#000", light="#fff", title="QR code of the secret")
    return mark_safe(svg)  # noqa: S308 - numbers of a path, made here
