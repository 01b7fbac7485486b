"""A stream is asked for: who may watch what, decided in a view, before the stream opens.

The view answers at once; the ASGI layer (`fleet.live.serving`) finds the ticket in the request's scope and
writes the stream itself. A Django response that streams would hold the request's thread, and its connection
to the database, until the stream ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from fleet.live import topics
from fleet.live.errors import LiveError

KEY: Final = "fleet.live"
MEDIA: Final = "text/event-stream"


@dataclass(frozen=True)
class Ticket:
    """What a stream may tell. last_event_id: where it goes on, "" = from now. caller: who is counted.

    may_go_on: asked again and again, in a thread that may use the database.
    """

    topics: tuple[str, ...]
    last_event_id: str
    caller: str
    may_go_on: Callable[[], bool]


def answer(
    request: HttpRequest, asked: str, *, scopes: Collection[str], caller: str, may_go_on: Callable[[], bool]
) -> HttpResponse:
    """The head of a stream over the topics `asked`, separated by commas.

    Raises LiveError `validation`, `scope_missing`, `not_found`, and `unavailable` under a server that has no
    event loop.
    """
    wanted = topics.parse(asked)
    topics.check(wanted, scopes)
    scope: Any = getattr(request, "scope", None)
    if scope is None:
        raise LiveError("unavailable", "streams need the ASGI server: poll instead")
    scope[KEY] = Ticket(wanted, request.headers.get("Last-Event-ID", "")[:32], caller, may_go_on)
    head = HttpResponse(content_type=MEDIA)
    head["Cache-Control"] = "no-store"
    head["X-Accel-Buffering"] = "no"  # a proxy must not keep hints until it has a page of them
    return head


def resumed(ticket: Ticket) -> list[str] | None:
    """What may have changed since the ticket's last event; None when that is not known any more."""
    if not ticket.last_event_id:
        return []
    moment = topics.since(ticket.last_event_id, now=timezone.now())
    return None if moment is None else topics.missed(ticket.topics, moment)
