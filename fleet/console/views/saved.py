"""Saved views of lists: keep the present filter, forget one."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from fleet.accounts.scopes import READ
from fleet.console import saved_views
from fleet.console.access import page, see
from fleet.console.models import SavedView
from fleet.console.saved_views import FILTERS, ViewError


@require_POST
@page(*READ)
def save(request: HttpRequest) -> HttpResponse:
    """Keep POST `query` of the list `page` under `name`, then back to the list as it was."""
    name = request.POST.get("page", "")
    if name not in FILTERS:
        raise Http404("no such list")
    query = saved_views.normal(name, request.POST.get("query", ""))
    try:
        row = saved_views.save(
            request.user, name, name=request.POST.get("name", ""), query=query, now=timezone.now()
        )
        messages.success(request, f"Saved as {row.name}.")
    except ViewError as error:
        told = f"{error.code}: {error.text}. Request {getattr(request, 'request_id', '')}."
        messages.error(request, told, extra_tags="bad")
    return see(reverse(f"console:{name}") + (f"?{query}" if query else ""))


@require_POST
@page(*READ)
def forget(request: HttpRequest, view_id: int) -> HttpResponse:
    """Forget one of one's own views; 404 for another's."""
    row = SavedView.objects.filter(pk=view_id, owner=request.user.pk).first()
    if row is None:
        raise Http404("no such view")
    row.delete()
    messages.success(request, f"{row.name} was forgotten. What it showed is still there.")
    return see(reverse(f"console:{row.page}"))
