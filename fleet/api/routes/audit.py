"""The audit trail: pages of it, the whole of it, and whether it is what was written."""

import itertools
from typing import Any, Literal

from django.http import Http404, HttpRequest
from ninja import Query, Router
from pydantic import Field

from fleet.accounts import audit_chain, audit_checks, audit_export
from fleet.accounts.audit_query import AuditQuery
from fleet.accounts.models import AuditAnchor, AuditCheck, AuditEvent
from fleet.api.asked import Asked
from fleet.api.auth import Scope
from fleet.api.errors import ApiProblem
from fleet.api.moments import Moment
from fleet.api.paging import page
from fleet.api.render import audit_json, stamp
from fleet.api.sorting import Sorts

router = Router(tags=["accounts"])
AUDIT = Scope("audit:read")
SORTS = Sorts(AuditEvent, {"id": "id", "at": "at"}, default="-id")
"""`at` has an index without the key: what is sorted shares a moment, the rows of one tick at most."""
SEALS = 4
"""Most seals that one call compares; a seal has at most 10,000 rows."""
_STREAMED = {
    "responses": {
        200: {
            "description": "OK",
            "content": {kind: {"schema": {"type": "string"}} for kind in audit_export.FORMATS.values()},
        }
    }
}


class AuditFilter(Asked):
    """Which rows. actor: a person, whatever token they used; with actor_kind an exact name of that kind.
    verb: like rollout.pause, or rollout.* for all of a noun. from, to: `at` in [from, to).
    """

    actor: str = Field("", max_length=128)
    actor_kind: str = Field("", max_length=16)
    verb: str = Field("", max_length=64)
    subject_kind: str = Field("", max_length=32)
    subject_id: str = Field("", max_length=128)
    request_id: str = Field("", max_length=64)
    start: Moment | None = Field(None, alias="from")
    end: Moment | None = Field(None, alias="to")

    def query(self) -> AuditQuery:
        """The filter. Raises ApiProblem `validation` for one that cannot be meant."""
        names = ("actor", "actor_kind", "verb", "subject_kind", "subject_id", "request_id", "start", "end")
        made = AuditQuery(**{name: getattr(self, name) for name in names})
        found = made.problem()
        if found is not None:
            name, text = found
            entry = {"pointer": f"/{name}", "code": "validation", "message": text}
            raise ApiProblem("validation", text, errors=[entry])
        return made


class AuditPage(AuditFilter):
    """A page of the trail."""

    limit: int = 50
    cursor: str = ""
    sort: str = Field("", json_schema_extra=SORTS.schema())
    total: bool = False


class AuditDump(AuditFilter):
    """The whole of it, oldest first."""

    format: Literal["ndjson", "csv"] = "ndjson"


class VerifyQuery(Asked):
    """after: number of the seal behind which to go on, `next` of the answer before."""

    after: int = Field(0, ge=0, lt=2**31)


@router.get("/audit", auth=AUDIT, response=dict[str, Any])
def list_audit(request: HttpRequest, asked: Query[AuditPage]) -> Any:
    """Who did what to which object, newest first."""
    filters = asked.dict(exclude={"limit", "cursor", "sort", "total"})
    return page(
        asked.query().rows(), order=SORTS.order(asked.sort), limit=asked.limit, cursor=asked.cursor,
        filters=filters, render=audit_json, total=asked.total,
    )  # fmt: skip


@router.get("/audit/verify", auth=AUDIT, response=dict[str, Any])
def verify_audit(request: HttpRequest, asked: Query[VerifyQuery]) -> Any:
    """Compare rows with the chain of seals, a bounded number of them: `next` says where to go on, null at the
    end. `broken` is the first place that is not as written. `digest` is of the last seal compared: noted
    elsewhere, it shows a chain that was made anew. `last_check`: what the daily check of all found. `pruned`:
    where the chain begins since older rows left, null while all are there.
    """
    begin = audit_chain.place_of(asked.after)
    if begin is None:
        raise Http404(f"no seal {asked.after}")
    place, broken = begin, None
    for reached in itertools.islice(audit_chain.walk(begin), SEALS):
        place, broken = reached
    is_end = broken is not None or audit_chain.is_last(place)
    checked = audit_checks.latest()
    return {
        "after": asked.after,
        "seals": place.seals,
        "rows": place.rows,
        "digest": place.digest.hex(),
        "pruned": _pruned(),
        "unsealed": audit_chain.unsealed(place) if is_end and broken is None else None,
        "broken": None if broken is None else _broken(broken.seal, broken.what, broken.row),
        "next": None if is_end else place.seals,
        "last_check": None if checked is None else check_json(checked),
    }


@router.get("/audit/export", auth=AUDIT, openapi_extra=_STREAMED)
def export_audit(request: HttpRequest, asked: Query[AuditDump]) -> Any:
    """Every matching row, oldest first, with the columns that the chain hashes. In CSV a cell that begins
    like a formula has an apostrophe in front; NDJSON is exact. A transfer that is cut does not end well.
    """
    return audit_export.answer(request, asked.query().rows(), asked.format)


def check_json(row: AuditCheck) -> dict[str, Any]:
    """A check of the whole chain. state: running, whole or broken."""
    is_broken = row.broken_seal is not None
    return {
        "state": "running" if row.finished_at is None else "broken" if is_broken else "whole",
        "started_at": stamp(row.started_at),
        "started_by": row.started_by,
        "finished_at": stamp(row.finished_at),
        "seals": row.seals,
        "of_seals": max(row.of_seals, row.seals),
        "rows": row.rows,
        "digest": row.digest,
        "broken": _broken(row.broken_seal, row.broken_what, row.broken_row) if is_broken else None,
    }


def _pruned() -> dict[str, Any] | None:
    found = AuditAnchor.objects.first()
    return None if found is None else {**audit_chain.anchor_told(found), "at": stamp(found.at)}


def _broken(seal: int | None, what: str, row: Any) -> dict[str, Any]:
    return {"seal": seal, "what": what, "row": str(row) if row else None}
