"""Webhooks and what was sent to them."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field

from fleet.alerts import sending, webhooks
from fleet.alerts.models import Delivery, Webhook
from fleet.alerts.outbox import EVENTS
from fleet.api.auth import Scope, actor
from fleet.api.paging import page
from fleet.api.render_alerts import delivery_json, webhook_json
from fleet.api.revisions import must_match, tag
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts

router = Router(tags=["webhooks"])
ADMIN = Scope("webhooks:write")
SORTS = Sorts(Webhook, {"name": "name", "created_at": "created_at"}, default="name", most=2)
DELIVERY_SORTS = Sorts(Delivery, {"id": "id"}, default="-id")


_EVENTS = " ".join(f"`{name}`: {text}" for name, text in EVENTS.items())


class WebhookBody(Strict):
    """A new receiver; without events, of all of them."""

    name: str = Field(max_length=64)
    url: str = Field(max_length=512)
    events: list[str] = Field(default_factory=lambda: list(EVENTS), max_length=16, description=_EVENTS)


class WebhookPatch(Strict):
    """What changes; an absent field stays."""

    name: str | None = Field(None, max_length=64)
    url: str | None = Field(None, max_length=512)
    events: list[str] | None = Field(None, max_length=16, description=_EVENTS)
    is_enabled: bool | None = None


class WebhookSecretBody(Strict):
    """A new secret. grace_hours: how long messages are signed with the former one too."""

    grace_hours: int = Field(24, ge=0, le=7 * 24)


@router.get("/webhooks", auth=ADMIN, response=dict[str, Any])
def list_webhooks(
    request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = SORTS.parameter()
) -> Any:
    """Receivers by name."""
    rows, order = Webhook.objects.all(), SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=webhook_json)


@router.post("/webhooks", auth=ADMIN, response={201: dict[str, Any]})
def create_webhook(request: HttpRequest, body: WebhookBody) -> Any:
    """Make a webhook. Its secret is in this answer only."""
    row, secret = webhooks.create(**body.dict(), actor=actor(request), now=timezone.now())
    return Status(201, {**webhook_json(row), "secret": secret})


@router.get("/webhooks/{webhook_id}", auth=ADMIN, response=dict[str, Any])
def get_webhook(request: HttpRequest, webhook_id: UUID, response: HttpResponse) -> Any:
    """One receiver."""
    row = _webhook(webhook_id)
    tag(response, row.rev)
    return webhook_json(row)


@router.patch("/webhooks/{webhook_id}", auth=ADMIN, response=dict[str, Any])
def change_webhook(request: HttpRequest, webhook_id: UUID, body: WebhookPatch, response: HttpResponse) -> Any:
    """Change a receiver; its secret stays. Needs If-Match."""
    row = _webhook(webhook_id)
    must_match(request, row.rev)
    given = body.dict(exclude_unset=True)
    webhooks.change(row, **given, actor=actor(request), now=timezone.now())
    tag(response, row.rev)
    return webhook_json(row)


@router.post("/webhooks/{webhook_id}/rotate", auth=ADMIN, response=dict[str, Any])
def rotate_webhook(
    request: HttpRequest, webhook_id: UUID, body: WebhookSecretBody, response: HttpResponse
) -> Any:
    """Give it a new secret, which is in this answer only. Until `former_secret_until` each message carries
    two signatures, of the new secret and of the one before. Repeated with its Idempotency-Key it gives the
    same secret again; without one, another.
    """
    row = _webhook(webhook_id)
    grace = timedelta(hours=body.grace_hours)
    secret = webhooks.rotate(row, actor=actor(request), now=timezone.now(), grace=grace)
    tag(response, row.rev)
    return {**webhook_json(row), "secret": secret}


@router.post("/webhooks/{webhook_id}/test", auth=ADMIN, response={202: dict[str, Any]})
def test_webhook(request: HttpRequest, webhook_id: UUID) -> Any:
    """Send a message of the type `webhook.test`; the answer is its delivery, which is sent within seconds."""
    made = webhooks.send_test(_webhook(webhook_id), actor=actor(request), now=timezone.now())
    return Status(202, delivery_json(made))


@router.delete("/webhooks/{webhook_id}", auth=ADMIN, response={204: None})
def delete_webhook(request: HttpRequest, webhook_id: UUID) -> Any:
    """Remove a webhook with its deliveries. Needs If-Match."""
    row = _webhook(webhook_id)
    must_match(request, row.rev)
    webhooks.delete(row, actor=actor(request), now=timezone.now())
    return Status(204, None)


@router.get("/webhooks/{webhook_id}/deliveries", auth=ADMIN, response=dict[str, Any])
def list_deliveries(
    request: HttpRequest,
    webhook_id: UUID,
    limit: int = 50,
    cursor: str = "",
    sort: str = DELIVERY_SORTS.parameter(),
    state: str = "",
) -> Any:
    """What was sent to it, newest first."""
    rows = _webhook(webhook_id).deliveries.all()
    filters = {"webhook": str(webhook_id), "state": state}
    rows = rows.filter(state=state) if state else rows
    order = DELIVERY_SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters=filters, render=delivery_json)


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", auth=ADMIN, response=dict[str, Any])
def redeliver(request: HttpRequest, webhook_id: UUID, delivery_id: UUID) -> Any:
    """Send a finished delivery again, under the same id."""
    row = Delivery.objects.filter(pk=delivery_id, webhook=webhook_id).first()
    if row is None:
        raise Http404("no such delivery")
    return delivery_json(sending.redeliver(row, actor=actor(request), now=timezone.now()))


def _webhook(webhook_id: UUID) -> Webhook:
    row = Webhook.objects.filter(pk=webhook_id).first()
    if row is None:
        raise Http404("no such webhook")
    return row
