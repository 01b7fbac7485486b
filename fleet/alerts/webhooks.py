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
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from django.conf import settings
from django.db import IntegrityError, transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.alerts import addresses
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Webhook
from fleet.alerts.outbox import EVENTS
from fleet.sealing import seal, unseal

_PURPOSE: Final = "webhook"


def create(
    name: str, *, url: str, actor: Actor, now: datetime, events: Sequence[str] = EVENTS
) -> tuple[Webhook, str]:
    """Make a webhook; returned with its secret, which cannot be read again.

    Raises AlertError `validation`, `duplicate`, `address_refused`; SealError without a passphrase.
    """
    name = name.strip()
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise AlertError("validation", "a name is one line of 1 to 64 characters", field="name")
    if not events or set(events) - set(EVENTS):
        raise AlertError("validation", f"events are of {', '.join(EVENTS)}", field="events")
    url = addresses.check_url(url)
    addresses.resolve(url, allow_private=settings.WEBHOOK_ALLOW_PRIVATE)
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    sealed = seal(secret.encode(), purpose=_PURPOSE, passphrase=settings.KEY_PASSPHRASE)
    row = Webhook(
        name=name, url=url, events=sorted(set(events)), sealed_secret=sealed, created_at=now,
        created_by=actor.name,
    )  # fmt: skip
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            _record(row, "webhook.create", actor, now)
    except IntegrityError:
        raise AlertError("duplicate", f"a webhook {name!r} exists already", field="name") from None
    return row, secret


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


def _record(row: Webhook, verb: str, actor: Actor, now: datetime) -> None:
    about = {"name": row.name, "url": row.url, "events": row.events}
    audit.record(actor=actor, verb=verb, subject_kind="webhook", subject_id=str(row.pk), at=now, after=about)
