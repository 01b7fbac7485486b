"""The form of a version's page that makes an alias point to it."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from fleet.console.access import actor, page
from ota import aliases
from ota.models import ModelVersion


@require_POST
@page("models:write")
def point(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """Make an alias point to this version. `revs` are the revisions the person saw, as `name=rev`: an alias
    that was changed or made since is left alone, and the refusal says where it points.
    """
    row = ModelVersion.objects.filter(model_id=name, version=version).first()
    if row is None:
        raise Http404(f"no version {version} of {name}")
    alias = request.POST.get("alias", "").strip()[:64]
    reason = request.POST.get("reason", "").strip()[:500]
    seen = dict(part.rsplit("=", 1) for part in request.POST.get("revs", "").split() if "=" in part)
    rev = seen.get(alias)
    made = aliases.point(
        row,
        alias,
        rev=int(rev) if rev is not None and rev.isdecimal() and len(rev) < 10 else None,
        reason=reason,
        actor=actor(request),
        now=timezone.now(),
    )
    messages.success(request, f"{made.name} points to {row} now.")
    answer = HttpResponseRedirect(reverse("console:version", args=[name, version]) + "#aliases")
    answer.status_code = 303
    return answer
