"""Two cohorts side by side: versions, classes, groups, or a rollout's waves and its control."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from fleet.console import interval_chart, query_box
from fleet.console.access import page
from fleet.devices import errors as devices_errors
from fleet.devices.query import MAX_CHARS, parse
from fleet.devices.query_terms import Comparison as Term
from fleet.devices.query_terms import Kind, Value, show
from fleet.telemetry import queries
from fleet.telemetry.comparison import Comparison, Difference
from fleet.telemetry.errors import QueryError
from fleet.telemetry.fields import FIELDS
from fleet.telemetry.models import Version
from ota.models import Rollout

# name in the URL: label, metric, kind, unit
METRICS: dict[str, tuple[str, str, str, str]] = {
    "accuracy": ("Accuracy (proxy)", "accuracy", "proxy", "ratio"),
    "accuracy-delayed": ("Accuracy (delayed)", "accuracy", "delayed", "ratio"),
    "accuracy-golden": ("Accuracy (golden)", "accuracy", "golden", "ratio"),
    "anomalies": ("Anomaly share", "anomaly_rate", "", "ratio"),
    "latency": ("Latency, mean", "latency_us", "", "us"),
    "confidence": ("Confidence", "confidence", "", "ratio"),
}
DAYS = {"1": "Today", "7": "7 days", "30": "30 days", "90": "90 days"}
ROLLOUTS = 50
PAIRS = 5
_BOXES = ("a", "b", "q")


@require_safe
@page("telemetry:read")
def compare(request: HttpRequest) -> HttpResponse:
    """The page; the URL holds all that was asked. Whole UTC days up to now, so days of devices answer it."""
    now = timezone.now()
    given = {name: request.GET.get(name, "").strip()[: MAX_CHARS + 1] for name in _BOXES}
    metric = request.GET.get("metric", "")
    metric = metric if metric in METRICS else "accuracy"
    days = request.GET.get("days", "")
    days = days if days in DAYS else "7"
    rollout = request.GET.get("rollout", "")[:36]
    rollouts = list(Rollout.objects.exclude(started_at=None).order_by("-started_at")[:ROLLOUTS])
    context: dict[str, Any] = {
        "metrics": [(name, entry[0]) for name, entry in METRICS.items()],
        "metric": metric,
        "label": METRICS[metric][0],
        "ranges": DAYS.items(),
        "days": days,
        "rollouts": rollouts,
        "rollout": rollout,
        **given,
        "query_fields": query_box.help_of_fields(FIELDS),
        "query_examples": ("version==2.0.0", "class==s3-8m", "group==pilot"),
    }
    status = 200
    if rollout or (given["a"] and given["b"]):
        status = _answer(context, given, metric, days, rollout, now)
    else:
        context["pairs"] = _pairs()
        context["is_half"] = bool(given["a"] or given["b"])
    return render(request, "console/compare.html", context, status=status)


def _answer(
    context: dict[str, Any], given: dict[str, str], metric: str, days: str, rollout: str, now: datetime
) -> int:
    """Put the comparison into the context, or why there is none; returns the status."""
    _, name, kind, unit = METRICS[metric]
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = midnight - timedelta(days=int(days) - 1)
    try:
        found = queries.compare(
            name, start, now, now=now, kind=kind, rollout=uuid.UUID(rollout) if rollout else None,
            a=given["a"], b=given["b"], q=given["q"],
        )  # fmt: skip
    except ValueError:
        context["error"] = QueryError("group_by_not_supported", "the rollout is none of the list")
        return 422
    except QueryError as error:
        context["error"] = error
        return 422
    except (devices_errors.QueryError, devices_errors.GroupError) as error:
        context["query_error"] = query_box.explained(_wrong(given, error), error)
        return 422
    context |= _shown(found, given, rollout, unit) | {"call": _call(found, given, rollout, start, now)}
    return 200


def _shown(found: Comparison, given: dict[str, str], rollout: str, unit: str) -> dict[str, Any]:
    names = _names(given, rollout)
    sides = [
        {"letter": letter, "name": name, "arm": arm, "value": _said(arm, unit)}
        for letter, name, arm in zip("AB", names, (found.a, found.b), strict=True)
    ]
    is_paired = found.paired is not None and 2 * found.paired.n_devices > min(
        found.a.n_devices, found.b.n_devices
    )
    sentence = _sentence(found, unit, is_paired=is_paired)
    values = [
        interval_chart.Value(f"{side['letter']}: {side['name']}", one.value, one.lower, one.upper)
        for side, one in zip(sides, (found.a, found.b), strict=True)
    ]
    return {
        "found": found,
        "sides": sides,
        "sentence": sentence,
        "is_paired": is_paired,
        "chart": interval_chart.intervals(sentence, values, unit=unit),
        "difference": _difference(found.difference, unit),
        "paired": _difference(found.paired, unit),
    }


def _sentence(found: Comparison, unit: str, *, is_paired: bool) -> str:
    chosen = found.paired if is_paired else found.difference
    if chosen is None:
        empty = [letter for letter, arm in (("A", found.a), ("B", found.b)) if not arm.n_devices]
        return f"Nothing was measured of {' and '.join(empty)} in this range."
    told = interval_chart.difference(chosen.value, chosen.lower, chosen.upper, unit)
    over = f" Each of {chosen.n_devices} devices against itself." if is_paired else ""
    return f"A is {told}.{over}"


def _said(arm: Any, unit: str) -> str:
    return interval_chart.said(arm.value, arm.lower, arm.upper, unit)


def _difference(one: Difference | None, unit: str) -> dict[str, Any] | None:
    if one is None:
        return None
    told = interval_chart.difference(one.value, one.lower, one.upper, unit)
    return {"text": f"A is {told}", "n_devices": one.n_devices}


def _names(given: dict[str, str], rollout: str) -> tuple[str, str]:
    if not rollout:
        return given["a"], given["b"]
    return tuple(
        f"{word}, {given[name]}" if given[name] else word
        for word, name in (("devices of the waves", "a"), ("control", "b"))
    )  # type: ignore[return-value]


def _wrong(given: dict[str, str], error: Exception) -> str:
    """Which of the boxes an error is about: the first that does not parse by itself."""
    for name in ("q", "a", "b"):
        try:
            parse(given[name], FIELDS) if given[name] else None
        except devices_errors.QueryError:
            return given[name]
    return ""


def _pairs() -> list[dict[str, str]]:
    """Newest two runs of each model that ever reported, as comparisons to begin with."""
    newest: dict[str, list[str]] = {}
    for model, version in Version.objects.order_by("-first_seen_at").values_list("model", "version")[:200]:
        held = newest.setdefault(model, [])
        if len(held) < 2 and version not in held:
            held.append(version)
    return [
        {
            "label": f"{model} {held[0]} against {held[1]}",
            "query": urlencode(
                {
                    "a": _is("version", held[0]),
                    "b": _is("version", held[1]),
                    "q": _is("model", model),
                }
            ),
        }
        for model, held in newest.items()
        if len(held) == 2
    ][:PAIRS]


def _is(field: str, name: str) -> str:
    """A query for one name, which a device may have chosen."""
    return show(Term(field, "==", (Value(name),), FIELDS.kind_of(field) or Kind.TEXT))


def _call(found: Comparison, given: dict[str, str], rollout: str, start: datetime, end: datetime) -> str:
    """The REST call with the same answer."""
    asked = {
        "metric": found.metric, "kind": found.kind, "from": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "to": f"{end.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "rollout": rollout, "a": given["a"],
        "b": given["b"], "where": given["q"],
    }  # fmt: skip
    return "GET /api/v1/telemetry/compare?" + urlencode({name: text for name, text in asked.items() if text})
