"""The version page: the inspector's report, signatures, staging, and what can be done next."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from fleet.console import charts, version_facts
from fleet.console.access import actor, page
from fleet.devices.models import DeviceClass
from fleet.telemetry import queries
from ota import aliases, registry
from ota.choices import StagingState, VerdictKind, VersionState
from ota.inventory_figures import runs_by_class
from ota.models import Manifest, ModelVersion, Rollout, Staging
from ota.provenance import provenance

MOVING = (VersionState.UPLOADED, VersionState.INSPECTING, VersionState.STAGING)


def _version(name: str, version: str) -> ModelVersion:
    rows = ModelVersion.objects.select_related("artifact", "parent", "model").defer(
        "artifact__data", "golden"
    )
    found = rows.filter(model_id=name, version=version).first()
    if found is None:
        raise Http404(f"no version {version} of {name}")
    return found


@require_safe
@page("models:read")
def version(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """The whole page: the part that moves, and below it what only people change."""
    row = _version(name, version)
    context = _context(row)
    named = list(aliases.aliases(name))
    context |= {
        "provenance": provenance(row),
        "aliases": named,
        "moves": aliases.history(named),
        "revs": " ".join(f"{one.name}={one.rev}" for one in named),
        "others": ModelVersion.objects.filter(model_id=name).exclude(pk=row.pk).exists(),
    }
    return render(request, "console/version.html", context)


@require_safe
@page("models:read")
def fragment(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """The part of the page that moves; 204 while it is what the page shows already."""
    context = _context(_version(name, version))
    if request.GET.get("seen") == context["digest"]:
        return HttpResponse(status=204)
    return render(request, "console/version_live.html", context)


def _context(row: ModelVersion) -> dict[str, Any]:
    manifest = Manifest.objects.filter(version=row).defer("leaves", "blob").order_by("-seq").first()
    staging = Staging.objects.filter(manifest=manifest).first() if manifest else None
    table = registry.preflight_table(row)
    allowed = registry.allowed(row)
    is_staging = staging is not None and staging.state in (StagingState.PENDING, StagingState.STAGING)
    shown = [row.state, table, allowed, staging and [staging.state, staging.published, staging.error]]
    field = queries.version_summary([manifest.mid]).get(manifest.mid) if manifest else None
    probe = row.probe or {}
    classes = list(DeviceClass.objects.all())
    running = runs_by_class([manifest.id16]).get(manifest.id16, []) if manifest else []
    return {
        "version": row,
        "inspection": row.inspection,
        "operators": _operators(row, classes),
        "probe": probe,
        "golden": probe.get("golden"),
        "evaluated": probe.get("accuracy"),
        "notes": [*(row.inspection or {}).get("notes", []), *probe.get("notes", [])],
        "table": table,
        "sentence": _sentence(table),
        "is_uniform": all(line["kind"] == "refuse" and line["text"] == row.text for line in table),
        "manifest": manifest,
        "staging": staging,
        "staging_bar": _staging_bar(staging, manifest),
        "allowed": allowed,
        "is_moving": row.state in MOVING or is_staging,
        "digest": hashlib.sha256(json.dumps(shown, default=str).encode()).hexdigest()[:16],
        "field": field,
        "running": running,
        "devices": sum(one.devices for one in running),
        "maps": version_facts.maps(row, manifest, table, classes),
        "difference": version_facts.difference(row),
        "verify": version_facts.verify_command(manifest) if manifest else "",
        "manifest_text": version_facts.text_of(manifest) if manifest else "",
        "rollouts": Rollout.objects.filter(manifest__version=row)[:5] if manifest else [],
    }


def _operators(row: ModelVersion, known: list[DeviceClass]) -> list[dict[str, Any]]:
    """Operators of the model, and for each device class whether its firmware links it."""
    found = (row.inspection or {}).get("operators", [])
    classes = [item for item in known if item.operators]
    shown = []
    for operator in found:
        name, code = operator["custom"], operator["builtin"]
        lacking = [
            row.name
            for row in classes
            if (name not in row.custom_operators if name else code not in row.operators)
        ]
        shown.append({**operator, "lacking": lacking, "of": len(classes)})
    return shown


def _sentence(table: list[dict[str, Any]]) -> str:
    """Where a judged version may go, in a sentence."""
    parts = []
    for words, chosen in (
        ("passes on", [line["class"] for line in table if line["kind"] == VerdictKind.PASS]),
        ("acknowledged for", [line["class"] for line in table if line["acknowledged_by"]]),
        (
            "unproven for",
            [line["class"] for line in table if line["kind"] == "unproven" and not line["acknowledged_by"]],
        ),
        ("refused for", [line["class"] for line in table if line["kind"] == VerdictKind.REFUSE]),
    ):
        if chosen:
            parts.append(f"{words} {' and '.join(filter(None, [', '.join(chosen[:-1]), chosen[-1]]))}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else "No device class has judged it."


def _staging_bar(staging: Staging | None, manifest: Manifest | None) -> list[charts.Segment]:
    if staging is None or manifest is None:
        return []
    is_done = staging.state == StagingState.STAGED
    css = "tone-good" if is_done else "tone-active"
    n = manifest.chunks if is_done else staging.published
    return charts.bar([("chunks on the broker", n, css, "")], manifest.chunks)


def _back(row: ModelVersion) -> HttpResponse:
    answer = HttpResponseRedirect(reverse("console:version", args=[row.model_id, row.version]))
    answer.status_code = 303
    return answer


@require_POST
@page("models:write")
def acknowledge(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """Accept `unproven` for a class, with a reason."""
    row = _version(name, version)
    class_name = request.POST.get("class", "")[:32]
    reason = request.POST.get("reason", "").strip()[:500]
    registry.acknowledge(row, class_name, reason=reason, actor=actor(request), now=timezone.now())
    messages.success(request, f"Acknowledged for {class_name}. The reason is in the audit trail.")
    return _back(row)


@require_POST
@page("models:sign")
def release(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """Sign and stage."""
    row = _version(name, version)
    made = registry.release(row, slot=0, actor=actor(request), now=timezone.now())
    messages.success(request, f"Signed as sequence {made.seq}. {made.chunks:,} chunks go to the broker now.")
    return _back(row)


@require_POST
@page("models:write")
def inspect(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """Inspect again."""
    row = _version(name, version)
    registry.request_inspection(row, actor=actor(request), now=timezone.now())
    messages.success(request, "Inspection asked for.")
    return _back(row)


@require_POST
@page("models:sign")
def yank(request: HttpRequest, name: str, version: str) -> HttpResponse:
    """Take a version out of the choice for new rollouts."""
    row = _version(name, version)
    reason = request.POST.get("reason", "").strip()[:500]
    registry.yank(row, reason=reason, actor=actor(request), now=timezone.now())
    messages.success(request, f"{row} is out of the choice for new rollouts. Devices that run it keep it.")
    return _back(row)
