"""E-mail about alerts: who gets it, and what was sent. Recipients are a setting, FLEET_ALERT_EMAILS."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest
from django.utils import timezone
from ninja import Router

from fleet.alerts import mailing, sending
from fleet.alerts.choices import DeliveryKind, DeliveryState
from fleet.alerts.models import Delivery
from fleet.api.auth import Scope, actor
from fleet.api.paging import page
from fleet.api.render_alerts import delivery_json, mailbox_json
from fleet.api.sorting import Sorts

router = Router(tags=["webhooks"])
SORTS = Sorts(Delivery, {"id": "id"}, default="-id")
ADMIN = Scope("webhooks:write")


@router.get("/alert-emails", auth=ADMIN, response=dict[str, Any])
def list_mailboxes(request: HttpRequest) -> Any:
    """Recipients, how many alerts wait for their next message, and why the newest one was not taken."""
    return {"items": [mailbox_json(box) for box in mailing.mailboxes()], "next": None}


@router.get("/alert-emails/deliveries", auth=ADMIN, response=dict[str, Any])
def list_email_deliveries(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
    recipient: str = "",
    state: DeliveryState | None = None,
) -> Any:
    """What was written about, newest first: an alert and a recipient each."""
    given = {"recipient": recipient, "state": state or ""}
    rows = Delivery.objects.filter(kind=DeliveryKind.EMAIL)
    rows = rows.filter(**{name: value for name, value in given.items() if value})
    return page(
        rows, order=SORTS.order(sort), limit=limit, cursor=cursor, filters=given, render=delivery_json
    )


@router.post("/alert-emails/deliveries/{delivery_id}/redeliver", auth=ADMIN, response=dict[str, Any])
def redeliver_email(request: HttpRequest, delivery_id: UUID) -> Any:
    """Put a finished one into its recipient's next message."""
    row = Delivery.objects.filter(pk=delivery_id, kind=DeliveryKind.EMAIL).first()
    if row is None:
        raise Http404("no such delivery")
    return delivery_json(sending.redeliver(row, actor=actor(request), now=timezone.now()))
