"""The verbs of webhooks, and the signature of a message.

The secret is shown once, when it is made. Receivers check `webhook-signature: v1,<base64>`, which is
HMAC-SHA-256 with the secret over `<webhook-id>.<webhook-timestamp>.<body>`, and refuse what is older than
five minutes or has an id they know.

A secret is replaced by `rotate`. For a time messages are signed with both, and the header has two signatures
with a blank between them, the new one's first: a receiver takes a message when one of them is right, so it
may change over at any moment of that time. There are never more than two, so rotating again within it ends
the one before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
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
GRACE: Final = timedelta(hours=24)
"""How long messages are signed with the former secret too, unless somebody says otherwise."""
LONGEST_GRACE: Final = timedelta(days=7)
_PURPOSE: Final = "webhook"


def create(
    name: str, *, url: str, actor: Actor, now: datetime, events: Collection[str] = tuple(EVENTS)
) -> tuple[Webhook, str]:
    """Make a webhook; returned with its secret, which cannot be read again.

    Raises AlertError `validation`, `duplicate`, `address_refused`; SealError without a passphrase.
    """
    name, events, url = _name(name), _events(events), _url(url)
    secret, sealed = _new_secret()
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


def rotate(row: Webhook, *, actor: Actor, now: datetime, grace: timedelta = GRACE) -> str:
    """Give a webhook another secret; returned, and never to be read again.

    grace: how long messages are signed with the secret of now as well; 0 ends it at once, as one that leaked
    must. Raises AlertError `validation` for a grace outside 0..7 days, `stale` as `change`; SealError without
    a passphrase.
    """
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise AlertError("validation", "the former secret is kept for 0 hours to 7 days", field="grace_hours")
    secret, sealed = _new_secret()
    values: dict[str, Any] = {"sealed_secret": sealed, "sealed_former": None, "former_until": None}
    if grace:
        values |= {"sealed_former": bytes(row.sealed_secret), "former_until": now + grace}
    with transaction.atomic():
        if Webhook.objects.filter(pk=row.pk, rev=row.rev).update(rev=F("rev") + 1, **values) != 1:
            raise AlertError("stale", f"webhook {row.name} was changed meanwhile: read it again")
        until = values["former_until"]
        audit.record(
            actor=actor, verb="webhook.rotate", subject_kind="webhook", subject_id=str(row.pk), at=now,
            after={"name": row.name, "former_until": until.isoformat() if until else None},
        )  # fmt: skip
    row.refresh_from_db()
    return secret


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


def secrets_of(row: Webhook, *, now: datetime) -> list[str]:
    """The secrets that messages are signed with now, in clear, newest first. Raises SealError."""
    sealed = [row.sealed_secret]
    if row.sealed_former is not None and row.former_until is not None and now < row.former_until:
        sealed.append(row.sealed_former)
    return [
        unseal(bytes(one), purpose=_PURPOSE, passphrase=settings.KEY_PASSPHRASE).decode() for one in sealed
    ]


def signatures(keys: Sequence[str], *, delivery_id: str, timestamp: int, body: bytes) -> str:
    """The header's value: a signature for each secret, a blank between them."""
    return " ".join(signature(one, delivery_id=delivery_id, timestamp=timestamp, body=body) for one in keys)


def signature(secret: str, *, delivery_id: str, timestamp: int, body: bytes) -> str:
    """One signature. timestamp: unix seconds, also in the header `webhook-timestamp`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def _new_secret() -> tuple[str, bytes]:
    """A secret, and the form that is stored. Raises SealError."""
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return secret, seal(secret.encode(), purpose=_PURPOSE, passphrase=settings.KEY_PASSPHRASE)


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
