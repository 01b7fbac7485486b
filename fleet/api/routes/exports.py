"""Raw telemetry as a stream."""

from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field

from fleet.api.asked import Asked
from fleet.api.auth import Scope
from fleet.api.moments import Moment
from fleet.telemetry import export

router = Router(tags=["telemetry"])
_TEXT = {"schema": {"type": "string"}}
_STREAMED = {
    "responses": {200: {"description": "OK", "content": dict.fromkeys(export.FORMATS.values(), _TEXT)}}
}


class ExportQuery(Asked):
    """What to export. kind: window, inference or sketch. format: ndjson or csv. where: as `q` of a query."""

    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    kind: str = Field("window", max_length=16)
    format: str = Field("ndjson", max_length=16)
    where: str = Field("", max_length=2_000)


@router.get("/telemetry/export", auth=Scope("telemetry:read"), openapi_extra=_STREAMED)
def export_rows(request: HttpRequest, asked: Query[ExportQuery]) -> Any:
    """Raw rows of a range, at most a million, in no particular order; a transfer that is cut does not end
    well.
    """
    wanted = export.Wanted(asked.kind, asked.format, asked.start, asked.end, asked.where.strip())
    rows = export.open_export(wanted, now=timezone.now())
    parts = export.AsyncExport(rows) if isinstance(request, ASGIRequest) else rows
    answer = StreamingHttpResponse(parts, content_type=export.FORMATS[wanted.form])
    answer["Content-Disposition"] = f'attachment; filename="telemetry-{wanted.kind}.{wanted.form}"'
    answer["Cache-Control"] = "no-store"
    answer["X-Accel-Buffering"] = "no"
    return answer
