"""Enrol devices: tickets for boards of one's own, or simulated devices on this machine."""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleet.console import simulated
from fleet.console.access import actor, ask_again, kept, page
from fleet.console.once import sent_once
from fleet.devices import enrolment
from fleet.devices.errors import EnrolmentError
from fleet.devices.models import DeviceClass
from ota.models import ModelVersion

MOST_TICKETS = 200


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@page("devices:admin")
@sent_once
def new_devices(request: HttpRequest) -> HttpResponse:
    """The page; on POST make tickets and show them this once. Who holds one can join the fleet: password or
    code are asked for again.
    """
    if request.method != "POST":
        return _page(request, said=kept(request))
    if (asked := ask_again(request)) is not None:
        return asked
    said = _said(request)
    try:
        tokens = enrolment.create_tokens(
            said["class"], _count(said["count"], MOST_TICKETS), actor=actor(request), now=timezone.now()
        )
    except EnrolmentError as error:
        return _page(request, said=said, error=error)
    tickets = "\n".join(
        json.dumps({"token": token, "class": said["class"], "url": settings.PUBLIC_URL}) for token in tokens
    )
    return _page(request, said=said, tickets=tickets, made=len(tokens))


@require_POST
@page("devices:admin")
def simulate(request: HttpRequest) -> HttpResponse:
    """Start simulated devices, then back to the page that follows them."""
    said = _said(request)
    try:
        count = _count(said["count"], simulated.MOST)
        made = simulated.start(count, said["class"], actor=actor(request), now=timezone.now())
    except EnrolmentError as error:
        return _page(request, said=said, error=error, is_simulated=True)
    words = f"{len(made)} simulated device{'' if len(made) == 1 else 's'}"
    messages.success(request, f"{words} asked for: {made[0]} and on. They come online in a moment.")
    answer = HttpResponseRedirect(reverse("console:new-devices"))
    answer.status_code = 303
    return answer


@require_safe
@page("devices:admin")
def fragment(request: HttpRequest) -> HttpResponse:
    """How far the simulated devices are."""
    return render(request, "console/simulated_live.html", _live())


def _live() -> dict[str, Any]:
    return {
        "there": simulated.now_there(timezone.now()),
        "has_versions": ModelVersion.objects.exists(),
        "find": simulated.PREFIX,
    }


def _said(request: HttpRequest) -> dict[str, str]:
    return {name: request.POST.get(name, "").strip()[:32] for name in ("class", "count")}


def _count(text: str, most: int) -> int:
    """A number of devices. Raises EnrolmentError `validation`."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise EnrolmentError("validation", f"a number from 1 to {most}", field="count")
    return int(text)


def _page(
    request: HttpRequest,
    *,
    said: dict[str, str] | None = None,
    error: EnrolmentError | None = None,
    is_simulated: bool = False,
    **more: Any,
) -> HttpResponse:
    classes = list(DeviceClass.objects.all())
    context = {
        "said": said or {},
        "error": error,
        "is_simulated": is_simulated,
        "boards": sorted(classes, key=lambda row: (row.is_simulated, row.name)),
        "hosts": [row for row in classes if row.is_simulated],
        "is_offered": simulated.is_offered(),
        "usual": simulated.USUAL,
        "most": MOST_TICKETS,
        **_live(),
        **more,
    }
    status = 422 if error else 201 if "tickets" in more else 200
    return render(request, "console/new_devices.html", context, status=status)
