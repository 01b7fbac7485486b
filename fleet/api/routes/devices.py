"""Devices, device classes and enrolment."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query as QueryString
from ninja import Router, Schema, Status
from ninja.params.functions import Query
from pydantic import ConfigDict, Field

from fleet.api import within
from fleet.api.asked import Asked
from fleet.api.auth import Scope, actor
from fleet.api.errors import ApiProblem
from fleet.api.moments import Moment
from fleet.api.paging import page
from fleet.api.render import device_json, event_json
from fleet.api.revisions import LIST_BODY, list_body, list_format, must_match, tag
from fleet.api.sorting import Sorts
from fleet.devices import enrolment, labels, quarantine, records, retirement, selection
from fleet.devices.models import Device, DeviceClass, DeviceEvent
from fleet.telemetry import queries
from ota import delivery, inventory, keys

router = Router(tags=["devices"])
SORTS = Sorts(
    Device,
    {
        "id": "id",
        "enrolled_at": "enrolled_at",
        "firmware": "firmware_key",  # 1.10 behind 1.9
        "last_seen_at": "last_seen_at",  # no index, it is written every ten seconds: a look at every device
    },
    default="id",
)
EVENT_SORTS = Sorts(DeviceEvent, {"id": "id", "at": "at"}, default="-id")
"""`at` has an index without the key: few rows of a device share a moment."""


class Strict(Schema):
    """A body in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class EnrolBody(Strict):
    """What a device says when it claims its identity (SPEC.md section 10)."""

    token: str = Field(min_length=1, max_length=128)
    device_id: str = Field(max_length=32)
    device_class: str = Field(alias="class", max_length=32)
    chip: str = Field(max_length=16)
    firmware: str = Field(max_length=24)


class ConfigValues(Strict):
    """Device configuration; ranges of SPEC.md section 6. null goes back to the device's own default. `false`
    is no number here: it would have set a threshold to 0.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    heartbeat_s: int | None = Field(None, ge=1, le=86_400)
    window_s: int | None = Field(None, ge=1, le=3_600)
    period_ms: int | None = Field(None, ge=10, le=3_600_000)
    anomaly_threshold: int | None = Field(None, ge=0, lt=2**31)
    sketch_s: int | None = Field(None, ge=1, le=86_400)


class ConfigBody(Strict):
    """Which devices get which configuration; null or absent lists mean all devices."""

    classes: list[str] | None = Field(None, max_length=100)
    devices: list[str] | None = Field(None, max_length=10_000)
    config: ConfigValues


class LabelBody(Strict):
    """What changes; an absent field stays. An attribute of null is removed."""

    tags: list[str] | None = Field(None, max_length=32)
    attributes: dict[str, str | None] | None = Field(None, max_length=32)


class RetireBody(Strict):
    """Why a device goes out of service."""

    reason: str = Field("", max_length=retirement.MAX_REASON)


class QuarantineBody(Strict):
    """Why a device is left out of rollouts, or takes part again; a quarantine needs a reason."""

    reason: str = Field("", max_length=quarantine.MAX_REASON)


CONFIG_KEYS = {"heartbeat_s": 1, "window_s": 2, "period_ms": 3, "anomaly_threshold": 4, "sketch_s": 10}


@router.post("/enrol", auth=None, response={201: dict[str, Any]})
def enrol(request: HttpRequest, body: EnrolBody) -> Any:
    """A device exchanges its one-time token for broker secret, MAC key and trust anchor."""
    asked = enrolment.EnrolmentRequest.parse(body.dict(by_alias=True))
    who = actor(request)
    made = enrolment.enrol(
        asked,
        anchor=keys.root_anchor(),
        now=timezone.now(),
        request_id=who.request_id,
        source_ip=who.source_ip,
    )
    return Status(201, made)


@router.get("/devices", auth=Scope("devices:read", knows_limits=True), response=dict[str, Any])
def list_devices(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
    q: str = "",
    search: str = Query("", max_length=32),
    device_class: str = Query("", alias="class", max_length=32),
    presence: str = Query("", max_length=16),
    quarantined: bool | None = None,
    total: bool = False,
) -> Any:
    """Devices with their slots as last reported. q: a query as `class==s3-8m;tag==line-2`; search: part of an
    id; quarantined: only those that are, or are not. Everything given must hold; with q retired devices are
    left out.
    """
    rows = Device.objects.filter(within.devices(request)).prefetch_related("slots")
    filters = {"q": q, "search": search, "class": device_class, "presence": presence}
    filters["quarantined"] = "" if quarantined is None else str(quarantined)
    if q.strip():
        rows = selection.selected(q, now=timezone.now())
        rows = rows.filter(within.devices(request)).prefetch_related("slots")
    if search:
        rows = rows.filter(id__contains=search)
    if device_class:
        rows = rows.filter(device_class_id=device_class)
    if presence:
        rows = rows.filter(presence=presence)
    if quarantined is not None:
        rows = rows.filter(quarantined_at__isnull=not quarantined)
    answer = page(
        rows,
        order=SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters=filters,
        render=lambda row: row,
        total=total,
    )
    names = inventory.names([slot for row in answer["items"] for slot in row.slots.all()])
    answer["items"] = [device_json(row, names) for row in answer["items"]]
    return answer


@router.get("/devices/{device_id}", auth=Scope("devices:read", knows_limits=True), response=dict[str, Any])
def get_device(request: HttpRequest, device_id: str, response: HttpResponse) -> Any:
    """One device. Its ETag changes when its tags or attributes do."""
    row = _device(request, device_id)
    tag(response, labels.revision(row))
    return device_json(row, inventory.names(list(row.slots.all())))


@router.patch("/devices/{device_id}", auth=Scope("devices:write", knows_limits=True), response=dict[str, Any])
def label_device(request: HttpRequest, device_id: str, body: LabelBody, response: HttpResponse) -> Any:
    """Set a device's tags, or some of its attributes. Needs If-Match."""
    row = _device(request, device_id)
    must_match(request, labels.revision(row))
    labels.label(row, tags=body.tags, attributes=body.attributes, actor=actor(request), now=timezone.now())
    tag(response, labels.revision(row))
    return device_json(row, inventory.names(list(row.slots.all())))


@router.post(
    "/devices/{device_id}/quarantine", auth=Scope("devices:write", knows_limits=True), response=dict[str, Any]
)
def quarantine_device(request: HttpRequest, device_id: str, body: QuarantineBody) -> Any:
    """Leave a device out of every rollout until it is released; it keeps running what it runs."""
    return _changed(request, device_id, "quarantine", body)


@router.post(
    "/devices/{device_id}/release", auth=Scope("devices:write", knows_limits=True), response=dict[str, Any]
)
def release_device(request: HttpRequest, device_id: str, body: QuarantineBody) -> Any:
    """Let a device out of quarantine. `retry-failed` takes it into a rollout under way."""
    return _changed(request, device_id, "release", body)


@router.post(
    "/devices/{device_id}/retire", auth=Scope("devices:admin", knows_limits=True), response=dict[str, Any]
)
def retire_device(request: HttpRequest, device_id: str, body: RetireBody) -> Any:
    """Take a device out of service for good: its keys and its access to the broker go, its offers end, its
    history stays. 503 `unavailable`: it is retired, ask again so that its access ends.
    """
    within.require_device(request, device_id)
    row = retirement.retire(device_id, reason=body.reason, actor=actor(request), now=timezone.now())
    return device_json(row, inventory.names(list(row.slots.all())))


@router.post("/devices:import", auth=Scope("devices:write"), response=dict[str, Any], openapi_extra=LIST_BODY)
def import_devices(request: HttpRequest, dry_run: bool = False) -> Any:
    """Set tags and attributes of many enrolled devices from text/csv or application/x-ndjson: every line or
    none. Columns: id, tags (separated by blanks), attr.<key>.
    """
    found = records.read(list_body(request), list_format(request))
    return labels.import_labels(found, actor=actor(request), now=timezone.now(), dry_run=dry_run)


@router.get(
    "/devices/{device_id}/events", auth=Scope("devices:read", knows_limits=True), response=dict[str, Any]
)
def device_events(
    request: HttpRequest,
    device_id: str,
    limit: int = 50,
    cursor: str = "",
    sort: str = EVENT_SORTS.parameter(),
) -> Any:
    """What the device said and did, newest first."""
    row = _device(request, device_id)
    return page(
        DeviceEvent.objects.filter(device=row),
        order=EVENT_SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters={"device": device_id},
        render=event_json,
    )


class WindowsQuery(Asked):
    """The range of windows. include_unauthenticated: those of debug mode too, which came without a MAC."""

    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    include_unauthenticated: bool = False


@router.get(
    "/devices/{device_id}/telemetry", auth=Scope("telemetry:read", knows_limits=True), response=dict[str, Any]
)
def device_telemetry(request: HttpRequest, device_id: str, asked: QueryString[WindowsQuery]) -> Any:
    """Telemetry windows of one device, oldest first; the newest 2,000, else `is_cut`."""
    _device(request, device_id)
    return queries.device_answer(
        device_id, asked.start, asked.end, now=timezone.now(),
        include_unauthenticated=asked.include_unauthenticated,
    )  # fmt: skip


@router.get(
    "/devices/{device_id}/telemetry/last",
    auth=Scope("telemetry:read", knows_limits=True),
    response=dict[str, Any],
)
def device_last(request: HttpRequest, device_id: str) -> Any:
    """The newest telemetry window of one device."""
    _device(request, device_id)
    return queries.last_answer(device_id, now=timezone.now())


@router.post("/devices:config", auth=Scope("devices:write", knows_limits=True), response=dict[str, Any])
def set_config(request: HttpRequest, body: ConfigBody) -> Any:
    """Change signed configuration of some or all devices; the signed documents follow at once."""
    values = {CONFIG_KEYS[name]: value for name, value in body.config.dict(exclude_unset=True).items()}
    if not values:
        raise ApiProblem("validation", "config names no value to change")
    rows = Device.objects.filter(within.devices(request), retired_at=None)
    if body.devices is not None:
        rows = rows.filter(id__in=body.devices)
        found = set(rows.values_list("id", flat=True))
        if unknown := sorted(set(body.devices) - found):
            raise ApiProblem("unknown_device", f"no device {unknown[0]}", unknown=unknown[:20])
    if body.classes is not None:
        known = set(DeviceClass.objects.filter(name__in=body.classes).values_list("name", flat=True))
        if unknown := sorted(set(body.classes) - known):
            raise ApiProblem("unknown_class", f"no device class {unknown[0]}", unknown=unknown)
        rows = rows.filter(device_class_id__in=body.classes)
    ids = list(rows.values_list("id", flat=True))
    if ids:
        delivery.set_config(ids, values, actor=actor(request), now=timezone.now())
    return {"devices": len(ids)}


def _changed(request: HttpRequest, device_id: str, verb: str, body: QuarantineBody) -> dict[str, Any]:
    row = _device(request, device_id)
    quarantine.change(row, verb, reason=body.reason, actor=actor(request), now=timezone.now())
    return device_json(row, inventory.names(list(row.slots.all())))


def _device(request: HttpRequest, device_id: str) -> Device:
    rows = Device.objects.filter(within.devices(request), id=device_id)
    found = rows.prefetch_related("slots").first()
    if found is None:
        raise Http404(f"no device {device_id}")
    return found
