"""Telemetry: one metric by version over time, as a chart, a table and the API call that gives the same."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from fleet.console import charts, query_box
from fleet.console.access import limit_of, page
from fleet.devices import errors as devices_errors
from fleet.devices.query import MAX_CHARS
from fleet.telemetry import queries
from fleet.telemetry.errors import QueryError
from fleet.telemetry.fields import FIELDS
from fleet.telemetry.narrowing import narrowed
from ota.models import MLModel

# name in the URL: label, metric, kind, aggregation, unit, what it means
METRICS: dict[str, tuple[str, str, str, str, str, str]] = {
    "accuracy": (
        "Accuracy (proxy)",
        "accuracy",
        "proxy",
        "mean",
        "ratio",
        "Share of labelled inferences whose class agrees. Proxy: the labels are known on the device itself.",
    ),
    "accuracy-golden": (
        "Accuracy (golden)",
        "accuracy",
        "golden",
        "mean",
        "ratio",
        "Share of self-test vectors that pass. Golden: kernels and bytes are right; blind to drift.",
    ),
    "accuracy-delayed": (
        "Accuracy (delayed)",
        "accuracy",
        "delayed",
        "mean",
        "ratio",
        "Share of sampled inferences that agree with a later label. Delayed: true, where there are labels.",
    ),
    "accuracy-estimate": (
        "Accuracy (estimate)",
        "accuracy",
        "estimate",
        "mean",
        "ratio",
        "What mean confidence says of accuracy, without labels. An early hint while drift is quiet, else"
        " none: a fault can raise confidence.",
    ),
    "latency": ("Latency, mean", "latency_us", "", "mean", "us", "Mean time of one inference on the device."),
    "latency-max": ("Latency, maximum", "latency_us", "", "max", "us", "Slowest inference of the interval."),
    "latency-p95": (
        "Latency, p95",
        "latency_us",
        "",
        "p95",
        "us",
        "The time that 95 of 100 inferences stay below, within 1 %, from histograms. By the hour.",
    ),
    "anomalies": (
        "Anomaly share",
        "anomaly_rate",
        "",
        "mean",
        "ratio",
        "Share of inferences over the anomaly threshold.",
    ),
    "class-mix": (
        "Class mix",
        "class_mix",
        "",
        "mean",
        "ratio",
        "How inferences are shared out among their top classes; the largest six. By the hour.",
    ),
}
REASONS = {
    "uncalibrated": "No estimate: it has no reference of drift yet, or too few labels in it to know what its"
    " confidence means.",
    "drift_unknown": "No estimate: no sketch was judged by its reference in this range, or what was judged is"
    " kept no longer, so whether drift was quiet is not known.",
    "drift_active": "No estimate: devices drift, and confidence says nothing of accuracy then.",
}
QUERY_EXAMPLES = ("class==s3-8m;fw=ge=1.4.0", "model==activity;version=ge=2.0.0", "tag==line-2,group==pilot")
# range: how far back, bucket in seconds
RANGES: dict[str, tuple[timedelta, int]] = {
    "15min": (timedelta(minutes=15), 15),
    "1h": (timedelta(hours=1), 60),
    "6h": (timedelta(hours=6), 300),
    "24h": (timedelta(hours=24), 900),
    "7d": (timedelta(days=7), 7200),
}


@require_safe
@page("telemetry:read", knows_limits=True)
def explorer(request: HttpRequest) -> HttpResponse:
    """The page; the URL holds metric, range, end, model and query, so that a link shows the same again."""
    metric = request.GET.get("metric", "")
    metric = metric if metric in METRICS else "accuracy"
    span = request.GET.get("range", "")
    span = span if span in RANGES else "1h"
    model = request.GET.get("model", "")[:32]
    q = request.GET.get("q", "").strip()[: MAX_CHARS + 1]
    end, is_bad_end = _end(request)
    length, step_s = RANGES[span]
    asked = _question(metric, model, q, end, length, step_s)
    context: dict[str, Any] = {
        "metrics": [(name, entry[0]) for name, entry in METRICS.items()],
        "ranges": [
            (name, name.replace("min", " min").replace("h", " h").replace("d", " d")) for name in RANGES
        ],
        "metric": metric,
        "span": span,
        "model": model,
        "models": MLModel.objects.values_list("pk", flat=True)[:200],
        "q": q,
        "query_fields": query_box.help_of_fields(FIELDS),
        "query_examples": QUERY_EXAMPLES,
        "meaning": METRICS[metric][5],
        "unit": METRICS[metric][4],
        "end": end,
        "is_now": not request.GET.get("end"),
        "call": _call(asked),
        "error": QueryError("range_invalid", "end is no time like 2026-05-02T12:00") if is_bad_end else None,
    }
    status = 422 if is_bad_end else 200
    try:
        asked = replace(asked, q=narrowed(q, limit_of(request)))
        context |= _answer(asked, metric)
    except QueryError as error:
        context["error"], status = error, 422
    except (devices_errors.QueryError, devices_errors.GroupError) as error:
        context["query_error"], status = query_box.explained(q, error), 422
    if not context.get("rows") and not context.get("reasons") and limit_of(request) is None:
        context["last_window"] = queries.newest_window()
    return render(request, "console/telemetry.html", context, status=status)


def _end(request: HttpRequest) -> tuple[datetime, bool]:
    """(end of the range, True when the one asked for is no time)."""
    now = timezone.now()
    given = request.GET.get("end", "").strip()
    if not given:
        return now, False
    try:
        end = datetime.fromisoformat(given[:40])
    except ValueError:
        return now, True
    return (end if end.tzinfo else end.replace(tzinfo=UTC)), False


def _question(
    metric: str, model: str, q: str, end: datetime, length: timedelta, step_s: int
) -> queries.TelemetryQuery:
    _, name, kind, agg, _, _ = METRICS[metric]
    step_s = max(step_s, 3600) if agg == "p95" or name == "class_mix" else step_s
    start = end - length
    if step_s % 3600 == 0:  # whole hours are read from their rollup
        start = start.replace(minute=0, second=0, microsecond=0)
    return queries.TelemetryQuery(
        metric=name,
        kind=kind,
        agg=agg,
        start=start,
        end=end,
        step_s=step_s,
        group_by=("model", "version"),
        models=(model,) if model else (),
        q=q,
        limit=6,
    )


def _answer(asked: queries.TelemetryQuery, metric: str) -> dict[str, Any]:
    found = queries.query(asked, now=timezone.now())
    series = {
        _label(one): [charts.Sample(point.t, point.value, point.lower, point.upper) for point in one.points]
        for one in found.series
    }
    label, *_ = METRICS[metric]
    unit = METRICS[metric][4]
    ceiling = 1.0 if unit == "ratio" else None
    chart = charts.time_chart(
        _sentence(label, series, unit, nothing="none to give" if asked.is_estimate else "nothing measured"),
        series,
        start=asked.buckets()[0],
        end=asked.end,
        unit=unit,
        height=320,
        floor=0.0,
        ceiling=ceiling,
    )
    rows = [
        {"at": point.t, "label": _label(one), "point": point}
        for one in found.series
        for point in one.points
        if point.value is not None
    ]
    rows.sort(key=lambda row: (row["at"], row["label"]), reverse=True)
    return {
        "chart": chart,
        "rows": rows[:500],
        "left_off": found.series_left_off,
        "step_s": asked.step_s,
        "gaps": found.gaps,
        "calibrations": [
            one
            for one in found.calibrations
            if (one["model"], one["version"])
            in {(each.labels["model"], each.labels["version"]) for each in found.series if not each.reason}
        ],
        "reasons": [(_label(one), one.reason, REASONS[one.reason]) for one in found.series if one.reason],
    }


def _label(one: queries.Series) -> str:
    """What a series is called: its run, and its class where there is one."""
    name = f"{one.labels['model']} {one.labels['version']}"
    return f"{name} class {one.labels['class']}" if "class" in one.labels else name


def _sentence(label: str, series: dict[str, list[charts.Sample]], unit: str, *, nothing: str) -> str:
    """What the chart shows, in words: the newest value of each series."""
    parts = []
    for name, samples in series.items():
        newest = next((sample.value for sample in reversed(samples) if sample.value is not None), None)
        if newest is not None:
            parts.append(f"{name} {charts.amount(newest, unit, 0.001 if unit == 'ratio' else 100)}")
    return f"{label}, newest value: {'; '.join(parts)}" if parts else f"{label}: {nothing}"


def _call(asked: queries.TelemetryQuery) -> str:
    """The REST call with the same answer."""
    body = {
        "metric": asked.metric,
        **({"kind": asked.kind} if asked.kind else {}),
        "agg": asked.agg,
        "group_by": list(asked.group_by),
        **({"filters": {"models": list(asked.models)}} if asked.models else {}),
        **({"q": asked.q} if asked.q else {}),
        "from": f"{asked.start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "to": f"{asked.end.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "step": asked.step_s,
        "limit": asked.limit,
    }
    return f"POST /api/v1/telemetry:query\n{json.dumps(body, indent=1)}"
