"""Files of a released version, for those who check them on a machine of their own."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from fleet.console.access import page
from ota import keys
from ota.models import Artifact, Manifest

IMMUTABLE = "private, max-age=31536000, immutable"


@require_safe
@page("models:read")
def manifest(request: HttpRequest, mid: str) -> HttpResponse:
    """The signed manifest as devices get it."""
    row = Manifest.objects.filter(mid=mid).only("message").first()
    if row is None:
        raise Http404(f"no manifest {mid}")
    return _file(bytes(row.message), f"{mid}.manifest")


@require_safe
@page("models:read")
def model(request: HttpRequest, mid: str) -> HttpResponse:
    """The model that a manifest is of."""
    row = Artifact.objects.filter(versions__manifests__mid=mid).first()
    if row is None:
        raise Http404(f"no manifest {mid}")
    return _file(bytes(row.data), f"{mid}.tflite")


@require_safe
@page("models:read")
def trust(request: HttpRequest) -> HttpResponse:
    """The newest trust document, signed by the roots. Everybody who can read models may read what devices
    hold; it has public keys only.
    """
    _, message = keys.current_trust()
    answer = _file(message, "trust.document")
    answer["Cache-Control"] = "no-store"
    return answer


def _file(data: bytes, name: str) -> HttpResponse:
    """An attachment that no browser interprets. name: of characters that are safe in a shell and a header."""
    answer = HttpResponse(data, content_type="application/octet-stream")
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    answer["Cache-Control"] = IMMUTABLE
    return answer
