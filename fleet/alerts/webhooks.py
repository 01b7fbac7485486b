"""The verbs of webhooks, and the signature of a message.

The secret is shown once, when the webhook is made. Receivers check `webhook-signature: v1,<base64>`, which is
HMAC-SHA-256 with the secret over `<webhook-id>.<webhook-timestamp>.<body>`, and refuse what is older than
five minutes or has an id they know.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.alerts import addresses
from fleet.alerts.choices import DeliveryKind
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Delivery, Webhook
from fleet.alerts.outbox import EVENTS
from fleet.sealing import seal, unseal
from ota.transitions import IllegalTransition

TEST_EVENT: Final = "webhook.test"
_PURPOSE: Final = "webhook"


def create(
    name: str, *, url: str, actor: Actor, now: datetime, events: Collection[str] = tuple(EVENTS)
) -> tuple[Webhook, str]:
    """Make a webhook; returned with its secret, which cannot be read again.

    Raises AlertError `validation`, `duplicate`, `address_refused`; SealError without a passphrase.
    """
    name, events, url = _name(name), _events(events), _url(url)
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    sealed = seal(secret.encode(), purpose=_PURPOSE, passphrase=settings.KEY_PASSPHRASE)
    row = Webhook(
        name=name, url=url, events=events, sealed_secret=sealed, created_at=now, created_by=actor.name
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            _record(row, "webhook.create", actor, now)
    except IntegrityError:
        raise _taken(name) from None
    return row, secret


def change(
    row: Webhook,
    *,
    actor: Actor,
    now: datetime,
    name: str | None = None,
    url: str | None = None,
    events: Collection[str] | None = None,
    is_enabled: bool | None = None,
) -> Webhook:
    """Change what is given; the secret and what waits to be sent stay. A disabled webhook is sent nothing.

    Raises as `create`, and AlertError `stale` when somebody else changed it since `row` was read.
    """
    values: dict[str, Any] = {}
    if name is not None:
        values["name"] = _name(name)
    if url is not None and url.strip() != row.url:
        values["url"] = _url(url)
    if events is not None:
        values["events"] = _events(events)
    if is_enabled is not None:
        values["is_enabled"] = is_enabled
    before = {field: getattr(row, field) for field in values}
    try:
        with transaction.atomic():
            found = Webhook.objects.filter(pk=row.pk, rev=row.rev)
            if found.update(rev=F("rev") + 1, **values) != 1:
                raise AlertError("stale", f"webhook {row.name} was changed meanwhile: read it again")
            audit.record(
                actor=actor, verb="webhook.change", subject_kind="webhook", subject_id=str(row.pk), at=now,
                before=before, after=values,
            )  # fmt: skip
    except IntegrityError:
        raise _taken(values["name"]) from None
    row.refresh_from_db()
    return row


def send_test(row: Webhook, *, actor: Actor, now: datetime) -> Delivery:
    """Put a message of the type `webhook.test` into the outbox: it goes the whole way that others go, name
    look-up, signature and retries included. Raises IllegalTransition for a disabled webhook.
    """
    if not row.is_enabled:
        raise IllegalTransition("disabled", ["change"], asked="test")
    body = {
        "type": TEST_EVENT,
        "at": now.isoformat(),
        "object": {"kind": "webhook", "id": str(row.pk)},
        "rev": row.rev,
        "data": {"asked_by": actor.person},
    }
    with transaction.atomic():
        made = Delivery.objects.create(
            kind=DeliveryKind.WEBHOOK, webhook=row, event=TEST_EVENT, body=body, next_at=now, created_at=now
        )
        _record(row, "webhook.test", actor, now)
    return made


def delete(row: Webhook, *, actor: Actor, now: datetime) -> None:
    """Remove a webhook with its deliveries."""
    with transaction.atomic():
        _record(row, "webhook.delete", actor, now)
        row.delete()


def secret_of(row: Webhook) -> str:
    """The secret in clear. Raises SealError."""
    return unseal(bytes(row.sealed_secret), purpose=_PURPOSE, passphrase=settings.KEY_PASSPHRASE).decode()


def signature(secret: str, *, delivery_id: str, timestamp: int, body: bytes) -> str:
    """The header's value. timestamp: unix seconds, also in the header `webhook-timestamp`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def _name(name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise AlertError("validation", "a name is one line of 1 to 64 characters", field="name")
    return name


def _events(events: Collection[str]) -> list[str]:
    if not events or set(events) - set(EVENTS):
        raise AlertError("validation", f"events are of {', '.join(EVENTS)}", field="events")
    return sorted(set(events))


def _url(url: str) -> str:
    url = addresses.check_url(url)
    addresses.resolve(url, allow_private=settings.WEBHOOK_ALLOW_PRIVATE)
    return url


def _taken(name: str) -> AlertError:
    return AlertError("duplicate", f"a webhook {name!r} exists already", field="name")


def _record(row: Webhook, verb: str, actor: Actor, now: datetime) -> None:
    about = {"name": row.name, "url": row.url, "events": row.events}
    audit.record(actor=actor, verb=verb, subject_kind="webhook", subject_id=str(row.pk), at=now, after=about)
