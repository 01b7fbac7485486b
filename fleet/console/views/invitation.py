"""The page behind an invitation's link: the invited person chooses name and password, and is signed in."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from fleet.accounts import invitations, sessions
from fleet.accounts.audit import Actor
from fleet.accounts.errors import AccountError
from fleet.console import throttle
from fleet.console.views.sign_in import see_other


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def accept(request: HttpRequest, token: str) -> HttpResponse:
    """GET: the form. POST: the account is made and signed in. 404 for a link that opens nothing (any more);
    looking for links waits as guessing passwords does. 422 with the code beside the field.
    """
    now, address = timezone.now(), request.META.get("REMOTE_ADDR", "")
    found = None
    if not throttle.wait_s(f"invitation {address}", address, now_s=now.timestamp()):
        found = invitations.find(token, now=now)
        if found is None:
            throttle.failed(f"invitation {address}", address, now_s=now.timestamp())
    if found is None:
        return render(request, "console/invitation_over.html", status=404)
    if request.method != "POST":
        return render(request, "console/invitation.html", {"invitation": found})
    name = request.POST.get("username", "").strip()[:151]
    errors: dict[str, list[str]] = {}
    try:
        actor = Actor("user", name[:128] or "?", getattr(request, "request_id", ""), address)
        user = invitations.accept(found, name, request.POST.get("password", "")[:128], actor=actor, now=now)
    except AccountError as error:
        if error.code != "duplicate":
            return render(request, "console/invitation_over.html", status=404)
        errors = {"username": [f"{error.code}: {error.text}"]}
    except ValidationError as error:
        errors = error.message_dict if hasattr(error, "error_dict") else {"password": error.messages}
    if errors:
        context = {"invitation": found, "errors": errors, "username": name}
        return render(request, "console/invitation.html", context, status=422)
    sessions.begin(request, user, now=now, backend="django.contrib.auth.backends.ModelBackend")
    return see_other("/")
