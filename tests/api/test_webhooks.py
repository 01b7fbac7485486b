"""Webhooks over REST."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from fleet.alerts import webhooks
from fleet.alerts.models import Delivery, Webhook
from fleet.alerts.outbox import EVENTS
from fleet.api.routes import api

pytestmark = pytest.mark.django_db
EVERY = [
    *("alert.opened", "alert.resolved", "device.enrolled", "job.failed", "key.revoked", "model.signed"),
    *("rollout.state_changed", "wave.verdict"),
]


def test_an_administrator_makes_a_webhook_and_sees_its_secret_once(call: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    made = call("POST", "/webhooks", {"name": "pager", "url": "http://127.0.0.1:9/hook"})
    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    (shown,) = call("GET", "/webhooks").json()["items"]
    assert "secret" not in shown
    assert call("DELETE", f"/webhooks/{shown['id']}").status_code == 428
    assert call("DELETE", f"/webhooks/{shown['id']}", if_match='"1"').status_code == 204


def test_every_event_can_be_asked_for_and_no_other(call: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    body = {"name": "keys", "url": "http://127.0.0.1:9/hook"}
    refused = call("POST", "/webhooks", body | {"events": ["key.made"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation")
    for name in EVERY:
        assert name in refused.content.decode()
    one = call("POST", "/webhooks", body | {"events": ["key.revoked"]})
    assert (one.status_code, one.json()["events"]) == (201, ["key.revoked"])
    every = call("POST", "/webhooks", body | {"name": "all"}).json()["events"]
    assert every == EVERY


def test_the_document_says_what_each_event_means() -> None:
    described = api.get_openapi_schema()["components"]["schemas"]["WebhookBody"]["properties"]["events"]
    for name, text in EVENTS.items():
        assert f"`{name}`: {text}" in described["description"]


def test_a_new_secret_is_shown_once_and_the_former_one_signs_for_a_day(call: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    made = call("POST", "/webhooks", {"name": "pager", "url": "http://127.0.0.1:9/"}).json()
    path = f"/webhooks/{made['id']}"
    rotated = call("POST", f"{path}/rotate", {})
    assert (rotated.status_code, rotated["ETag"]) == (200, '"2"')
    secret = rotated.json()["secret"]
    assert secret.startswith("whsec_")
    assert secret != made["secret"]
    row = Webhook.objects.get()
    assert row.former_until is not None
    assert timedelta(hours=23) < row.former_until - timezone.now() <= timedelta(hours=24)
    shown = call("GET", path).json()
    assert "secret" not in shown
    assert shown["former_secret_until"]
    assert call("POST", f"{path}/rotate", {"grace_hours": 0}).json()["former_secret_until"] is None
    for wrong in ({"grace_hours": 169}, {"grace_hours": -1}, {"grace": 1}):
        assert call("POST", f"{path}/rotate", wrong).json()["code"] == "validation"


def test_a_new_secret_that_was_lost_on_the_way_is_had_again_with_its_key(call: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    made = call("POST", "/webhooks", {"name": "pager", "url": "http://127.0.0.1:9/"}).json()
    path = f"/webhooks/{made['id']}/rotate"
    first = call("POST", path, {}, IDEMPOTENCY_KEY="k1")
    again = call("POST", path, {}, IDEMPOTENCY_KEY="k1")
    assert (again["Idempotent-Replayed"], again.json(), again["ETag"]) == ("true", first.json(), '"2"')
    row = Webhook.objects.get()
    assert row.rev == 2
    assert webhooks.secrets_of(row, now=timezone.now())[0] == first.json()["secret"]
    assert call("POST", path, {}).json()["secret"] != first.json()["secret"]


def test_a_private_address_is_refused_with_its_code(call: Any) -> None:
    refused = call("POST", "/webhooks", {"name": "x", "url": "http://169.254.169.254/latest"})
    assert (refused.status_code, refused.json()["code"]) == (422, "address_refused")
    assert not Webhook.objects.exists()


def test_only_administrators_see_webhooks(call: Any) -> None:
    for role in ("viewer", "operator"):
        assert call.as_role(role)("GET", "/webhooks").json()["code"] == "scope_missing"


def test_a_finished_delivery_is_sent_again_a_waiting_one_is_not(call: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    hook = call("POST", "/webhooks", {"name": "pager", "url": "http://127.0.0.1:9/"}).json()["id"]
    now = timezone.now()
    row = Delivery.objects.create(
        kind="webhook", webhook_id=hook, event="alert.opened", body={}, next_at=now, created_at=now,
        state="failed", attempts=8,
    )  # fmt: skip
    path = f"/webhooks/{hook}/deliveries"
    assert [one["state"] for one in call("GET", path).json()["items"]] == ["failed"]
    again = call("POST", f"{path}/{row.pk}/redeliver").json()
    assert (again["state"], again["attempts"]) == ("pending", 0)
    assert call("POST", f"{path}/{row.pk}/redeliver").json()["code"] == "illegal_transition"


def test_a_webhook_is_changed_under_its_revision_and_tried(call: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    hook = call("POST", "/webhooks", {"name": "pager", "url": "http://127.0.0.1:9/"}).json()["id"]
    path = f"/webhooks/{hook}"
    assert call("PATCH", path, {"name": "chat"}).status_code == 428
    changed = call("PATCH", path, {"name": "chat", "events": ["alert.opened"]}, if_match='"1"')
    assert (changed.status_code, changed["ETag"], changed.json()["events"]) == (200, '"2"', ["alert.opened"])
    assert call("PATCH", path, {"name": "late"}, if_match='"1"').status_code == 412
    assert call("PATCH", path, {"events": ["tea"]}, if_match='"2"').json()["code"] == "validation"
    assert call("PATCH", path, {"url": "ftp://x/"}, if_match='"2"').json()["code"] == "validation"
    tried = call("POST", f"{path}/test")
    assert (tried.status_code, tried.json()["event"], tried.json()["state"]) == (
        202,
        "webhook.test",
        "pending",
    )
    call("PATCH", path, {"is_enabled": False}, if_match='"2"')
    refused = call("POST", f"{path}/test")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
