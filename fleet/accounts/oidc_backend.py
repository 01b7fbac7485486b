"""The code flow with the identity provider: what mozilla-django-oidc checks, and what it leaves open.

It compares neither issuer nor audience of the id token, and takes the userinfo of another subject. Here all
three must be right, and the token must have an end.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.utils import timezone
from mozilla_django_oidc.auth import OIDCAuthenticationBackend  # type: ignore[import-untyped]

from fleet.accounts import oidc
from fleet.accounts.audit import Actor
from fleet.accounts.models import User
from fleet.long_answers import give_back


class OidcBackend(OIDCAuthenticationBackend):  # type: ignore[misc]
    """Finds the person behind an authorization code. Raises AccountError for somebody unknown here, and
    SuspiciousOperation for a token that is not for this installation.
    """

    def get_token(self, payload: dict[str, Any]) -> dict[str, Any]:
        """What the provider gives for the code; a slow one keeps nobody's connection to the database."""
        give_back()
        found: dict[str, Any] = super().get_token(payload)
        return found

    def verify_token(self, token: str, **kwargs: Any) -> dict[str, Any]:
        """Claims of the id token, checked: signature, nonce, issuer, audience, end."""
        claims: dict[str, Any] = super().verify_token(token, **kwargs)
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != settings.OIDC_ISSUER:
            raise SuspiciousOperation("the id token is of another issuer")
        if settings.OIDC_RP_CLIENT_ID not in audiences:
            raise SuspiciousOperation("the id token is for somebody else")
        if len(audiences) > 1 and claims.get("azp") != settings.OIDC_RP_CLIENT_ID:
            raise SuspiciousOperation("the id token was asked for by somebody else")
        if not claims.get("exp"):  # PyJWT compares it with the clock when it is there
            raise SuspiciousOperation("the id token has no end")
        return claims

    def get_or_create_user(self, access_token: str, id_token: str, payload: dict[str, Any]) -> User:
        """The person, with what userinfo says of the same subject."""
        told = self.get_userinfo(access_token, id_token, payload)
        if not isinstance(told, dict) or told.get("sub") != payload.get("sub"):
            raise SuspiciousOperation("userinfo is about somebody else")
        request = self.request
        who = Actor(
            "system",
            "identity provider",
            request_id=getattr(request, "request_id", ""),
            source_ip=request.META.get("REMOTE_ADDR", ""),
        )
        return oidc.person_for(
            settings.OIDC_ISSUER,
            {**payload, **told},
            rules=oidc.Rules.of_settings(),
            actor=who,
            now=timezone.now(),
        )
