"""Device classes: chip, memory and operators of a kind of board."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field

from fleet.api.auth import Scope, actor
from fleet.api.paging import page
from fleet.api.render import device_class_json
from fleet.api.revisions import must_match, tag
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts
from fleet.devices import classes
from fleet.devices.models import DeviceClass

router = Router(tags=["device classes"])
SORTS = Sorts(
    DeviceClass,
    {name: name for name in ("name", "chip", "arena_bytes")},
    default="name",
    key="name",
    most=3,
)
READ, ADMIN = Scope("devices:read", knows_limits=True), Scope("devices:admin")
Names = list[int | str]
"""Operators by code (`3`) or schema name (`CONV_2D`); custom ones in quotes (`"MyOp"`)."""


class ClassBody(Strict):
    """A new class. slot_bytes: capacity of each slot for model and golden blob, whole chunks of 4096."""

    name: str = Field(max_length=32)
    chip: str = Field(max_length=16)
    arena_bytes: int = Field(gt=0, lt=2**31)
    slot_bytes: list[int] = Field(min_length=1, max_length=4)
    operators: Names = Field(min_length=1, max_length=256)
    esp_nn_version: str = Field("", max_length=16)
    firmware_version: str = Field("1.0.0", max_length=24)
    description: str = Field("", max_length=256)


class ClassPatch(Strict):
    """What changes; an absent field stays. Name and chip stay: another chip is another class."""

    arena_bytes: int | None = Field(None, gt=0, lt=2**31)
    slot_bytes: list[int] | None = Field(None, min_length=1, max_length=4)
    operators: Names | None = Field(None, min_length=1, max_length=256)
    esp_nn_version: str | None = Field(None, max_length=16)
    firmware_version: str | None = Field(None, max_length=24)
    description: str | None = Field(None, max_length=256)


@router.get("/device-classes", auth=READ, response=dict[str, Any])
def list_classes(
    request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = SORTS.parameter()
) -> Any:
    """Device classes."""
    rows, order = DeviceClass.objects.all(), SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=device_class_json)


@router.post("/device-classes", auth=ADMIN, response={201: dict[str, Any]})
def create_class(request: HttpRequest, body: ClassBody) -> Any:
    """Make a device class."""
    given = {**body.dict(), "operators": classes.operators_of(map(str, body.operators))}
    made = classes.create_class(given.pop("name"), **given, actor=actor(request), now=timezone.now())
    return Status(201, device_class_json(made))


@router.get("/device-classes/{name}", auth=READ, response=dict[str, Any])
def get_class(request: HttpRequest, name: str, response: HttpResponse) -> Any:
    """One device class."""
    row = _class(name)
    tag(response, row.rev)
    return device_class_json(row)


@router.patch("/device-classes/{name}", auth=ADMIN, response=dict[str, Any])
def change_class(request: HttpRequest, name: str, body: ClassPatch, response: HttpResponse) -> Any:
    """Change a class. Needs If-Match. With memory or operators its class id changes: versions are inspected
    and released again for it.
    """
    row = _class(name)
    must_match(request, row.rev)
    given = body.dict(exclude_unset=True)
    if given.get("operators") is not None:
        given["operators"] = classes.operators_of(map(str, given["operators"]))
    classes.change_class(row, **given, actor=actor(request), now=timezone.now())
    tag(response, row.rev)
    return device_class_json(row)


def _class(name: str) -> DeviceClass:
    found = DeviceClass.objects.filter(name=name).first()
    if found is None:
        raise Http404(f"no device class {name}")
    return found
