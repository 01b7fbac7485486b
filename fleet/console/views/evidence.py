"""One evidence row: what a verdict rested on, and whether it is still the verdict of the code of today."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from fleet.console.access import page
from fleet.console.views.live import rollout_within, shown_gate
from ota import evidence as judging
from ota.gates.catalogue import measure_of
from ota.models import Evidence

MOST_PAIRS = 200
"""Pairs of a comparison that the page lists; REST gives all of them."""


@require_safe
@page("rollouts:read", knows_limits=True)
def evidence(request: HttpRequest, rollout_id: uuid.UUID, evidence_id: uuid.UUID) -> HttpResponse:
    """Rows, pairs and inputs of an evidence row, judged again while the page is made."""
    rollout = rollout_within(request, rollout_id)
    rows = Evidence.objects.filter(rollout=rollout).select_related("wave")
    row = rows.filter(pk=evidence_id).first()
    if row is None:
        raise Http404(f"no evidence {evidence_id} of this rollout")
    others = rows.filter(wave=row.wave).order_by("at", "id")
    context = {
        "rollout": rollout,
        "evidence": row,
        "gate": shown_gate({"wave": row.wave.n, "rows": row.rows}),
        "again": judging.recheck(row),
        "code_now": judging.CODE_VERSION,
        "before": others.filter(at__lt=row.at).last(),
        "after": others.filter(at__gt=row.at).first(),
        "metrics": [_metric(metric) for metric in row.inputs.get("metrics", [])],
        "inputs": json.dumps(_without_pairs(row.inputs), indent=1, sort_keys=True),
    }
    return render(request, "console/evidence.html", context)


def _metric(metric: dict[str, Any]) -> dict[str, Any]:
    """A comparison's inputs with its newest pairs first."""
    pairs = list(reversed(metric["pairs"]))
    name = ":".join(filter(None, (metric["metric"], metric["kind"], metric.get("class", ""))))
    measure = measure_of(metric["metric"], metric["kind"])
    device_class = f", {metric['class']}" if metric.get("class") else ""
    return {
        **metric,
        "name": name,
        "title": f"{measure.label}{device_class}",
        "has_history": measure.has_history,
        "shown": pairs[:MOST_PAIRS],
        "left": max(0, len(pairs) - MOST_PAIRS),
        "dropped": metric.get("dropped", []),
        "unlike": metric.get("unlike", 0),
    }


def _without_pairs(inputs: dict[str, Any]) -> dict[str, Any]:
    metrics = [
        {**metric, "pairs": f"{len(metric['pairs'])} pairs, above"} for metric in inputs.get("metrics", [])
    ]
    return {**inputs, "metrics": metrics}
