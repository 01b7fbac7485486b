"""Raw telemetry as a stream, or as a file that an operation writes."""

import uuid
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field

from fleet.api.asked import Asked
from fleet.api.auth import Scope, actor
from fleet.api.moments import Moment
from fleet.api.routes.operations import export_json
from fleet.telemetry import export, export_forms, export_jobs
from fleet.telemetry.errors import QueryError
from fleet.telemetry.export_models import ExportJob

router = Router(tags=["telemetry"])
_TEXT = {"schema": {"type": "string"}}
_STREAMED = {
    "responses": {200: {"description": "OK", "content": dict.fromkeys(export_forms.FORMATS.values(), _TEXT)}}
}


class ExportQuery(Asked):
    """What to export. kind: window, inference or sketch. format: ndjson, csv or parquet. where: as `q` of a
    query.
    """

    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    kind: str = Field("window", max_length=16)
    format: str = Field("ndjson", max_length=16)
    where: str = Field("", max_length=2_000)


@router.get(
    "/telemetry/export",
    auth=Scope("telemetry:read"),
    response={200: None, 202: dict[str, Any]},
    openapi_extra=_STREAMED,
)
def export_rows(request: HttpRequest, asked: Query[ExportQuery]) -> Any:
    """Raw rows of a range, in no particular order; a transfer that is cut does not end well. Days past
    retention come from the cold tier, where there is one. More than a million rows: 202 with the operation
    that writes them to a file.
    """
    wanted = export.Wanted(asked.kind, asked.format, asked.start, asked.end, asked.where.strip())
    now = timezone.now()
    try:
        rows = export.open_export(wanted, now=now)
    except QueryError as error:
        if error.code != "too_many_rows":
            raise
        job = export_jobs.ask(wanted, actor=actor(request), now=now)
        answer = JsonResponse(export_json(job), status=202)
        answer["Location"] = f"/api/v1/operations/{job.id}"
        return answer
    return _streamed(request, rows, wanted.form, f"telemetry-{wanted.kind}.{wanted.form}")


@router.get(
    "/telemetry/exports/{export_id}",
    auth=Scope("telemetry:read"),
    response={200: None},
    openapi_extra=_STREAMED,
)
def export_file(request: HttpRequest, export_id: uuid.UUID) -> Any:
    """The file of an export that succeeded, for 30 days after its end."""
    job = ExportJob.objects.filter(pk=export_id).first()
    rows = export_jobs.open_file(job) if job is not None else None
    if job is None or rows is None:
        raise Http404(f"no finished export {export_id}")
    answer = _streamed(request, rows, job.form, job.filename)
    answer["Content-Length"] = str(rows.size)
    return answer


def _streamed(request: HttpRequest, rows: export.Parts, form: str, name: str) -> HttpResponseBase:
    parts = export.AsyncParts(rows) if isinstance(request, ASGIRequest) else export.all_parts(rows)
    answer = StreamingHttpResponse(parts, content_type=export_forms.FORMATS[form])
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    answer["Cache-Control"] = "no-store"
    answer["X-Accel-Buffering"] = "no"
    return answer
