"""Alerts: the list, the page of one with its evidence, its verbs, and the rules behind them."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from fleet.alerts import machine, silences
from fleet.alerts.choices import ALERT_ACTIVE, ALERT_VERBS, AlertState, Severity
from fleet.alerts.errors import AlertError
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert, Rule
from fleet.alerts.pausing import subject
from fleet.console import alert_rows, alert_words, query_box, row_export, saved_views
from fleet.console.access import actor, page
from fleet.console.context import spoken
from fleet.console.models import ListPage
from fleet.console.paging import page_of
from fleet.devices.models import Device
from ota.models import Rollout

DEVICES = 30
EVENTS = 60
FOLDED = 60


@require_safe
@page("telemetry:read")
def alert_list(request: HttpRequest) -> HttpResponseBase:
    """Alerts, open ones first, then newest first; GET parameters q (a query over devices), state and severity
    filter; `format=csv` or `json` gives every row that matches as a file. A query that is wrong selects
    nothing, says where, and answers 422.
    """
    now = timezone.now()
    query = query_box.asked(request, now=now)
    state, severity = (request.GET.get(name, "")[:16] for name in ("state", "severity"))
    rows = spoken()
    if state in AlertState.values:
        rows = rows.filter(state=state)
    if severity in Severity.values:
        rows = rows.filter(severity=severity)
    if query.q:
        rows = rows.none() if query.condition is None else rows.filter(_about(query.condition))
    if (form := row_export.wanted(request)) and not query.error:
        return row_export.answer(request, alert_rows.listing(rows), form)
    found = alert_rows.page_of_alerts(request, rows)
    active = list(silences.active(now))
    hiding = silences.hiding([one for one in found.rows if one.state in ALERT_ACTIVE], now=now, among=active)
    context = {
        "page": found,
        "tools": saved_views.tools(request, ListPage.ALERTS),
        "items": [{"alert": row, "silence": hiding.get(row.pk), **_said(row)} for row in found.rows],
        "silences": len(active),
        "query": query,
        "error": query.error,
        "query_fields": query_box.help_of_fields(),
        "query_examples": query_box.EXAMPLES,
        "state": state,
        "severity": severity,
        "states": AlertState.choices,
        "severities": Severity.choices,
        "is_filtered": bool(query.q or state or severity),
        "armed": Rule.objects.filter(is_enabled=True).count(),
    }
    return render(request, "console/alerts.html", context, status=422 if query.error else 200)


def _about(condition: Q) -> Q:
    """Alerts of the devices that fit, and of a part of the fleet whose evidence names one of them.

    Only devices that such an evidence names come here by name: a query may mean the whole fleet.
    """
    fits = Device.objects.filter(condition)
    named = {
        pk: set(devices or ())
        for pk, devices in Alert.objects.filter(device_id="").values_list("pk", "evidence__devices")
    }
    known = set(fits.filter(pk__in=set().union(*named.values())).values_list("pk", flat=True))
    parts = [pk for pk, devices in named.items() if devices & known]
    return Q(device_id__in=fits.values("pk")) | Q(pk__in=parts)


def _said(row: Alert) -> dict[str, Any]:
    return {
        "label": alert_words.label(row.kind),
        "subject": subject(row),
        "sentence": alert_words.sentence(row),
    }


@require_safe
@page("telemetry:read")
def alert(request: HttpRequest, alert_id: uuid.UUID) -> HttpResponse:
    """One alert: what was seen, about what, what to do next, and what happened."""
    return _alert_page(request, _alert(alert_id))


@require_POST
@page("devices:write")
def acknowledge(request: HttpRequest, alert_id: uuid.UUID) -> HttpResponse:
    """Say that somebody looks after it."""
    row = _alert(alert_id)
    try:
        machine.acknowledge(
            row, actor=actor(request), now=timezone.now(), note=request.POST.get("note", "")[:1_000]
        )
    except AlertError as error:
        return _alert_page(request, row, error=error)
    messages.success(request, "Acknowledged. You are named as who looks after it.")
    return _to(row)


@require_POST
@page("devices:write")
def resolve(request: HttpRequest, alert_id: uuid.UUID) -> HttpResponse:
    """End it by hand, with a reason."""
    row = _alert(alert_id)
    try:
        machine.resolve(
            row, actor=actor(request), now=timezone.now(), reason=request.POST.get("reason", "")[:1_000]
        )
    except AlertError as error:
        return _alert_page(request, row, error=error)
    messages.success(request, "Resolved. It opens again if its rule still fires.")
    return _to(row)


@require_safe
@page("telemetry:read")
def rule_list(request: HttpRequest) -> HttpResponse:
    """Rules by name: what each watches for, from where on, whether it is on, why it could not be asked."""
    found = page_of(request, Rule.objects.all())
    items = [
        {
            "rule": row,
            "label": alert_words.label(row.kind),
            "text": KINDS[row.kind].text if row.kind in KINDS else "",
            "threshold": alert_words.threshold(row.kind, row.threshold),
        }
        for row in found.rows
    ]
    return render(request, "console/alert_rules.html", {"page": found, "items": items})


def _alert(alert_id: uuid.UUID) -> Alert:
    row = Alert.objects.select_related("folded_into").filter(pk=alert_id).first()
    if row is None:
        raise Http404(f"no alert {alert_id}")
    return row


def _alert_page(request: HttpRequest, row: Alert, *, error: AlertError | None = None) -> HttpResponse:
    events = list(row.events.order_by("-id")[:EVENTS])
    paused = [event.data["rollout"] for event in events if event.verb == "paused" and "rollout" in event.data]
    devices = list(row.evidence.get("devices", []))
    folded = row.folded.order_by("-id")
    hiding = silences.hiding([row] if row.state in ALERT_ACTIVE else [], now=timezone.now())
    context = {
        "silence": hiding.get(row.pk),
        "alert": row,
        **_said(row),
        "span": alert_words.span(row.evidence),
        "devices": devices[:DEVICES],
        "n_devices": len(devices),
        "rollouts": Rollout.objects.filter(pk__in=paused),
        "advice": KINDS[row.kind].advice if row.kind in KINDS else "",
        "folded": folded[:FOLDED],
        "n_folded": folded.count(),
        "events": events,
        "allowed": ALERT_VERBS[row.state],
        "error": error,
    }
    return render(request, "console/alert.html", context, status=422 if error else 200)


def _to(row: Alert) -> HttpResponse:
    answer = HttpResponseRedirect(reverse("console:alert", args=[row.pk]))
    answer.status_code = 303
    return answer
