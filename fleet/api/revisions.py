"""Revisions as ETag and If-Match, and the media types of lists that a body can carry."""

from typing import Any

from django.http import HttpRequest, HttpResponse

from fleet.api.errors import ApiProblem
from fleet.devices.records import FORMATS, MAX_BYTES

LIST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {name: {"schema": {"type": "string"}} for name in ("text/csv", "application/x-ndjson")},
    }
}
"""How OpenAPI describes a body that is a list of devices, one a line."""


def tag(response: HttpResponse, revision: str | int) -> None:
    """Name the revision of what is answered."""
    response["ETag"] = f'"{revision}"'


def must_match(request: HttpRequest, revision: str | int) -> None:
    """Ask that the caller changes what it has read.

    Raises ApiProblem `if_match_required` without If-Match, `stale` with the present ETag for another one.
    """
    given = request.headers.get("If-Match", "").strip()
    if not given:
        raise ApiProblem("if_match_required", "send If-Match with the ETag of what you read")
    known = [part.strip().removeprefix("W/").strip('"') for part in given.split(",")]
    if given != "*" and str(revision) not in known:
        raise ApiProblem("stale", "this was changed since you read it", etag=f'"{revision}"')


def may_match(request: HttpRequest, revision: str | int) -> bool:
    """True when the caller sent an If-Match that names this revision; False when it sent none, or `*`.

    For verbs, where it is optional. Raises ApiProblem `stale` as `must_match`.
    """
    if request.headers.get("If-Match", "").strip() in ("", "*"):
        return False
    must_match(request, revision)
    return True


def list_format(request: HttpRequest) -> str:
    """`csv` or `ndjson`, by the Content-Type. Raises ApiProblem `media_type` for any other."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in FORMATS:
        raise ApiProblem("media_type", f"send one of {', '.join(sorted(FORMATS))}")
    return FORMATS[kind]


def list_body(request: HttpRequest) -> bytes:
    """The body of a request that carries a list; it may be longer than other bodies. At most a byte too many
    is read, which its reader refuses.
    """
    return request.read(MAX_BYTES + 1)
