"""Search over everything that has an id or a name."""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_safe

from fleet.accounts.scopes import READ
from fleet.console import search
from fleet.console.access import page, scopes


@require_safe
@page(*READ)
def results(request: HttpRequest) -> HttpResponse:
    """What begins with the GET parameter find; one thing that is exactly that is gone to straight away."""
    text = request.GET.get("find", "").replace("\0", " ").strip()[: search.MAX_CHARS]
    found = search.find(text, scopes=scopes(request))
    if (hit := search.only_exact(found)) is not None:
        return HttpResponseRedirect(hit.url)
    context = {"find": text, "found": found, "n": sum(len(kind.hits) for kind in found)}
    return render(request, "console/search.html", context)
