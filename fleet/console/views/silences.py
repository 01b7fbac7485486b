"""Silences: which count now, who made them and until when; begin one, end one."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from fleet.alerts import silences
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Rule, Silence
from fleet.console import query_box
from fleet.console.access import actor, page
from fleet.console.once import sent_once
from fleet.console.paging import page_of
from fleet.devices.errors import DeviceError

SPANS: Final = (
    ("1", "1 hour"),
    ("4", "4 hours"),
    ("24", "1 day"),
    ("72", "3 days"),
    ("168", "7 days"),
    ("720", "30 days"),
)
"""How long a silence may be chosen to last: hours, and how people say it."""
WRITE: Final = "devices:write"


@require_safe
@page("telemetry:read")
def silence_list(request: HttpRequest) -> HttpResponse:
    """Silences, newest first, those that count now told apart. GET parameters q and rule fill the form in."""
    return _page(request, {"q": request.GET.get("q", "")[:2_000], "rule": request.GET.get("rule", "")[:32]})


@require_POST
@page(WRITE)
@sent_once
def begin(request: HttpRequest) -> HttpResponse:
    """Begin one; what is wrong about it answers 422 with everything that was typed."""
    asked = {name: request.POST.get(name, "")[:2_001] for name in ("q", "rule", "hours", "reason")}
    now = timezone.now()
    try:
        if asked["hours"] not in dict(SPANS):
            raise AlertError("validation", "say how long it lasts", field="until")
        silences.create(
            q=asked["q"],
            until=now + timedelta(hours=int(asked["hours"])),
            reason=asked["reason"],
            rule_name=asked["rule"],
            actor=actor(request),
            now=now,
        )
    except (AlertError, DeviceError) as problem:
        return _page(request, asked, error=problem)
    messages.success(request, "Begun. Alerts open all the same; what is open in the end is told then.")
    return _back()


@require_POST
@page(WRITE)
def end(request: HttpRequest, silence_id: uuid.UUID) -> HttpResponse:
    """End one before its time."""
    row = Silence.objects.filter(pk=silence_id).first()
    if row is None:
        raise Http404(f"no silence {silence_id}")
    silences.end(row, actor=actor(request), now=timezone.now())
    messages.success(request, "Ended. What it hid and is still open is told now.")
    return _back()


def _page(
    request: HttpRequest, asked: dict[str, str], *, error: AlertError | DeviceError | None = None
) -> HttpResponse:
    context = {
        "page": page_of(request, Silence.objects.all(), is_descending=True),
        "active": set(silences.active(timezone.now()).values_list("pk", flat=True)),
        "asked": asked,
        "error": error,
        "rules": Rule.objects.order_by("name").values_list("name", flat=True),
        "spans": SPANS,
        "query_fields": query_box.help_of_fields(),
        "query_examples": query_box.EXAMPLES,
    }
    return render(request, "console/silences.html", context, status=422 if error else 200)


def _back() -> HttpResponse:
    answer = HttpResponseRedirect(reverse("console:silences"))
    answer.status_code = 303
    return answer
