"""What holds for every endpoint: problem documents, tokens, scopes, pages, idempotency, request ids."""

from datetime import datetime

import pytest
from django.test import Client

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.devices.classes import ensure_default_classes
from fleet.devices.models import Device, DeviceClass
from tests.api.conftest import Caller

pytestmark = pytest.mark.django_db


def make_devices(count: int, now: datetime) -> None:
    ensure_default_classes(now)
    some = DeviceClass.objects.get(name="host-a")
    Device.objects.bulk_create(
        Device(id=f"dev-{i:03d}", device_class=some, enrolled_at=now) for i in range(count)
    )


def test_without_a_token_nothing_is_told(client: Client) -> None:
    answer = client.get("/api/v1/devices")
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "token_missing"


@pytest.mark.parametrize("text", ["nonsense", "tfk_0000000000000000_" + "0" * 64, ""])
def test_a_wrong_token_is_refused(client: Client, text: str) -> None:
    answer = client.get("/api/v1/devices", HTTP_AUTHORIZATION=f"Bearer {text}")
    assert answer.status_code == 401
    assert answer.json()["code"] in ("token_invalid", "token_missing")


def test_a_revoked_token_is_refused(call: Caller, now: datetime) -> None:
    tokens.revoke(call.token, actor=SYSTEM, now=now)
    assert call("GET", "/devices").json()["code"] == "token_invalid"


def test_a_viewer_lacks_the_scope_to_write_and_is_told_which(call: Caller) -> None:
    answer = call.as_role("viewer")("POST", "/models", {"name": "kws"})
    assert answer.status_code == 403
    assert answer.json() | {"scope": "models:write", "code": "scope_missing"} == answer.json()


def test_unknown_fields_are_errors_with_a_pointer(call: Caller) -> None:
    answer = call("POST", "/models", {"name": "kws", "colour": "red"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "validation"
    assert answer.json()["errors"][0]["pointer"].endswith("/colour")


def test_malformed_json_is_named(call: Caller, client: Client) -> None:
    answer = client.post(
        "/api/v1/models", data="{", content_type="application/json", HTTP_AUTHORIZATION=f"Bearer {call.text}"
    )
    assert answer.status_code == 400
    assert answer.json()["code"] == "malformed_json"


def test_unknown_objects_are_problems_with_the_request_id(call: Caller) -> None:
    answer = call("GET", "/models/nothing", X_REQUEST_ID="abc-1")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    assert answer.json()["request_id"] == answer["X-Request-Id"] == "abc-1"


def test_pages_show_every_device_once_although_devices_come_and_go(call: Caller, now: datetime) -> None:
    make_devices(25, now)
    seen: list[str] = []
    cursor = ""
    while True:
        page = call("GET", f"/devices?limit=10&cursor={cursor}").json()
        seen += [item["id"] for item in page["items"]]
        if len(seen) == 10:
            Device.objects.filter(id="dev-003").delete()
            Device.objects.create(id="dev-000a", device_class_id="host-a", enrolled_at=now)
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [f"dev-{i:03d}" for i in range(25)]


def test_a_cursor_of_another_filter_is_refused(call: Caller, now: datetime) -> None:
    make_devices(5, now)
    cursor = call("GET", "/devices?limit=2").json()["next"]
    assert call("GET", f"/devices?limit=2&class=host-b&cursor={cursor}").json()["code"] == "cursor_mismatch"
    assert call("GET", "/devices?cursor=made-up").json()["code"] == "cursor_mismatch"


@pytest.mark.parametrize("limit", ["0", "501", "-1"])
def test_a_limit_out_of_range_is_refused_and_never_clamped(call: Caller, limit: str) -> None:
    answer = call("GET", f"/devices?limit={limit}")
    assert (answer.status_code, answer.json()["code"]) == (400, "limit")
