"""Revisions as ETag and If-Match, and the media types of lists that a body can carry."""

from django.http import HttpRequest, HttpResponse

from fleet.api.errors import ApiProblem
from fleet.devices.records import FORMATS


def tag(response: HttpResponse, revision: str | int) -> None:
    """Name the revision of what is answered."""
    response["ETag"] = f'"{revision}"'


def must_match(request: HttpRequest, revision: str | int) -> None:
    """Ask that the caller changes what it has read.

    Raises ApiProblem `if_match_required` without If-Match, `stale` with the present ETag for another revision.
    """
    given = request.headers.get("If-Match", "").strip()
    if not given:
        raise ApiProblem("if_match_required", "send If-Match with the ETag of what you read")
    known = [part.strip().removeprefix("W/").strip('"') for part in given.split(",")]
    if given != "*" and str(revision) not in known:
        raise ApiProblem("stale", "this was changed since you read it", etag=f'"{revision}"')


def list_format(request: HttpRequest) -> str:
    """`csv` or `ndjson`, by the Content-Type. Raises ApiProblem `media_type` for any other."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in FORMATS:
        raise ApiProblem("media_type", f"send one of {', '.join(sorted(FORMATS))}")
    return FORMATS[kind]
