"""The device list and the page of one device."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Exists, OuterRef, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from fleet.console import charts, device_rows, query_box, row_export, saved_views
from fleet.console.access import actor, kept, limit_of, page, refused
from fleet.console.banks import draw
from fleet.console.models import ListPage
from fleet.console.paging import COUNTED, page_of
from fleet.console.states import tone_of
from fleet.devices import limits, quarantine, retirement
from fleet.devices.errors import QuarantineError, RetirementError
from fleet.devices.models import Device, DeviceClass, DeviceEvent, DeviceGroup, DeviceSlot, Presence
from fleet.telemetry import queries
from ota import inventory, rollouts
from ota.choices import JOB_TERMINAL, ROLLOUT_LIVE
from ota.models import DesiredState, Job, Membership
from ota.rollout_lists import jobs_with_rollout

CHART_SPANS = {"15min": timedelta(minutes=15), "1h": timedelta(hours=1), "24h": timedelta(hours=24)}
TIMELINE = 60
QUARANTINED = "quarantined"
"""In the list's presence filter: devices in quarantine, whatever their presence."""


@require_safe
@page("devices:read", knows_limits=True)
def device_list(request: HttpRequest) -> HttpResponseBase:
    """Devices with what they run; GET parameters q (a query), find (part of an id), class, presence and run
    filter; `format=csv` or `json` gives every row that matches as a file. A query that is wrong selects
    nothing, says where, and answers 422.
    """
    asked = _asked(request)
    query, rows = chosen(request, now=timezone.now())
    if (form := row_export.wanted(request)) and not query.error:
        return row_export.answer(request, device_rows.listing(rows), form)
    is_filtered = bool(query.q) or any(asked.values())
    found = page_of(request, rows.prefetch_related("slots"), most=COUNTED if is_filtered else None)
    names = inventory.names([slot for row in found.rows for slot in row.slots.all()])
    last = queries.last_values([row.pk for row in found.rows])
    context = {
        "page": found,
        "tools": saved_views.tools(request, ListPage.DEVICES),
        "bulk_filter": [(name, value) for name, value in (("q", query.q), *asked.items()) if value],
        "items": [_item(row, names, last.get(row.pk)) for row in found.rows],
        "asked": asked,
        "query": query,
        "error": query.error,
        "as_group": _as_query(query, asked),
        "query_fields": query_box.help_of_fields(),
        "query_examples": query_box.EXAMPLES,
        "is_filtered": is_filtered,
        "all": _mine(request).filter(retired_at=None).count() if is_filtered else found.total,
        "classes": DeviceClass.objects.all(),
        "presences": [*Presence.choices, (QUARANTINED, "Quarantined")],
    }
    return render(request, "console/devices.html", context, status=422 if query.error else 200)


def _mine(request: HttpRequest) -> QuerySet[Device]:
    """Devices that the person may see, retired ones too."""
    return Device.objects.filter(limits.inside(limit_of(request), now=timezone.now()))


def chosen(request: HttpRequest, *, now: datetime) -> tuple[query_box.Asked, QuerySet[Device]]:
    """The query, and the devices in service that the URL's whole filter selects, of those the person may see:
    none for a wrong query.
    """
    query = query_box.asked(request, now=now)
    mine = Device.objects.filter(limits.inside(limit_of(request), now=now), retired_at=None)
    rows = _filtered(mine, _asked(request))
    if query.q:
        rows = rows.none() if query.condition is None else rows.filter(query.condition)
    return query, rows


def _asked(request: HttpRequest) -> dict[str, str]:
    return {name: request.GET.get(name, "").strip()[:64] for name in ("find", "class", "presence", "run")}


def _as_query(query: query_box.Asked, asked: dict[str, str]) -> str:
    """The whole filter as one query to save; "" when it is none, is wrong, or no query can say it."""
    if query.error or asked["find"] or asked["run"] == "none":
        return ""
    if asked["presence"] not in ("", Presence.ONLINE):
        return ""
    fields = {"class": asked["class"], "online": "true" if asked["presence"] else ""}
    return query_box.narrowed(query.q, **fields, **{"slot.0.digest": asked["run"]})


def _filtered(rows: QuerySet[Device], asked: dict[str, str]) -> QuerySet[Device]:
    if asked["find"]:
        rows = rows.filter(pk__contains=asked["find"])
    if asked["class"]:
        rows = rows.filter(device_class=asked["class"])
    if asked["presence"] == QUARANTINED:
        rows = rows.filter(quarantined_at__isnull=False)
    elif asked["presence"]:
        rows = rows.filter(presence=asked["presence"])
    if asked["run"] == "none":
        return rows.filter(~Exists(DeviceSlot.objects.filter(device=OuterRef("pk"), slot=0, run__gt="")))
    if asked["run"]:
        rows = rows.filter(slots__slot=0, slots__run=asked["run"])
    return rows


def _item(row: Device, names: dict[str, inventory.Name], last: dict[str, Any] | None) -> dict[str, Any]:
    slot = next((slot for slot in row.slots.all() if slot.slot == 0), None)
    name = names.get(slot.run) if slot else None
    target = names.get(slot.target) if slot and slot.target and slot.target != slot.run else None
    return {"device": row, "slot": slot, "name": name, "target": target, "last": last}


@require_safe
@page("devices:read", knows_limits=True)
def device(request: HttpRequest, device_id: str) -> HttpResponse:
    """One device: what it runs, why, what it did, how it does."""
    rows = _mine(request).select_related("device_class").prefetch_related("slots")
    row = rows.filter(pk=device_id).first()
    if row is None:
        raise Http404(f"no device {device_id}")
    now = timezone.now()
    span = request.GET.get("span", "")
    span = span if span in CHART_SPANS else "1h"
    slots = list(row.slots.all())
    names = inventory.names(slots)
    windows = queries.device_series(row.pk, now - CHART_SPANS[span], now)
    desired = DesiredState.objects.filter(device=row).first()
    context = {
        "device": row,
        "banks": [draw(slot, names) for slot in slots],
        "why": _why(row, now),
        "timeline": _timeline(row),
        "groups": list(DeviceGroup.objects.filter(members__device=row).values_list("pk", flat=True)),
        "last": queries.last_values([row.pk]).get(row.pk),
        "desired": desired,
        "span": span,
        "spans": [("15min", "15 min"), ("1h", "1 h"), ("24h", "24 h")],
        "accuracy": _chart(windows, "accuracy", now - CHART_SPANS[span], now),
        "latency": _chart(windows, "latency_mean_us", now - CHART_SPANS[span], now),
        "windows": windows[-50:],
        "unproven": _unproven(row.pk, now - CHART_SPANS[span], now),
    }
    return render(request, "console/device.html", context)


def _unproven(device_id: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """The newest windows that came without a MAC; none where nobody takes such."""
    return queries.unproven_series(device_id, start, end, limit=20) if settings.DEBUG_JSON else []


@require_http_methods(["POST"])
@page("devices:write", knows_limits=True)
def set_quarantine(request: HttpRequest, device_id: str) -> HttpResponse:
    """Put a device into quarantine, or release it: POST `verb` and `reason`, then back to its page."""
    row = _mine(request).filter(pk=device_id).first()
    verb = request.POST.get("verb", "")
    if row is None or verb not in ("quarantine", "release"):
        raise Http404(f"no device {device_id}, or no verb {verb[:16]}")
    back = reverse("console:device", args=[row.pk])
    reason = request.POST.get("reason", "")
    try:
        quarantine.change(row, verb, reason=reason, actor=actor(request), now=timezone.now())
    except QuarantineError as error:
        return refused(request, error, back=back)
    is_held = row.quarantined_at is not None
    messages.success(request, "In quarantine: no rollout takes it." if is_held else "Released.")
    answer = HttpResponseRedirect(back)
    answer.status_code = 303
    return answer


@require_http_methods(["GET", "HEAD", "POST"])
@page("devices:admin", asks_again=True, knows_limits=True)
def retire(request: HttpRequest, device_id: str) -> HttpResponse:
    """GET: what retiring the device means. POST: do it, then back to its page, which stays."""
    row = _mine(request).filter(pk=device_id).first()
    if row is None:
        raise Http404(f"no device {device_id}")
    if request.method != "POST":
        return _retire_page(request, row)
    back, reason = reverse("console:device", args=[row.pk]), request.POST.get("reason", "")
    try:
        retirement.retire(row.pk, reason=reason, actor=actor(request), now=timezone.now())
        messages.success(request, "Retired. Its access to the broker is gone.")
    except RetirementError as error:
        if error.code == "validation":
            return _retire_page(request, row, error=error, status=422)
        if error.code != "unavailable":
            return refused(request, error, back=back)
        told = f"{error.code}: {error.text}. Ask again to end its access."
        messages.error(request, told, extra_tags="bad")
    answer = HttpResponseRedirect(back)
    answer.status_code = 303
    return answer


def _retire_page(
    request: HttpRequest, row: Device, *, error: RetirementError | None = None, status: int = 200
) -> HttpResponse:
    live = Job.objects.filter(device=row).exclude(state__in=JOB_TERMINAL).select_related("rollout")
    reason = request.POST.get("reason", "") or kept(request).get("reason", "")
    context = {"device": row, "jobs": list(live), "error": error, "reason": reason}
    return render(request, "console/device_retire.html", context, status=status)


def _why(row: Device, now: Any) -> dict[str, Any] | None:
    """The newest rollout that has this device, and what it says about it; live rollouts first."""
    mine = Membership.objects.filter(device=row).select_related("rollout__manifest__version")
    member = (
        mine.filter(rollout__state__in=ROLLOUT_LIVE).order_by("-rollout__created_at").first()
        or mine.order_by("-rollout__created_at").first()
    )
    if member is None:
        return None
    said = rollouts.explain(member.rollout, row.pk, now=now)
    return {"rollout": member.rollout, **said} if said else None


def _timeline(row: Device) -> list[dict[str, Any]]:
    """What the device said and what was asked of it, newest first."""
    found: list[dict[str, Any]] = []
    for event in DeviceEvent.objects.filter(device=row)[:TIMELINE]:
        tone = "bad" if event.code else "neutral"
        found.append({"at": event.at, "text": event.text, "tone": tone, "icon": "chip", "sub": "", "url": ""})
    jobs = jobs_with_rollout(Job.objects.filter(device=row)).order_by("-created_at")
    for job in jobs[:20]:
        version = job.rollout.manifest.version
        what = "Revert from" if job.kind == "revert" else "Install of"
        progress = f", {job.have} of {job.total} chunks" if job.total and not job.finished_at else ""
        found.append(
            {
                "at": job.state_at or job.created_at,
                "text": f"{what} {version}, attempt {job.attempt}: {job.get_state_display().lower()}"
                + (f" ({job.code})" if job.code else "")
                + progress,
                "tone": tone_of("job", job.state),
                "icon": "rollout",
                "sub": job.rollout.name,
                "url": reverse("console:rollout", args=[job.rollout_id]),
            }
        )
    return sorted(found, key=lambda item: item["at"], reverse=True)[:TIMELINE]


def _chart(windows: list[dict[str, Any]], field: str, start: Any, end: Any) -> charts.Chart:
    """Windows by the version that was running, so that a change of model is seen."""
    series: dict[str, list[charts.Sample]] = {}
    for window in windows:
        label = f"{window['model']} {window['version']}"
        value = window[field] if window["inferences"] or field == "accuracy" else None
        series.setdefault(label, []).append(charts.Sample(window["at"], value))
    if field == "accuracy":
        title = "Proxy accuracy of each telemetry window"
        return charts.time_chart(
            title, series, start=start, end=end, unit="ratio", height=190, floor=0.0, ceiling=1.0
        )
    title = "Mean latency of an inference in each telemetry window"
    return charts.time_chart(title, series, start=start, end=end, unit="us", height=190, floor=0.0)
