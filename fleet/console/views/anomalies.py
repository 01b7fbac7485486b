"""The anomaly grid: the devices with the most anomalies, hour by hour."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from fleet.console import charts, heat, query_box
from fleet.console.access import page
from fleet.devices import errors as devices_errors
from fleet.devices.query import MAX_CHARS
from fleet.recent import recent
from fleet.telemetry import queries
from fleet.telemetry.errors import QueryError
from fleet.telemetry.fields import FIELDS

DEVICES = 25
HOURS = 24
HOUR = timedelta(hours=1)
FRESH_S, KEPT_S = 30, 300
"""How old the choice of devices may be when it takes long; their hours are of now."""


@require_safe
@page("telemetry:read")
def anomalies(request: HttpRequest) -> HttpResponse:
    """The page. Devices are chosen by their days (yesterday and today), hours are those of the last day."""
    now = timezone.now()
    q = request.GET.get("q", "").strip()[: MAX_CHARS + 1]
    context: dict[str, Any] = {
        "q": q,
        "query_fields": query_box.help_of_fields(FIELDS),
        "query_examples": ("class==s3-8m", "model==activity;version=ge=2.0.0"),
        "height": heat.HEIGHT,
    }
    status = 200
    try:
        context |= _grid(q, now)
    except QueryError as error:
        context["error"], status = error, 422
    except (devices_errors.QueryError, devices_errors.GroupError) as error:
        context["query_error"], status = query_box.explained(q, error), 422
    if not context.get("rows"):
        context["last_window"] = queries.newest_window()
    return render(request, "console/anomalies.html", context, status=status)


def _grid(q: str, now: datetime) -> dict[str, Any]:
    name = f"anomalies:{now:%Y-%m-%d}:{hashlib.sha256(q.encode()).hexdigest()}"
    top, _ = recent(
        name,
        lambda at: queries.top_anomalous(now=at, q=q, limit=DEVICES),
        now=now,
        fresh_s=FRESH_S,
        kept_s=KEPT_S,
    )
    if not top.items:
        return {"rows": [], "as_of": top.as_of}
    end = now.astimezone(UTC)
    start = end.replace(minute=0, second=0, microsecond=0) - (HOURS - 1) * HOUR
    asked = queries.TelemetryQuery(
        metric="anomaly_rate", agg="mean", start=start, end=end, step_s=3600, group_by=("device",),
        devices=tuple(one.device_id for one in top.items), q=q,
    )  # fmt: skip
    found = queries.query(asked, now=now)
    hours = {
        one.labels["device"]: [heat.Hour(point.t, point.value, point.n) for point in one.points]
        for one in found.series
    }
    strips = heat.strips([(one.device_id, hours.get(one.device_id, [])) for one in top.items])
    rows = [
        {"device": one, "strip": strip, "hours": hours.get(one.device_id, [])}
        for one, strip in zip(top.items, strips, strict=True)
    ]
    return {
        "rows": rows,
        "xs": charts.time_ticks(start, start + HOURS * HOUR),
        "gaps": found.gaps,
        "as_of": top.as_of,
        "call": _call(asked),
        "sentence": _sentence(rows),
    }


def _sentence(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    device = f"{first['device'].device_id} stands out most: {first['strip'].said}"
    return f"{device}." if len(rows) == 1 else f"{device}. {len(rows)} devices are shown, the worst first."


def _call(asked: queries.TelemetryQuery) -> str:
    """The REST call with the same hours."""
    body = {
        "metric": asked.metric, "agg": asked.agg, "group_by": list(asked.group_by),
        "filters": {"devices": list(asked.devices)}, **({"q": asked.q} if asked.q else {}),
        "from": f"{asked.start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{asked.end:%Y-%m-%dT%H:%M:%SZ}",
        "step": asked.step_s,
    }  # fmt: skip
    return f"POST /api/v1/telemetry:query\n{json.dumps(body, indent=1)}"
