"""What was found out about a version, and where it came from."""

import dataclasses
from typing import Any

from django.http import HttpRequest
from ninja import Router

from fleet.api.auth import Scope
from fleet.api.render import stamp, verdict_json
from fleet.api.routes.models import version_of
from ota.provenance import provenance

router = Router(tags=["models"])


@router.get("/{model}/versions/{version}/report", auth=Scope("models:read"), response=dict[str, Any])
def report(request: HttpRequest, model: str, version: str) -> Any:
    """The inspector's and the probe's report and the verdict of each class; null before the inspection."""
    row = version_of(model, version)
    return {
        "model": row.model_id,
        "version": row.version,
        "state": row.state,
        "code": row.code,
        "text": row.text,
        "fix": row.fix,
        "inspection": row.inspection,
        "probe": row.probe,
        "verdicts": [verdict_json(item) for item in row.verdicts.order_by("device_class_id")],
    }


@router.get("/{model}/versions/{version}/provenance", auth=Scope("models:read"), response=dict[str, Any])
def origin(request: HttpRequest, model: str, version: str) -> Any:
    """Digest, parent, evaluation set, what the file says of its converter, and who did what to it, newest
    first.
    """
    found = provenance(version_of(model, version))
    body = dataclasses.asdict(found)
    body["created_at"] = stamp(found.created_at)
    body["deeds"] = [dataclasses.asdict(deed) | {"at": stamp(deed.at)} for deed in found.deeds]
    return body
