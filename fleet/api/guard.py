"""What stands in front of every view of the API, where no exception handler reaches."""

import functools
from collections.abc import Callable

from django.http import Http404, HttpRequest, HttpResponse

from fleet.api.errors import problem
from fleet.api.limits import limit_of, refusal


def guarded(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A view that refuses oversized bodies by their Content-Length and paths with NUL, answers a wrong method
    with a problem document, and tells a token how much of its rate is left.
    """

    @functools.wraps(view)
    def wrapped(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        limit = limit_of(request.path)
        length = request.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > limit:
            return problem(request, 413, "too_large", refusal(limit), limit=limit)
        if "\0" in request.path:
            return problem(request, 404, "not_found", "there is nothing at this path")
        try:
            answer = view(request, *args, **kwargs)
        except Http404:
            return problem(request, 404, "not_found", "there is nothing at this path")
        used = getattr(request, "rate", None)
        if used is not None:
            used.tell(answer)
            if answer.status_code == 429:
                answer["Retry-After"] = str(used.reset_s)
        if answer.status_code != 405:
            return answer
        names = sorted(answer.headers.get("Allow", "").split(", "))
        allowed = ", ".join(names)
        refused = problem(
            request,
            405,
            "method",
            f"{request.method} is not served here; allowed: {allowed}",
            allowed=names,
        )
        refused["Allow"] = allowed
        return refused

    return wrapped
