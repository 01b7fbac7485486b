"""The event stream: hints of what changed."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router
from ninja.params.functions import Query

from fleet.accounts import tokens
from fleet.accounts.models import ApiToken
from fleet.accounts.scopes import READ
from fleet.api.auth import Scope
from fleet.live import opening
from fleet.live import topics as known

router = Router(tags=["stream"])
_STREAMED = {
    "responses": {200: {"description": "Hints", "content": {opening.MEDIA: {"schema": {"type": "string"}}}}}
}


@router.get("/stream", auth=Scope(*sorted(READ)), openapi_extra=_STREAMED)
def stream(request: HttpRequest, topics: str = Query(..., min_length=1, max_length=1_280)) -> Any:
    """Server-sent events `{id, rev}` whenever one of at most 20 topics may have changed: read it again.

    topics, separated by commas: `rollout:<id>`, `rollouts`, `device:<id>`, `version:<number>`, `alerts`. An
    object is told at most twice a second; a comment comes each 15 s. `Last-Event-ID` goes on where a stream
    broke off, up to 24 h later; else one `reset` event says that anything may have changed. `id` names the
    topic; `rev` orders its hints and is no ETag.
    """
    token: ApiToken = request.auth  # type: ignore[attr-defined]
    address = request.META.get("REMOTE_ADDR", "")
    return opening.answer(
        request,
        topics,
        scopes=tokens.effective_scopes(token),
        caller=f"token:{token.public_id}",
        may_go_on=lambda: _may_go_on(token.public_id, token.shown, topics, address),
    )


def _may_go_on(public_id: str, shown: bytes, topics: str, address: str) -> bool:
    """True while the token is live, has no limit, and still the secret that the stream was opened with
    (`shown`, its digest), the scopes that its topics need and the network that its stream is read from.
    """
    now = timezone.now()
    token = ApiToken.objects.select_related("owner").filter(public_id=public_id, revoked_at=None).first()
    if (
        token is None
        or not tokens.is_taken(token, shown, now=now)
        or tokens.effective_limit(token) is not None
        or not tokens.is_from_inside(token, address)
        or (token.expires_at is not None and token.expires_at <= now)
    ):
        return False
    scopes = tokens.effective_scopes(token)
    return all(known.scope_of(topic) in scopes for topic in known.parse(topics))
