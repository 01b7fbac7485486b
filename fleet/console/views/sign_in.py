"""Sign-in with password and second factor, and sign-out. Every failure reads the same; failures wait."""

from datetime import datetime

from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from fleet.accounts import second_factor, sessions
from fleet.accounts.audit import Actor
from fleet.accounts.models import User
from fleet.console import throttle
from fleet.console.access import needs_second_factor
from fleet.console.views.theme import safe_next

REFUSAL = (
    "That did not work: user name or password is wrong, or there were too many tries. "
    "Wait a moment and try again."
)
CODE_REFUSAL = (
    "That did not work: the code is wrong or was used, or there were too many tries. "
    "Wait a moment and try again."
)


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def login(request: HttpRequest) -> HttpResponse:
    """The form, and what it does: 303 to where the person wanted to go, by way of the second factor when
    there is one, or 422 with the one wording.
    """
    wanted = safe_next(request, request.POST.get("next") or request.GET.get("next", ""))
    if request.method != "POST":
        if request.user.is_authenticated and sessions.is_verified(request):
            return HttpResponseRedirect(wanted)
        return render(request, "console/login.html", {"next": wanted, "oidc_name": oidc_name()})
    account, address = request.POST.get("username", "")[:150], request.META.get("REMOTE_ADDR", "")
    account = account.replace("\0", "")  # no name has one, and the database takes none
    user, now = None, timezone.now()
    now_s = now.timestamp()
    if not throttle.wait_s(account, address, now_s=now_s):
        user = auth.authenticate(request, username=account, password=request.POST.get("password", "")[:128])
        if user is None:
            throttle.failed(account, address, now_s=now_s)
    if user is None:
        context = {"next": wanted, "username": account, "refusal": REFUSAL, "oidc_name": oidc_name()}
        return render(request, "console/login.html", context, status=422)
    if user.second_factor:  # the failures of the account are forgotten once its code is right too
        sessions.begin_half(request, user, wanted, now=now)
        return see_other("/login/2fa")
    throttle.succeeded(account, address)
    sessions.begin(request, user, now=now)
    return see_other("/account/second-factor" if needs_second_factor(request) else wanted)


@never_cache
@sensitive_post_parameters("code")
@require_http_methods(["GET", "HEAD", "POST"])
def login_2fa(request: HttpRequest) -> HttpResponse:
    """The second factor after the password: a code of the authenticator, or a recovery code.

    Without a password shown in this session a moment ago: back to the login page.
    """
    now = timezone.now()
    found = _half(request, now)
    if found is None:
        return see_other("/login")
    user, wanted = found
    if request.method != "POST":
        return render(request, "console/login_2fa.html", {"next": wanted})
    if not code_passes(request, user, request.POST.get("code", "")):
        context = {"next": wanted, "refusal": CODE_REFUSAL}
        return render(request, "console/login_2fa.html", context, status=422)
    sessions.begin(request, user, now=now, backend="django.contrib.auth.backends.ModelBackend")
    return see_other(wanted)


def code_passes(request: HttpRequest, user: User, code: str) -> bool:
    """True for a code that counts. Failures wait, as those of the password do."""
    now, address = timezone.now(), request.META.get("REMOTE_ADDR", "")
    if throttle.wait_s(user.username, address, now_s=now.timestamp()):
        return False
    who = Actor("user", user.username, getattr(request, "request_id", ""), address)
    if not second_factor.passes(user, code[:32], actor=who, now=now):
        throttle.failed(user.username, address, now_s=now.timestamp())
        return False
    throttle.succeeded(user.username, address)
    return True


def oidc_name() -> str:
    """What the identity provider is called on the button; "" when there is none."""
    return settings.OIDC_NAME if settings.OIDC_ISSUER else ""


def _half(request: HttpRequest, now: datetime) -> tuple[User, str] | None:
    """Who has to show a second factor: after the password, or in a session from before there was one."""
    if request.user.is_authenticated:
        if sessions.is_verified(request):
            return None
        wanted = request.POST.get("next") or request.GET.get("next", "")
        return request.user, safe_next(request, wanted)
    return sessions.half(request, now=now)


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """End the session."""
    auth.logout(request)
    return see_other("/login")


def see_other(path: str) -> HttpResponse:
    """303 to `path`, with which a POST ends."""
    answer = HttpResponseRedirect(path)
    answer.status_code = 303
    return answer
