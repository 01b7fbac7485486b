"""Sign-in with an identity provider (OpenID Connect, code flow with PKCE); off unless it is configured."""

from __future__ import annotations

import logging

import requests
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from jwt import PyJWTError
from mozilla_django_oidc import views as flow  # type: ignore[import-untyped]

from fleet.accounts import sessions
from fleet.accounts.errors import AccountError
from fleet.accounts.models import User
from fleet.console.access import needs_second_factor
from fleet.console.views.sign_in import see_other
from fleet.console.views.theme import safe_next

log = logging.getLogger(__name__)
MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
"""Of every session, however it began: it forgets people who were disabled."""


class _Begin(flow.OIDCAuthenticationRequestView):  # type: ignore[misc]
    """To the provider, with state, nonce and code challenge that stand in the session."""

    def get_extra_params(self, request: HttpRequest) -> dict[str, str]:
        """`again=1` has the provider ask for the password though it knows the browser: from `/reauth`."""
        return {"prompt": "login"} if request.GET.get("again") else {}


class _Callback(flow.OIDCAuthenticationCallbackView):  # type: ignore[misc]
    """Back from the provider."""

    user: User

    def login_success(self) -> HttpResponse:
        """Sign in; the second factor of this installation is asked for as after a password."""
        request, now = self.request, timezone.now()
        wanted = safe_next(request, request.session.get("oidc_login_next") or "/")
        if self.user.second_factor:
            sessions.begin_half(request, self.user, wanted, now=now)
            return see_other("/login/2fa")
        sessions.begin(request, self.user, now=now, backend=MODEL_BACKEND)
        return see_other("/account/second-factor" if needs_second_factor(request) else wanted)

    def login_failure(self) -> HttpResponse:
        """The provider refused, or nothing here waits for its answer."""
        return refused(self.request, "token_invalid", "the provider did not sign you in, or too late", 403)


@never_cache
@require_safe
def begin(request: HttpRequest) -> HttpResponse:
    """To the provider. 404 when none is configured."""
    return _flow(request, _Begin)


@never_cache
@require_safe
def callback(request: HttpRequest) -> HttpResponse:
    """Back from the provider: 303 to where the person wanted to go, or a page with a code: `token_invalid`
    (state, nonce or token), `not_found` (neither known nor invited), `unavailable` (no answer from it).
    """
    try:
        return _flow(request, _Callback)
    except AccountError as error:
        return refused(request, error.code, error.text, 403)
    except (SuspiciousOperation, PyJWTError, KeyError, ValueError) as error:
        if isinstance(error, requests.RequestException):  # its errors of JSON are ValueErrors too
            return _unavailable(request, error)
        log.warning("sign-in with the identity provider was refused: %s", error)
        return refused(request, "token_invalid", "the answer of the provider is not for this sign-in", 403)
    except requests.RequestException as error:
        return _unavailable(request, error)


def _flow(request: HttpRequest, view: type[flow.View]) -> HttpResponse:
    if not settings.OIDC_ISSUER:
        raise Http404("no identity provider is configured")
    base = settings.PUBLIC_URL.rstrip("/")
    # behind a proxy the request does not know by which address people came, and the provider compares it
    request.build_absolute_uri = lambda location=None: f"{base}{location or ''}"  # type: ignore[method-assign]
    answer: HttpResponse = view.as_view()(request)
    return answer


def _unavailable(request: HttpRequest, error: Exception) -> HttpResponse:
    log.error("the identity provider did not answer as it should: %s", str(error)[:300])
    return refused(request, "unavailable", "the provider did not answer as it should", 503)


def refused(request: HttpRequest, code: str, text: str, status: int) -> HttpResponse:
    """The page of a sign-in that did not come about."""
    context = {"code": code, "text": text, "provider": settings.OIDC_NAME}
    return render(request, "console/oidc_refused.html", context, status=status)
