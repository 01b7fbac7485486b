"""`/events`: the live hints of the page that is open, for the person who is signed in."""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe

from fleet.accounts.models import User
from fleet.accounts.scopes import READ, scopes_of
from fleet.console.access import page
from fleet.live import opening, topics
from fleet.live.errors import LiveError

STATUS = {"validation": 422, "not_found": 404, "scope_missing": 403}


@require_safe
@page(*sorted(READ))
def events(request: HttpRequest) -> HttpResponse:
    """Open the stream of the page's topics (GET parameter `topics`). The script polls when it is refused."""
    key = str(request.session.session_key)
    user: Any = request.user
    asked = request.GET.get("topics", "")
    try:
        return opening.answer(
            request,
            asked,
            scopes=scopes_of(user),
            caller=f"session:{hashlib.sha256(key.encode()).hexdigest()[:16]}",
            may_go_on=lambda: _may_go_on(key, asked),
        )
    except LiveError as error:
        if error.code == "unavailable":  # no event loop here, as under a test server: nothing went wrong
            return HttpResponse(status=204)
        return JsonResponse({"code": error.code, "detail": error.text}, status=STATUS[error.code])


def _may_go_on(session_key: str, asked: str) -> bool:
    """True while the session exists, its person is active, and no password, role or limit took anything away.

    Read from the session's store: the request that opened the stream is long over.
    """
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = User.objects.filter(pk=session.get(SESSION_KEY)).first()
    if user is None or user.group_limit is not None:
        return False
    known = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    if not any(constant_time_compare(session.get(HASH_SESSION_KEY, ""), one) for one in known):
        return False
    scopes = scopes_of(user)
    return all(topics.scope_of(topic) in scopes for topic in topics.parse(asked))
