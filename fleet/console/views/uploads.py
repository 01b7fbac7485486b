"""The upload form: one page for a new line, a new version and an evaluation set."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from fleet.console.access import actor, page
from fleet.console.forms import UploadForm
from fleet.console.once import sent_once
from ota import registry
from ota.errors import RegistryError
from ota.models import MLModel, ModelVersion

_FIELD_OF = {
    **dict.fromkeys(("too_large", "media_type", "duplicate", "io_contract"), "file"),
    "not_found": "parent",
}


@require_http_methods(["GET", "HEAD", "POST"])
@page("models:write")
@sent_once
def upload(request: HttpRequest) -> HttpResponse:
    """Show the form; on POST store the file and go to its version page, or show what was refused with 422."""
    if request.method != "POST":
        said = {name: request.GET.get(name, "")[:32] for name in ("model", "parent")}
        form = UploadForm(initial=said)
        return _page(request, form)
    form = UploadForm(request.POST, request.FILES)
    if not form.is_valid():
        return _page(request, form, status=422)
    try:
        made = _store(request, form.cleaned_data)
    except RegistryError as error:
        _place(form, error)
        return _page(request, form, existing=error.existing, status=409 if error.code == "duplicate" else 422)
    messages.success(request, f"{made} was uploaded: {made.artifact.size:,} bytes. It is being inspected.")
    answer = HttpResponseRedirect(reverse("console:version", args=[made.model_id, made.version]))
    answer.status_code = 303
    return answer


def _store(request: HttpRequest, said: dict[str, Any]) -> ModelVersion:
    declared = said["declared_accuracy"]
    return registry.upload(
        said["model"],
        said["version"],
        _read(said["file"], settings.MODEL_UPLOAD_BYTES),
        evaluation=_read(said["evaluation"], settings.EVALUATION_UPLOAD_BYTES)
        if said["evaluation"]
        else None,
        declared_accuracy=None if declared is None else declared / 100,
        parent=_parent(said["model"], said["parent"]),
        notes=said["notes"],
        actor=actor(request),
        now=timezone.now(),
    )


def _parent(model: str, name: str) -> ModelVersion | None:
    """The version that a new one was made from, None when none is named. Raises RegistryError `not_found`."""
    if not name:
        return None
    found = ModelVersion.objects.filter(model_id=model, version=name).first()
    if found is None:
        raise RegistryError("not_found", f"{model} has no version {name} that this could be made from")
    return found


def _read(file: UploadedFile[Any], limit: int) -> bytes:
    if (file.size or 0) > limit:
        raise RegistryError(
            "too_large", f"{file.name} is {file.size:,} bytes, at most {limit:,} are accepted"
        )
    return bytes(file.read(limit + 1))


def _place(form: UploadForm, error: RegistryError) -> None:
    """Put a refusal beside the field it is about."""
    words = f"{error.code}: {error.text}" + (f". {error.fix}" if error.fix else "")
    field = _FIELD_OF.get(error.code, "version")
    if "evaluation" in error.text:
        field = "evaluation"
    elif "model name" in error.text:
        field = "model"
    elif "name of other bytes" in error.text:
        field = "version"
    form.add_error(field, words)


def _page(
    request: HttpRequest, form: UploadForm, *, existing: dict[str, str] | None = None, status: int = 200
) -> HttpResponse:
    names = MLModel.objects.values_list("pk", flat=True)[:200]
    versions = ModelVersion.objects.order_by("-created_at")
    if model := str(form["model"].value() or "")[:32]:
        versions = versions.filter(model_id=model)
    context = {
        "form": form,
        "names": names,
        "versions": versions.values_list("model_id", "version")[:100],
        "existing": existing,
    }
    return render(request, "console/upload.html", context, status=status)
