"""Groups of devices: static lists and stored queries."""

from typing import Any, Literal

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field, ValidationError

from fleet.api import within
from fleet.api.auth import Scope, actor
from fleet.api.errors import ApiProblem
from fleet.api.paging import page
from fleet.api.render import group_json
from fleet.api.revisions import LIST_BODY, list_body, list_format, must_match, tag
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts
from fleet.devices import groups, records
from fleet.devices.models import Device, DeviceGroup

router = Router(tags=["groups"])
SORTS = Sorts(
    DeviceGroup,
    {name: name for name in ("name", "kind", "created_at", "changed_at")},
    default="name",
    key="name",
    most=3,
)
MEMBER_SORTS = Sorts(Device, {"id": "id"}, default="id")


def _members_body() -> dict[str, Any]:
    devices = {"type": "array", "items": {"type": "string"}}
    schema = {"type": "object", "properties": {"devices": devices}, "required": ["devices"]}
    content = {**LIST_BODY["requestBody"]["content"], "application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


class GroupBody(Strict):
    """A new group. A dynamic one has a query, a static one gets its members afterwards."""

    name: str = Field(max_length=32)
    kind: Literal["static", "dynamic"]
    q: str = ""
    description: str = Field("", max_length=256)


class GroupPatch(Strict):
    """What changes; an absent field stays."""

    q: str | None = None
    description: str | None = Field(None, max_length=256)


class MembersBody(Strict):
    """The whole list of a static group's members."""

    devices: list[str] = Field(max_length=records.MAX_RECORDS)


class PreviewBody(Strict):
    """A query to count."""

    q: str


@router.get("/groups", auth=Scope("devices:read", knows_limits=True), response=dict[str, Any])
def list_groups(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
    kind: str = "",
) -> Any:
    """Groups by name."""
    rows = DeviceGroup.objects.filter(kind=kind) if kind else DeviceGroup.objects.all()
    if (own := within.limit_of(request)) is not None:
        rows = rows.filter(name__in=own)
    filters = {"kind": kind}
    order = SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters=filters, render=group_json)


@router.post("/groups", auth=Scope("devices:write"), response={201: dict[str, Any]})
def create_group(request: HttpRequest, body: GroupBody) -> Any:
    """Make a group."""
    return Status(201, group_json(groups.create(**body.dict(), actor=actor(request), now=timezone.now())))


@router.post("/groups:preview", auth=Scope("devices:read"), response=dict[str, Any])
def preview_group(request: HttpRequest, body: PreviewBody) -> Any:
    """What a query selects now: count, sample, count per class."""
    return groups.preview(body.q, now=timezone.now())


@router.get("/groups/{name}", auth=Scope("devices:read", knows_limits=True), response=dict[str, Any])
def get_group(request: HttpRequest, name: str, response: HttpResponse) -> Any:
    """One group, and what is in it now."""
    row = _group(request, name)
    tag(response, row.rev)
    return {**group_json(row), **groups.summary(groups.members(row, now=timezone.now()))}


@router.patch("/groups/{name}", auth=Scope("devices:write"), response=dict[str, Any])
def change_group(request: HttpRequest, name: str, body: GroupPatch, response: HttpResponse) -> Any:
    """Change a description, or the query of a dynamic group. Needs If-Match."""
    row = _group(request, name)
    must_match(request, row.rev)
    given = body.dict(exclude_unset=True)
    groups.change(row, **given, actor=actor(request), now=timezone.now())
    tag(response, row.rev)
    return group_json(row)


@router.delete("/groups/{name}", auth=Scope("devices:write"), response={204: None})
def delete_group(request: HttpRequest, name: str) -> Any:
    """Remove a group. Its devices stay, and so do rollouts that have started. Needs If-Match."""
    row = _group(request, name)
    must_match(request, row.rev)
    groups.delete(row, actor=actor(request), now=timezone.now())
    return Status(204, None)


@router.get("/groups/{name}/members", auth=Scope("devices:read", knows_limits=True), response=dict[str, Any])
def list_members(
    request: HttpRequest,
    name: str,
    limit: int = 50,
    cursor: str = "",
    sort: str = MEMBER_SORTS.parameter(),
    total: bool = False,
) -> Any:
    """Devices that are in the group now, by id."""
    return page(
        groups.members(_group(request, name), now=timezone.now()),
        order=MEMBER_SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"group": name},
        render=lambda row: {"id": row.pk, "class": row.device_class_id, "presence": row.presence},
        total=total,
    )


@router.put(
    "/groups/{name}/members",
    auth=Scope("devices:write"),
    response=dict[str, Any],
    openapi_extra=_members_body(),
)
def set_members(request: HttpRequest, name: str, response: HttpResponse) -> Any:
    """Make exactly these devices the members of a static group, or change nothing. Needs If-Match.

    Body: JSON `{"devices": [id, ...]}`, text/csv or application/x-ndjson with one device a line.
    """
    row = _group(request, name)
    must_match(request, row.rev)
    ids, lines = _ids(request)
    answer = groups.set_members(row, ids, lines=lines, actor=actor(request), now=timezone.now())
    tag(response, row.rev)
    return answer


def _ids(request: HttpRequest) -> tuple[list[str], dict[str, int]]:
    if request.headers.get("Content-Type", "").startswith("application/json"):
        try:
            return MembersBody.model_validate_json(list_body(request)).devices, {}
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                raise ApiProblem("malformed_json", "the body is not JSON") from None
            text = 'the body is {"devices": [id, ...]} with at most 100,000 ids'
            raise ApiProblem("validation", text) from None
    found = records.read(list_body(request), list_format(request))
    return [record.device_id for record in found], {record.device_id: record.line for record in found}


def _group(request: HttpRequest, name: str) -> DeviceGroup:
    found = DeviceGroup.objects.filter(pk=name).first()
    own = within.limit_of(request)
    if found is None or (own is not None and name not in own):
        raise Http404(f"no group {name}")
    return found
