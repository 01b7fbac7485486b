"""Sends e-mail about alerts: to each recipient at most one message in five minutes, with all that waits.

The first alert of a quiet hour goes at once; a storm of them becomes one message every five minutes. A
recipient's `Mailbox` is claimed by one conditional UPDATE that moves its `next_at` ahead by LEASE, so two
senders never write to one person at a time, and one that is killed is followed by another.
"""

from __future__ import annotations

import random
import smtplib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.conf import settings
from django.core.mail import get_connection
from django.db import transaction
from django.db.models import Count, F, QuerySet

from fleet.alerts import digests
from fleet.alerts.choices import DeliveryKind, DeliveryState
from fleet.alerts.models import Delivery, Mailbox
from fleet.alerts.sending import backoff

log = structlog.get_logger(__name__)
EVERY: Final = timedelta(minutes=5)
LEASE: Final = timedelta(minutes=2)
"""Longer than a server can take that answers each command just before EMAIL_TIMEOUT."""
LONGEST: Final = timedelta(hours=1)
GIVE_UP: Final = timedelta(hours=24)
MOST: Final = 200
"""Alerts of one message."""
BATCH: Final = 4
"""Recipients of one task."""
NOT_ASKED_FOR: Final = "nobody of this address is told of alerts any more"
_BACKEND: Final = "django.core.mail.backends.smtp.EmailBackend"


@dataclass(frozen=True)
class Waiting:
    """A recipient, and how many alerts wait for the next message. The other fields: of its `Mailbox`."""

    recipient: str
    waiting: int
    next_at: datetime | None
    attempts: int
    error: str
    sent_at: datetime | None


def mailboxes() -> list[Waiting]:
    """Everybody who is told of alerts, in the order of the setting."""
    pending = Delivery.objects.filter(kind=DeliveryKind.EMAIL, state=DeliveryState.PENDING)
    counts = dict(pending.order_by().values_list("recipient").annotate(n=Count("pk")))
    known = Mailbox.objects.in_bulk(settings.ALERT_EMAILS)
    return [
        Waiting(name, counts.get(name, 0), box.next_at, box.attempts, box.error, box.sent_at)
        if (box := known.get(name))
        else Waiting(name, counts.get(name, 0), None, 0, "", None)
        for name in settings.ALERT_EMAILS
    ]


def send_due(now: datetime, *, rng: random.Random) -> int:
    """Write to the recipients that are due, at most BATCH; returns how many messages a server took."""
    waiting = Delivery.objects.filter(kind=DeliveryKind.EMAIL, state=DeliveryState.PENDING)
    waiting.exclude(recipient__in=settings.ALERT_EMAILS).update(
        state=DeliveryState.FAILED, error=NOT_ASKED_FOR, finished_at=now
    )
    names = sorted(set(waiting.values_list("recipient", flat=True).order_by().distinct()))
    boxes = [Mailbox(recipient=name, next_at=now) for name in names]
    Mailbox.objects.bulk_create(boxes, ignore_conflicts=True)
    due = Mailbox.objects.filter(recipient__in=names, next_at__lte=now).order_by("next_at")
    return sum(send(name, now=now, rng=rng) for name in due.values_list("pk", flat=True)[:BATCH])


def send(recipient: str, *, now: datetime, rng: random.Random) -> bool:
    """Write to one recipient that is due; True when the server took it. Safe from many workers."""
    if Mailbox.objects.filter(pk=recipient, next_at__lte=now).update(next_at=now + LEASE) != 1:
        return False  # another worker is at it, or was
    waiting = Delivery.objects.filter(
        kind=DeliveryKind.EMAIL, state=DeliveryState.PENDING, recipient=recipient
    ).order_by("id")
    rows = list(waiting[:MOST])
    if not rows:
        Mailbox.objects.filter(pk=recipient).update(next_at=now)
        return False
    message = digests.compose(rows, recipient=recipient, waiting=waiting.count() - len(rows), now=now)
    try:
        message.connection = get_connection(_BACKEND, timeout=settings.EMAIL_TIMEOUT)
        message.send()
    except (OSError, smtplib.SMTPException) as problem:
        _note_failure(recipient, rows, problem, now=now, rng=rng)
        return False
    with transaction.atomic():
        _of(rows).update(
            state=DeliveryState.DELIVERED, attempts=F("attempts") + 1, status=250, error="", finished_at=now
        )
        Mailbox.objects.filter(pk=recipient).update(next_at=now + EVERY, attempts=0, error="", sent_at=now)
    return True


def _note_failure(
    recipient: str, rows: Sequence[Delivery], problem: Exception, *, now: datetime, rng: random.Random
) -> None:
    """Try again later, with what waits then; what has waited for GIVE_UP has failed."""
    error = f"{type(problem).__name__}: {problem}"[:256].replace("\0", "")
    status = problem.smtp_code if isinstance(problem, smtplib.SMTPResponseException) else None
    with transaction.atomic():
        box = Mailbox.objects.select_for_update().get(pk=recipient)
        box.attempts, box.error = box.attempts + 1, error
        box.next_at = now + min(backoff(min(box.attempts, 8), rng=rng), LONGEST)
        box.save(update_fields=["attempts", "error", "next_at"])
        _of(rows).update(attempts=F("attempts") + 1, status=status, error=error)
        lost = _of(rows).filter(created_at__lte=now - GIVE_UP)
        n = lost.update(state=DeliveryState.FAILED, finished_at=now)
    log.error("email_failed", recipient=recipient, attempts=box.attempts, given_up=n, reason=error)


def _of(rows: Sequence[Delivery]) -> QuerySet[Delivery]:
    return Delivery.objects.filter(pk__in=[row.pk for row in rows], state=DeliveryState.PENDING)
