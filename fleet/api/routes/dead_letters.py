"""Uplinks that were refused."""

from typing import Any

from django.http import HttpRequest
from ninja import Router

from fleet.api.auth import Scope
from fleet.api.errors import ApiProblem
from fleet.api.paging import page
from fleet.api.render import stamp
from fleet.api.sorting import Sorts
from fleet.telemetry import dead
from fleet.telemetry.models import DeadLetter

router = Router(tags=["telemetry"])
SORTS = Sorts(DeadLetter, {"id": "id"}, default="-id")


@router.get("/telemetry/dead-letters", auth=Scope("telemetry:read"), response=dict[str, Any])
def list_dead_letters(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
    code: str = "",
    device: str = "",
    total: bool = False,
) -> Any:
    """Refused messages that are kept, newest first. `manage.py telemetry replay` sends a code's again."""
    if code and code not in dead.CODES:
        raise ApiProblem("validation", f"code is one of {', '.join(dead.CODES)}")
    given = {"code": code, "device_id": device}
    rows = DeadLetter.objects.filter(**{name: value for name, value in given.items() if value})
    return page(
        rows, order=SORTS.order(sort), limit=limit, cursor=cursor, filters=given, render=dead_letter_json,
        total=total,
    )  # fmt: skip


def dead_letter_json(row: DeadLetter) -> dict[str, Any]:
    """A refused message. device: as its topic names it, null when that is malformed. size_bytes: of what is
    kept."""
    return {
        "id": row.id,
        "at": stamp(row.at),
        "device": row.device_id or None,
        "topic": row.topic,
        "code": row.code,
        "detail": row.detail,
        "size_bytes": len(row.payload),
        "slot": row.ingest_slot,
    }
