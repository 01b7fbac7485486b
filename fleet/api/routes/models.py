"""Models, versions, their verdicts and manifests."""

import json
from typing import Any

from django.conf import settings
from django.db.models import Prefetch, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from ninja import Router, Status
from ninja.files import UploadedFile
from ninja.params.functions import File, Form
from pydantic import Field, ValidationError

from fleet.api.auth import Scope, actor
from fleet.api.errors import ApiProblem, field_errors
from fleet.api.paging import page
from fleet.api.render import manifest_json, model_json, version_json
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts
from fleet.ranks import Ranked
from ota import registry, releases, verdicts
from ota.choices import VersionState
from ota.models import Manifest, MLModel, ModelVersion

router = Router(tags=["models"])
_BYTES = ("artifact__data", "golden", "parent__golden", "parent__inspection", "parent__probe")
SORTS = Sorts(
    MLModel,
    {name: name for name in ("name", "created_at", "last_seq")},
    default="name",
    key="name",
    most=3,
)
VERSION_SORTS = Sorts(
    ModelVersion,
    {
        "id": "id",
        "version": "version",
        "state": Ranked("state", tuple(VersionState.values)),
        "size": "artifact__size",
        "created_at": "created_at",
    },
    default="-id",
    most=3,
)


class ModelBody(Strict):
    """A new model line."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")
    description: str = Field("", max_length=256)


class VersionMeta(Strict):
    """What a person says about an upload. declared_accuracy: share of the evaluation set, 0..1."""

    version: str = Field(pattern=r"^[!-~]{1,24}$")
    declared_accuracy: float | None = Field(None, ge=0, le=1)
    parent: str | None = Field(None, max_length=24)
    notes: str = Field("", max_length=4000)
    hints: dict[str, Any] = Field(default_factory=dict)


class AcknowledgeBody(Strict):
    """Accepting what preflight could not prove for a class."""

    device_class: str = Field(alias="class", max_length=32)
    reason: str = Field(min_length=3, max_length=500)


class ReleaseBody(Strict):
    """Signing. floor: security floor; absent keeps it at 0."""

    slot: int = Field(0, ge=0, le=3)
    floor: int = Field(0, ge=0, lt=2**32)


class ReasonBody(Strict):
    """Why."""

    reason: str = Field(min_length=3, max_length=500)


@router.get("", auth=Scope("models:read", knows_limits=True), response=dict[str, Any])
def list_models(
    request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = SORTS.parameter()
) -> Any:
    """Model lines."""
    rows, order = MLModel.objects.all(), SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=model_json)


@router.post("", auth=Scope("models:write"), response={201: dict[str, Any]})
def create_model(request: HttpRequest, body: ModelBody) -> Any:
    """Make a model line."""
    made = registry.create_model(body.name, body.description, actor=actor(request), now=timezone.now())
    return Status(201, model_json(made))


@router.get("/{model}", auth=Scope("models:read", knows_limits=True), response=dict[str, Any])
def get_model(request: HttpRequest, model: str) -> Any:
    """One model line."""
    return model_json(_model(model))


@router.get("/{model}/versions", auth=Scope("models:read", knows_limits=True), response=dict[str, Any])
def list_versions(
    request: HttpRequest,
    model: str,
    limit: int = 50,
    cursor: str = "",
    sort: str = VERSION_SORTS.parameter(),
) -> Any:
    """Versions of a model, newest first."""
    manifests = Manifest.objects.select_related("staging").defer("message", "leaves", "blob")
    rows = _versions().filter(model=_model(model)).prefetch_related(Prefetch("manifests", manifests))
    return page(
        rows.defer("inspection", "probe", *_BYTES),
        order=VERSION_SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"model": model},
        render=lambda row: version_json(row, is_full=False),
    )


@router.post("/{model}/versions", auth=Scope("models:write"), response={202: dict[str, Any]})
def upload_version(
    request: HttpRequest,
    response: HttpResponse,
    model: str,
    file: UploadedFile = File(...),
    evaluation: UploadedFile | None = File(None),
    meta: str = Form(..., max_length=16_384),
) -> Any:
    """Upload a .tflite. It becomes a row at once; inspector, probe and preflight run next: poll the
    version for their verdict.
    """
    line = _model(model)
    said = _meta(meta)
    parent = version_of(line.name, said.parent) if said.parent else None
    made = registry.upload(
        line.name,
        said.version,
        _bounded(file, settings.MODEL_UPLOAD_BYTES),
        evaluation=_bounded(evaluation, settings.EVALUATION_UPLOAD_BYTES) if evaluation else None,
        declared_accuracy=said.declared_accuracy,
        hints=said.hints,
        parent=parent,
        notes=said.notes,
        actor=actor(request),
        now=timezone.now(),
    )
    response["Location"] = _address(made)
    return Status(202, version_json(made))


@router.get(
    "/{model}/versions/{version}", auth=Scope("models:read", knows_limits=True), response=dict[str, Any]
)
def get_version(request: HttpRequest, model: str, version: str) -> Any:
    """One version with everything known about it."""
    return version_json(version_of(model, version))


@router.post(
    "/{model}/versions/{version}/preflight", auth=Scope("models:write"), response={202: dict[str, Any]}
)
def preflight(request: HttpRequest, response: HttpResponse, model: str, version: str) -> Any:
    """Inspect, probe and preflight again, e.g. after a device class changed."""
    row = version_of(model, version)
    verdicts.request_inspection(row, actor=actor(request), now=timezone.now())
    response["Location"] = _address(row)
    return Status(202, version_json(version_of(model, version)))


@router.post("/{model}/versions/{version}/acknowledge", auth=Scope("models:write"), response=dict[str, Any])
def acknowledge(request: HttpRequest, model: str, version: str, body: AcknowledgeBody) -> Any:
    """Accept `unproven` for one class, with a reason that the audit trail keeps."""
    registry.acknowledge(
        version_of(model, version),
        body.device_class,
        reason=body.reason,
        actor=actor(request),
        now=timezone.now(),
    )
    return version_json(version_of(model, version))


@router.post("/{model}/versions/{version}/release", auth=Scope("models:sign"), response={201: dict[str, Any]})
def release(request: HttpRequest, model: str, version: str, body: ReleaseBody) -> Any:
    """Sign the manifest with the release key and stage its chunks."""
    made = releases.release(
        version_of(model, version), slot=body.slot, floor=body.floor, actor=actor(request), now=timezone.now()
    )
    return Status(201, manifest_json(made))


@router.post("/{model}/versions/{version}/yank", auth=Scope("models:sign"), response=dict[str, Any])
def yank(request: HttpRequest, model: str, version: str, body: ReasonBody) -> Any:
    """Take a version out of the choice for new rollouts."""
    registry.yank(version_of(model, version), reason=body.reason, actor=actor(request), now=timezone.now())
    return version_json(version_of(model, version))


def _model(name: str) -> MLModel:
    found = MLModel.objects.filter(name=name).first()
    if found is None:
        raise Http404(f"no model {name}")
    return found


def _versions() -> QuerySet[ModelVersion]:
    """Versions without their bytes: a file may have 16 MiB, and no answer carries it."""
    return ModelVersion.objects.select_related("artifact", "parent").defer(*_BYTES)


def version_of(model: str, version: str) -> ModelVersion:
    """A version by its model and name. Raises Http404."""
    found = _versions().select_related("model").filter(model_id=model, version=version).first()
    if found is None:
        raise Http404(f"no version {version} of {model}")
    return found


def _address(row: ModelVersion) -> str:
    """Where a version's verdict will be."""
    return reverse("api:get_version", args=(row.model_id, row.version))


def _meta(text: str) -> VersionMeta:
    try:
        return VersionMeta.model_validate(json.loads(text))
    except ValidationError as error:
        found = [item | {"pointer": f"/meta{item['pointer']}"} for item in field_errors(error.errors())]
        raise ApiProblem(
            "validation", f"{found[0]['pointer']}: {found[0]['message']}", errors=found
        ) from error
    except (ValueError, RecursionError) as error:
        raise ApiProblem("malformed_json", "meta is not JSON") from error


def _bounded(file: UploadedFile, limit: int) -> bytes:
    size = file.size or 0
    if size > limit:
        raise ApiProblem(
            "too_large", f"{file.name} is {size:,} bytes, at most {limit:,} are accepted", limit=limit
        )
    return bytes(file.read(limit + 1))
