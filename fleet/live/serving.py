"""Event streams on the event loop: what a view allowed is written here until somebody ends it.

A frame of hints is `id: <microseconds>` and `data: {"id": <topic>, "rev": <microseconds>}`; each COMMENT_S
there is a comment, which proxies and readers take as life. `event: reset` says that what was missed is not
known. The stream ends when the reader goes, when the login does not hold any more, when Redis is lost and
when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import structlog
from django.db import DatabaseError, connection

from fleet import hints
from fleet.live import hub
from fleet.live.errors import LiveError
from fleet.live.hub import Viewer
from fleet.live.opening import KEY, Ticket, resumed

log = structlog.get_logger(__name__)
PATHS: Final = ("/api/v1/stream", "/events")
COMMENT_S: Final = 15.0
CHECK_S: Final = 30.0
SEND_S: Final = 30.0
"""A reader that takes nothing for so long is gone."""
_STATUS: Final = {"rate_limited": 429, "unavailable": 503}
_RETRY_AFTER_S: Final = 5

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
T = TypeVar("T")
_looking = ThreadPoolExecutor(max_workers=2, thread_name_prefix="stream-login")
"""All questions of all streams to the database."""


class Streams:
    """ASGI wrapper: answers of PATHS that hold a ticket become streams; everything else is passed on."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await self._app(scope, receive, hold)
        ticket = scope.get(KEY)
        if isinstance(ticket, Ticket) and held and held[0].get("status") == 200:
            await _stream(ticket, held[0], receive, send)
            return
        for message in held:
            await send(message)


async def _stream(ticket: Ticket, head: Message, receive: Receive, send: Send) -> None:
    headers = [pair for pair in head["headers"] if pair[0].lower() != b"content-length"]
    viewer = Viewer(ticket.topics, ticket.caller)
    try:
        async with hub.of_this_loop().watching(viewer):
            await send({**head, "headers": headers})
            writing = asyncio.create_task(_write(ticket, viewer, send))
            leaving = asyncio.create_task(_gone(receive))
            try:
                await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                is_gone = leaving.done()
                await _ended(writing, leaving)
        if not is_gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    except LiveError as error:
        await _refuse(error, headers, send)


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Exception) and not isinstance(found, OSError):
            log.error("stream_failed", exc_info=found)


async def _gone(receive: Receive) -> None:
    """Until the reader has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(ticket: Ticket, viewer: Viewer, send: Send) -> None:
    """Tell a viewer what it watches, until it is over or may not go on."""

    async def put(text: str) -> None:
        body = {"type": "http.response.body", "body": text.encode(), "more_body": True}
        await asyncio.wait_for(send(body), SEND_S)

    await put(f"retry: 2000\n{_alive()}")
    if ticket.last_event_id:
        found = await _look(lambda: resumed(ticket))
        await put(
            "event: reset\ndata: {}\n\n" if found is None else _frames((t, hints.now_us()) for t in found)
        )
    comment_at = time.monotonic() + COMMENT_S
    check_at = time.monotonic() + CHECK_S * random.uniform(0.8, 1.0)  # noqa: S311 - not all at once
    while not viewer.is_over:
        now = time.monotonic()
        if ready := viewer.due(now):
            await put(_frames(ready.items()))
        if now >= comment_at:
            await put(_alive())
            comment_at = now + COMMENT_S
        if now >= check_at:
            if not await _look(ticket.may_go_on):
                return
            check_at = now + CHECK_S
        await viewer.wait(min(comment_at, check_at, viewer.next_at()) - time.monotonic())


def _alive() -> str:
    """A comment, and from where to go on when nothing else is heard."""
    return f": \nid: {hints.now_us()}\n\n"


def _frames(told: Iterable[tuple[str, int]]) -> str:
    return "".join(
        f"id: {rev}\ndata: {json.dumps({'id': topic, 'rev': rev}, separators=(',', ':'))}\n\n"
        for topic, rev in told
    )


async def _look(question: Callable[[], T]) -> T | None:
    """What a question to the database gives; None when it fails. Its connection goes back at once."""

    def asked() -> T | None:
        try:
            return question()
        except DatabaseError as error:
            log.warning("stream_check_failed", error=str(error)[:200])
            return None
        finally:
            with contextlib.suppress(DatabaseError):
                connection.close()

    return await asyncio.get_running_loop().run_in_executor(_looking, asked)


async def _refuse(error: LiveError, headers: list[Any], send: Send) -> None:
    """A problem document in place of the stream; headers of the answer that the view made are kept."""
    status = _STATUS[error.code]
    kept = [pair for pair in headers if pair[0].lower() not in (b"content-type", b"x-accel-buffering")]
    request_id = next((value.decode() for name, value in kept if name.lower() == b"x-request-id"), "")
    body = {"type": f"/errors/{error.code}", "title": "Not now", "status": status, "code": error.code}
    body |= {"detail": error.text, "errors": [], "request_id": request_id}
    more = [
        (b"content-type", b"application/problem+json"),
        (b"retry-after", str(_RETRY_AFTER_S).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": kept + more})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
