"""Versions of a model side by side; without enough of them, the list to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from fleet.console.access import page
from fleet.console.views import versions as version_page
from fleet.telemetry.errors import QueryError
from ota.errors import RegistryError
from ota.models import MLModel, ModelVersion
from ota.version_comparison import MOST, Compared, VersionComparison, compare_versions

LISTED = 100
_KINDS = (
    ("golden", "Golden vectors", "vectors of the self-test, on devices"),
    ("delayed", "Delayed labels", "sampled inferences that were labelled later"),
    ("proxy", "Proxy labels", "labels that devices knew themselves"),
)


@require_safe
@page("models:read")
def compare(request: HttpRequest, name: str) -> HttpResponseBase:
    """The comparison that the URL names, base first: `versions` with commas or repeated."""
    if "versions" not in request.GET and ModelVersion.objects.filter(model=name, version="compare").exists():
        return version_page.version(request, name, "compare")  # somebody called a version so
    line = MLModel.objects.filter(pk=name).first()
    if line is None:
        raise Http404(f"no model {name}")
    given = request.GET.getlist("versions")[: MOST + 1]
    chosen = [one for one in (given[0].split(",") if len(given) == 1 else given) if one]
    rows = ModelVersion.objects.filter(model=line).select_related("artifact")
    context: dict[str, Any] = {
        "model": line,
        "chosen": chosen,
        "most": MOST,
        # oldest first, so that what was chosen is compared with the oldest of them
        "choice": list(rows.defer("artifact__data", "golden", "inspection", "probe")[:LISTED])[::-1],
    }
    status = 200
    if len(chosen) > 1:
        try:
            context |= _columns(compare_versions(name, chosen, now=timezone.now()))
        except (RegistryError, QueryError) as error:
            context["error"] = error
            status = {"not_found": 404, "query_timeout": 503}.get(error.code, 422)
    return render(request, "console/version_comparison.html", context, status=status)


def _columns(found: VersionComparison) -> dict[str, Any]:
    """What the template prints, row by row."""
    base = found.versions[0]
    return {
        "found": found,
        "sizes": _against([one.size for one in found.versions]),
        "macs": _against([one.macs for one in found.versions]),
        "arenas": _against([one.arena_host_bytes for one in found.versions]),
        "constants": _against([one.constant_bytes for one in found.versions]),
        "kinds": [
            (
                title,
                words,
                [one.field.accuracy.get(kind) if one.field else None for one in found.versions],
            )
            for kind, title, words in _KINDS
        ],
        "percentiles": [
            (label, [one.field.latency_us.get(label) if one.field else None for one in found.versions])
            for label in ("p50", "p95", "p99")
        ],
        "operators": [(row, list(zip(row.counts, row.macs, strict=True))) for row in found.operators],
        "base": base,
        "sentence": _sentence(found),
    }


def _against(values: Sequence[float | None]) -> list[tuple[float | None, float | None]]:
    """Each value with its difference from the first as a share of it; None where there is none."""
    first = values[0]
    return [
        (value, value / first - 1 if index and value is not None and first else None)
        for index, value in enumerate(values)
    ]


def _sentence(found: VersionComparison) -> str:
    """What a person asks first: does the newcomer cost more, and is it better on the same evaluation set."""
    base, *others = found.versions
    parts = []
    for one in others:
        words = [_more("bytes", base.size, one.size)]
        if base.macs and one.macs:
            words.append(_more("work", base.macs, one.macs))
        words.append(_better(base, one))
        parts.append(f"{one.version} against {base.version}: {', '.join(words)}.")
    return " ".join(parts)


def _more(what: str, before: int, after: int) -> str:
    share = after / before - 1
    if abs(share) < 0.005:
        return f"as many {what}" if what == "bytes" else f"as much {what}"
    if share >= 1:
        return f"{after / before:.1f} times the {what}"
    return (
        f"{abs(share) * 100:.0f} % {'more' if share > 0 else 'fewer' if what == 'bytes' else 'less'} {what}"
    )


def _better(base: Compared, one: Compared) -> str:
    """Accuracy on the evaluation set in words; a difference counts when the intervals do not touch."""
    before, after = base.evaluated, one.evaluated
    if before is None or after is None:
        return "accuracy not measured on both"
    if not after.is_same_set:
        return "measured on another evaluation set"
    if after.lower > before.upper:
        return f"more accurate ({after.ratio * 100:.1f} % against {before.ratio * 100:.1f} %)"
    if after.upper < before.lower:
        return f"less accurate ({after.ratio * 100:.1f} % against {before.ratio * 100:.1f} %)"
    return "accuracy not told apart"
