"""How large a request may be: refused before its body is read on, at the ASGI server and before each view."""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from django.conf import settings

from fleet.devices.records import MAX_BYTES

JSON_BODY_BYTES: Final = 1024 * 1024
FORM_BYTES: Final = 64 * 1024
"""What a form may hold beside its files."""
_API = "/api/"
_LIST = re.compile(r"/api/v1/(?:groups/[^/]+/members|devices:import|telemetry/labels)")
_UPLOAD = re.compile(r"/api/v1/models/[^/]+/versions")

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


def limit_of(path: str) -> int:
    """Most bytes that the body of a request to this path may have; console forms may hold files too."""
    if _LIST.fullmatch(path):
        return MAX_BYTES
    if path.startswith(_API) and not _UPLOAD.fullmatch(path):
        return JSON_BODY_BYTES
    return int(settings.MODEL_UPLOAD_BYTES + settings.EVALUATION_UPLOAD_BYTES) + FORM_BYTES


def refusal(limit: int) -> str:
    """What a person is told."""
    return f"the body is larger than the {limit:,} bytes that are accepted here"


class _TooLarge(Exception):
    """A body grew beyond its limit while it was read."""


class BodyLimit:
    """ASGI wrapper: 413 `too_large` by Content-Length before a byte is read, or once more than that came.

    Without it Django first stores the whole body on disk, however large it is.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = limit_of(scope["path"])
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            await _refuse(send, limit)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise _TooLarge
            return message

        try:
            await self._app(scope, counted, send)
        except _TooLarge:
            await _refuse(send, limit)


async def _refuse(send: Send, limit: int) -> None:
    request_id = uuid.uuid4().hex
    body = json.dumps(
        {
            "type": "/errors/too_large",
            "title": "Too large",
            "status": 413,
            "code": "too_large",
            "detail": refusal(limit),
            "errors": [],
            "request_id": request_id,
            "limit": limit,
        }
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
