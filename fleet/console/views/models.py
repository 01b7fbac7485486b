"""Model lines: the list and the page of one."""

from __future__ import annotations

from typing import Any

from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from fleet.console.access import page
from fleet.console.paging import page_of
from fleet.devices.models import DeviceSlot
from fleet.telemetry import queries
from ota import aliases
from ota.inventory_figures import devices_by_run
from ota.models import Manifest, MLModel, ModelVersion


@require_safe
@page("models:read")
def model_list(request: HttpRequest) -> HttpResponse:
    """Model lines with their newest version."""
    found = page_of(request, MLModel.objects.all())
    names = [row.pk for row in found.rows]
    newest = ModelVersion.objects.filter(model__in=names).order_by("model_id", "-id").distinct("model_id")
    newest = newest.defer("inspection", "probe", "golden")
    by_model = {row.model_id: row for row in newest}
    counts = dict(
        ModelVersion.objects.filter(model__in=names).order_by().values_list("model_id").annotate(n=Count("*"))
    )
    running = _devices_by_model(names)
    items = [
        {
            "model": row,
            "newest": by_model.get(row.pk),
            "versions": counts.get(row.pk, 0),
            "devices": running.get(row.pk, 0),
        }
        for row in found.rows
    ]
    return render(request, "console/models.html", {"page": found, "items": items})


@require_safe
@page("models:read")
def model(request: HttpRequest, name: str) -> HttpResponse:
    """Versions of a line, newest first: state, sequence, devices that run it, field figures."""
    line = MLModel.objects.filter(pk=name).first()
    if line is None:
        raise Http404(f"no model {name}")
    rows = (
        ModelVersion.objects.filter(model=line)
        .select_related("artifact")
        .defer("artifact__data", "golden", "inspection", "probe")
    )
    found = page_of(request, rows, key="id", is_descending=True)
    manifests = _newest_manifests([row.pk for row in found.rows])
    summary = queries.version_summary([row.mid for row in manifests.values()])
    running = devices_by_run(DeviceSlot.objects.filter(run__in=[row.id16 for row in manifests.values()]))
    items = []
    for row in found.rows:
        manifest = manifests.get(row.pk)
        field = summary.get(manifest.mid) if manifest else None
        devices = running.get(manifest.id16, 0) if manifest else 0
        items.append({"version": row, "manifest": manifest, "field": field, "devices": devices})
    context = {"model": line, "page": found, "items": items, "aliases": aliases.aliases(name)}
    return render(request, "console/model.html", context)


def _newest_manifests(version_ids: list[Any]) -> dict[Any, Manifest]:
    rows = Manifest.objects.filter(version__in=version_ids).defer("message", "leaves", "blob")
    return {row.version_id: row for row in rows.order_by("version_id", "-seq").distinct("version_id")}


def _devices_by_model(names: list[str]) -> dict[str, int]:
    rows = Manifest.objects.filter(version__model__in=names).order_by().values_list("pk", "version__model_id")
    line_of = {pk[:32]: line for pk, line in rows}
    found: dict[str, int] = {}
    for run, n in devices_by_run(DeviceSlot.objects.filter(run__in=list(line_of))).items():
        found[line_of[run]] = found.get(line_of[run], 0) + n
    return found
