"""Keyboard shortcuts: what there is, as a page, and the switch that turns them off (WCAG 2.1.4)."""

from typing import Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleet.accounts.scopes import READ
from fleet.console.access import page, see
from fleet.console.views.theme import YEAR_S

COOKIE: Final = "shortcuts"


@require_http_methods(["GET", "HEAD", "POST"])
@page(*READ)
def keyboard(request: HttpRequest) -> HttpResponse:
    """GET: the shortcuts. POST `shortcuts=off` or `on`: a cookie, as the theme is, since keys belong to the
    machine a person sits at: someone who dictates on one may type on another.
    """
    if request.method != "POST":
        return render(request, "console/settings/keyboard.html")
    is_off = request.POST.get("shortcuts") == "off"
    messages.success(request, "Shortcuts are off." if is_off else "Shortcuts are on.")
    answer = see(reverse("console:keyboard"))
    if is_off:
        answer.set_cookie(
            COOKIE, "off", max_age=YEAR_S, samesite="Lax", secure=request.is_secure(), httponly=True
        )
    else:
        answer.delete_cookie(COOKIE, samesite="Lax")
    return answer
