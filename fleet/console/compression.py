"""Pages and JSON compressed on their way, and which are not.

Compressing what a page reflects together with what it keeps secret lets somebody who sees only the size of
answers guess the secret letter by letter (BREACH, 2013). That needs three things, and pages here withhold
them: the attacker must make the victim's browser ask very often (the session cookie is SameSite=Lax, so no
other site's images, frames or scripts ask in the victim's name); the size must be exact (each answer carries
up to 100 random bytes); and the secret must stand in the page and stay the same (the CSRF token is masked
anew in every answer, passwords and session keys are in none, and what is shown once - a token, recovery
codes, a ticket, a secret - comes with `no-store` and is never compressed). Programs name a bearer token with
each call, which no browser sends for somebody else.

So a list of 50 rows is a tenth of its bytes. Left as they are: answers with `no-store`, answers to anything
but GET, files and streams (models are random bytes, and the event stream must not wait for a full block), and
answers with an ETag, which compressing would weaken: If-Match is compared with it as it was sent.
"""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware

TYPES: Final = frozenset({"text/html", "application/json", "image/svg+xml", "text/csv"})


class CompressionMiddleware(GZipMiddleware):
    """Django's, for the answers that the module names."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Compress the body, if the client takes gzip and the answer is one of those."""
        return super().process_response(request, response) if is_compressible(request, response) else response


def is_compressible(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Whether an answer may be sent compressed."""
    if request.method not in ("GET", "HEAD") or response.streaming or response.has_header("ETag"):
        return False
    kept = response.get("Cache-Control", "").lower()
    kind = response.get("Content-Type", "").partition(";")[0].strip().lower()
    return "no-store" not in kept and kind in TYPES
