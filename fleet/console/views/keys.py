"""Signing keys: which there are, what devices trust, and the page that asks before one is revoked."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from fleet.console.access import actor, kept, page, refused
from fleet.mqtt.codec.cose import signing_kid
from ota import key_revocation, keys
from ota.key_revocation import RevocationError
from ota.models import SigningKey, Trust


@require_safe
@page("keys:admin")
def key_list(request: HttpRequest) -> HttpResponse:
    """Every key, newest last, and the trust document that devices hold or are about to."""
    document, _ = keys.current_trust()
    trusted = document.roots + document.live_release() + document.live_online()
    context = {
        "keys": SigningKey.objects.all(),
        "trust": Trust.objects.first(),
        "document": document,
        "trusted": {signing_kid(key).hex() for key in trusted},
        "are_roots_here": keys.are_roots_here(document),
        "revocable": (keys.RELEASE, keys.ONLINE),
    }
    return render(request, "console/keys.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@page("keys:admin", asks_again=True)
def revoke(request: HttpRequest, kid: str) -> HttpResponse:
    """GET: what the revocation would mean. POST: do it, then back to the keys."""
    row = SigningKey.objects.filter(pk=kid).first()
    if row is None:
        raise Http404(f"no signing key {kid}")
    back = reverse("console:keys")
    is_post = request.method == "POST"
    reason = request.POST.get("reason", "") if is_post else kept(request).get("reason", "")
    error: RevocationError | None = None
    try:
        if is_post:
            done = key_revocation.revoke(kid, reason=reason, actor=actor(request), now=timezone.now())
            return _done(request, done, back)
    except RevocationError as problem:
        if problem.code != "validation":
            return refused(request, problem, back=back)
        error = problem
    would = key_revocation.revoke(
        kid, reason="a look", actor=actor(request), now=timezone.now(), dry_run=True
    )
    context = {"key": row, "would": would, "error": error, "reason": reason}
    return render(request, "console/key_revoke.html", context, status=422 if error else 200)


def _done(request: HttpRequest, done: key_revocation.Revoked, back: str) -> HttpResponse:
    if done.trust is not None:
        messages.success(request, f"Revoked. Trust document {done.trust} tells the devices.")
    else:
        text = "Revoked here. Devices trust it until the roots have signed a trust document without it."
        messages.warning(request, text, extra_tags="attention")
    answer = HttpResponseRedirect(back)
    answer.status_code = 303
    return answer
