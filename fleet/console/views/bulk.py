"""Bulk actions on the device list: what is selected, what each action would do, and the POST that does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from fleet.accounts.audit import Actor
from fleet.console import saved_views
from fleet.console.access import actor, page, scopes, see
from fleet.console.models import ListPage
from fleet.console.views.devices import chosen
from fleet.devices import groups, quarantine
from fleet.devices.errors import DeviceError, GroupError, QuarantineError
from fleet.devices.models import Device, DeviceGroup, GroupKind
from ota import retries

MOST: Final = 1_000
"""Devices of an action that changes each of them, with an audit row each, while somebody waits."""
MOST_IN_GROUP: Final = 100_000
TICKED: Final = 50
WRITE: Final = "devices:write"
RETRY_SCOPE: Final = "rollouts:write"


@dataclass(frozen=True)
class Selection:
    """Devices that are acted on. of: `all` or `ticked`. error: of the query, which selects nothing then."""

    ids: list[str]
    of: str
    error: dict[str, Any] | None = None

    @property
    def digest(self) -> str:
        """What the form carries from the preview to the POST: other devices, as many, are another one."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:16]


@require_http_methods(["GET", "HEAD", "POST"])
@page(WRITE)
def devices(request: HttpRequest) -> HttpResponse:
    """GET parameters: the device list's filter, and `of`: `all` that match, or `ticked` with `id` for each.
    POST: `verb` on them; 409 with both counts, and nothing done, when they are not those of the preview.
    """
    selection = _selection(request)
    if request.method != "POST":
        return _page(request, selection, status=422 if selection.error or not selection.ids else 200)
    verb, typed = request.POST.get("verb", ""), request.POST.get("reason", "")
    if request.POST.get("shown", "") != selection.digest:
        return _page(request, selection, has_moved=True, status=409)
    if verb not in _ACTS or (verb == "retry" and RETRY_SCOPE not in scopes(request)):
        return _page(request, selection, problem="validation: choose what is to be done", status=422)
    if len(selection.ids) > _most(verb):
        text = f"too_large: {len(selection.ids):,} devices, at most {_most(verb):,} in one action"
        return _page(request, selection, problem=text, status=422)
    try:
        with transaction.atomic():
            done = _ACTS[verb](selection.ids, request.POST.get("group", ""), typed, actor(request))
    except DeviceError as error:
        return _page(request, selection, problem=f"{error.code}: {error.text}", status=422)
    messages.success(request, done)
    query = saved_views.normal(ListPage.DEVICES, request.GET.urlencode())
    return see(reverse("console:devices") + (f"?{query}" if query else ""))


def _selection(request: HttpRequest) -> Selection:
    if request.GET.get("of") == "ticked":
        ids = sorted({value[:32] for value in request.GET.getlist("id")[:TICKED]})
        rows = Device.objects.filter(pk__in=ids, retired_at=None)
        return Selection(list(rows.order_by("pk").values_list("pk", flat=True)), "ticked")
    query, rows = chosen(request, now=timezone.now())
    ids = list(rows.order_by("pk").values_list("pk", flat=True)[: MOST_IN_GROUP + 1])
    return Selection(ids, "all", query.error)


def _most(verb: str) -> int:
    return MOST_IN_GROUP if verb == "group" else MOST


def _group(ids: list[str], group: str, reason: str, by: Actor) -> str:
    row = DeviceGroup.objects.filter(pk=group[:32], kind=GroupKind.STATIC).first()
    if row is None:
        raise GroupError("unknown_group", "choose a static group", field="group")
    made = groups.add_members(row, ids, actor=by, now=timezone.now())
    return f"{made['added']} joined {row.pk}, which has {made['members']} members now."


def _quarantine(ids: list[str], group: str, reason: str, by: Actor) -> str:
    now = timezone.now()
    n = sum(quarantine.quarantine(pk, reason=reason, actor=by, now=now) for pk in ids)
    return f"{n} in quarantine: no rollout takes them. {_rest(len(ids) - n, 'in quarantine')}".strip()


def _release(ids: list[str], group: str, reason: str, by: Actor) -> str:
    now = timezone.now()
    n = sum(quarantine.release(pk, reason=reason, actor=by, now=now) for pk in ids)
    return f"{n} released. {_rest(len(ids) - n, 'in service')}".strip()


def _retry(ids: list[str], group: str, reason: str, by: Actor) -> str:
    found = retries.retry_devices(ids, actor=by, now=timezone.now(), reason=reason.strip()[:500])
    if not found:
        raise QuarantineError("validation", "none of them has a failed attempt that another one may better")
    return f"{sum(found.values())} devices are tried again, in {len(found)} rollout(s)."


def _rest(n: int, where: str) -> str:
    return f"{n} were {where} already." if n else ""


_ACTS: Final[dict[str, Callable[[list[str], str, str, Actor], str]]] = {
    "group": _group,
    "quarantine": _quarantine,
    "release": _release,
    "retry": _retry,
}


def _page(
    request: HttpRequest,
    selection: Selection,
    *,
    has_moved: bool = False,
    problem: str = "",
    status: int = 200,
) -> HttpResponse:
    rows = Device.objects.filter(pk__in=selection.ids)
    is_small = len(selection.ids) <= MOST
    may_retry = RETRY_SCOPE in scopes(request) and is_small and bool(selection.ids)
    shown = request.POST.get("count", "")
    context = {
        "selection": selection,
        "n": len(selection.ids),
        "is_cut": len(selection.ids) > MOST_IN_GROUP,
        "summary": groups.summary(rows) if selection.ids else None,
        "held": rows.filter(quarantined_at__isnull=False).count() if selection.ids else 0,
        "retried": _tries(request, selection) if may_retry else {},
        "may_retry": may_retry,
        "static": DeviceGroup.objects.filter(kind=GroupKind.STATIC).values_list("pk", flat=True)[:200],
        "is_small": is_small,
        "most": MOST,
        "has_moved": has_moved,
        "shown_count": int(shown) if shown.isascii() and shown.isdigit() and len(shown) < 9 else None,
        "problem": problem,
        "verb": request.POST.get("verb", ""),
        "reason": request.POST.get("reason", "")[:500],
        "group": request.POST.get("group", "")[:32],
        "back": saved_views.normal(ListPage.DEVICES, request.GET.urlencode()),
    }
    return render(request, "console/bulk.html", context, status=status)


def _tries(request: HttpRequest, selection: Selection) -> dict[str, int]:
    return retries.retry_devices(selection.ids, actor=actor(request), now=timezone.now(), dry_run=True)
