"""Sign-in and sign-out. Every failure reads the same; repeated failures wait."""

from django.contrib import auth
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from fleet.console import throttle
from fleet.console.views.theme import safe_next

REFUSAL = (
    "That did not work: user name or password is wrong, or there were too many tries. "
    "Wait a moment and try again."
)


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def login(request: HttpRequest) -> HttpResponse:
    """The form, and what it does: 303 to where the person wanted to go, or 422 with the one wording."""
    wanted = safe_next(request, request.POST.get("next") or request.GET.get("next", ""))
    if request.method != "POST":
        if request.user.is_authenticated:
            return HttpResponseRedirect(wanted)
        return render(request, "console/login.html", {"next": wanted})
    account, address = request.POST.get("username", "")[:150], request.META.get("REMOTE_ADDR", "")
    user, now_s = None, timezone.now().timestamp()
    if not throttle.wait_s(account, address, now_s=now_s):
        user = auth.authenticate(request, username=account, password=request.POST.get("password", "")[:128])
        if user is None:
            throttle.failed(account, address, now_s=now_s)
    if user is None:
        context = {"next": wanted, "username": account, "refusal": REFUSAL}
        return render(request, "console/login.html", context, status=422)
    throttle.succeeded(account, address)
    auth.login(request, user)
    return _see_other(wanted)


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """End the session."""
    auth.logout(request)
    return _see_other("/login")


def _see_other(path: str) -> HttpResponse:
    answer = HttpResponseRedirect(path)
    answer.status_code = 303
    return answer
