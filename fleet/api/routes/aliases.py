"""Aliases of a model: names that point to a version."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router
from pydantic import Field

from fleet.api.auth import Scope, actor
from fleet.api.render import stamp
from fleet.api.revisions import must_match, tag
from fleet.api.routes.devices import Strict
from ota import aliases
from ota.models import MLModel, ModelAlias, ModelVersion

router = Router(tags=["models"])


class AliasBody(Strict):
    """Where an alias points. reason: kept in its history."""

    version: str = Field(max_length=24)
    reason: str = Field("", max_length=500)


@router.get("/{model}/aliases", auth=Scope("models:read"), response=dict[str, Any])
def list_aliases(request: HttpRequest, model: str) -> Any:
    """Aliases of a model by name, without their history."""
    if not MLModel.objects.filter(pk=model).exists():
        raise Http404(f"no model {model}")
    return {"items": [_json(row) for row in aliases.aliases(model)], "next": None}


@router.get("/{model}/aliases/{name}", auth=Scope("models:read"), response=dict[str, Any])
def get_alias(request: HttpRequest, model: str, name: str, response: HttpResponse) -> Any:
    """One alias, and where it pointed before, newest first."""
    row = aliases.aliases(model).filter(name=name).first()
    if row is None:
        raise Http404(f"{model} has no alias {name}")
    tag(response, row.rev)
    return _with_history(row)


@router.put("/{model}/aliases/{name}", auth=Scope("models:write"), response=dict[str, Any])
def set_alias(request: HttpRequest, model: str, name: str, body: AliasBody, response: HttpResponse) -> Any:
    """Make an alias, or make it point elsewhere; only the second needs If-Match."""
    version = ModelVersion.objects.filter(model_id=model, version=body.version).first()
    if version is None:
        raise Http404(f"no version {body.version} of {model}")
    known = aliases.aliases(model).filter(name=name).first()
    if known is not None:
        must_match(request, known.rev)
    row = aliases.point(
        version,
        name,
        rev=known.rev if known else None,
        reason=body.reason,
        actor=actor(request),
        now=timezone.now(),
    )
    tag(response, row.rev)
    return _with_history(row)


def _json(row: ModelAlias) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version.version,
        "rev": row.rev,
        "changed_at": stamp(row.changed_at),
        "changed_by": row.changed_by,
    }


def _with_history(row: ModelAlias) -> dict[str, Any]:
    moves = aliases.history([row])[row.name]
    told = [
        {"at": stamp(one.at), "by": one.actor, "was": one.was or None, "now": one.now, "reason": one.reason}
        for one in moves
    ]
    return _json(row) | {"history": told}
