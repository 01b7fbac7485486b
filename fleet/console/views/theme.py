"""The theme: a cookie, so that the server renders it without a flash."""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

YEAR_S = 365 * 86_400


def safe_next(request: HttpRequest, wanted: str) -> str:
    """`wanted` when it is a path of ours, else the overview."""
    is_ours = url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()})
    return wanted if is_ours else "/"


@require_POST
def choose(request: HttpRequest) -> HttpResponse:
    """Keep `light` or `dark`; anything else follows the system again."""
    answer = HttpResponseRedirect(safe_next(request, request.POST.get("next", "")))
    answer.status_code = 303
    if (theme := request.POST.get("theme", "")) in {"light", "dark"}:
        answer.set_cookie(
            "theme", theme, max_age=YEAR_S, samesite="Lax", secure=request.is_secure(), httponly=True
        )
    else:
        answer.delete_cookie("theme", samesite="Lax")
    return answer
