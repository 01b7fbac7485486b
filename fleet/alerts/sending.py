"""Sends what is in the outbox, at least once, always under the same delivery id.

A sender claims a row by one conditional UPDATE that counts the try and moves `next_at` ahead by LEASE. One
that is killed leaves the row so: it is due again after the lease, and a message that kills its sender each
time is given up like any other.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction
from django.db.models import F

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.alerts import calling, webhooks
from fleet.alerts.choices import DELIVERY_EDGES, DeliveryKind, DeliveryState
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Delivery
from fleet.ids import least_uuid7
from fleet.sealing import SealError
from ota.transitions import IllegalTransition

log = structlog.get_logger(__name__)
TRIES: Final = 8
LEASE: Final = timedelta(seconds=60)
"""No shorter than the time limit of a task, so that two senders never have one row."""
BATCH: Final = 8
"""Most deliveries of one task."""
TURN_S: Final = 25.0
"""After so long a task begins no other delivery: with every receiver slow it still ends in its time."""
KEPT: Final = timedelta(days=30)
"""How long what became of a message is told, and it can be sent again."""
FORGOTTEN: Final = 10_000
_FIRST: Final = timedelta(seconds=30)
_LONGEST: Final = timedelta(hours=12)


def send_due(now: datetime, *, rng: random.Random, clock: Callable[[], float] = time.monotonic) -> int:
    """Send what is due, oldest first, at most BATCH and what begins within TURN_S of the clock, in seconds;
    returns how many were delivered.
    """
    until = clock() + TURN_S
    due = Delivery.objects.filter(
        kind=DeliveryKind.WEBHOOK, state=DeliveryState.PENDING, next_at__lte=now, webhook__is_enabled=True
    )
    ids = list(due.order_by("next_at").values_list("pk", flat=True)[:BATCH])
    in_time = itertools.takewhile(lambda _: clock() < until, ids)
    return sum(send(str(pk), now=now, rng=rng) for pk in in_time)


def send(delivery_id: str, *, now: datetime, rng: random.Random) -> bool:
    """Try one delivery that is due; True when the receiver took it. Safe from many workers.

    Raises SoftTimeLimitExceeded when the task's time is over in the midst, and counts that as a failure.
    """
    claimed = Delivery.objects.filter(pk=delivery_id, state=DeliveryState.PENDING, next_at__lte=now)
    if claimed.update(next_at=now + LEASE, attempts=F("attempts") + 1) != 1:
        return False  # another worker is at it, or was
    row = Delivery.objects.select_related("webhook").get(pk=delivery_id)
    try:
        status, error = _post(row, now)
    except SoftTimeLimitExceeded:
        _note(row, None, "timeout: the sender ran out of time", now=now, rng=rng)
        raise
    return _note(row, status, error, now=now, rng=rng)


def _note(row: Delivery, status: int | None, error: str, *, now: datetime, rng: random.Random) -> bool:
    """Write down what became of a try; True when the receiver took the message."""
    is_taken = status is not None and 200 <= status < 300
    is_last = not is_taken and row.attempts >= TRIES
    values: dict[str, Any] = {"status": status, "error": error[:256]}
    if is_taken or is_last:
        values |= {"state": DeliveryState.DELIVERED if is_taken else DeliveryState.FAILED, "finished_at": now}
    else:
        values["next_at"] = now + backoff(row.attempts, rng=rng)
    Delivery.objects.filter(pk=row.pk, state=DeliveryState.PENDING).update(**values)
    if is_last:
        log.error("webhook_delivery_failed", delivery=str(row.pk), status=status, reason=error)
    return is_taken


def redeliver(row: Delivery, *, actor: Actor, now: datetime) -> Delivery:
    """Send a finished delivery again under its id. Raises IllegalTransition while it is still tried."""
    with transaction.atomic():
        found = Delivery.objects.filter(pk=row.pk).exclude(state=DeliveryState.PENDING)
        if found.update(state=DeliveryState.PENDING, attempts=0, next_at=now, finished_at=None) != 1:
            allowed = DELIVERY_EDGES[DeliveryState.PENDING]
            raise IllegalTransition(DeliveryState.PENDING, allowed, asked="redeliver")
        audit.record(
            actor=actor, verb="delivery.redeliver", subject_kind="delivery", subject_id=str(row.pk), at=now
        )
    row.refresh_from_db()
    return row


def forget(now: datetime) -> int:
    """Delete messages that ended more than KEPT ago, at most FORGOTTEN of them; returns how many. What waits,
    and what was asked for again since, stays.
    """
    ended = Delivery.objects.filter(id__lt=least_uuid7(now - KEPT), finished_at__lt=now - KEPT)
    ids = list(
        ended.exclude(state=DeliveryState.PENDING).order_by("id").values_list("pk", flat=True)[:FORGOTTEN]
    )
    return Delivery.objects.filter(pk__in=ids).delete()[0]


def backoff(attempts: int, *, rng: random.Random) -> timedelta:
    """How long to wait after so many tries: 30 s, then four times as long each, at most 12 h, +-20 %."""
    longest: timedelta = min(_FIRST * int(4 ** (attempts - 1)), _LONGEST)
    return longest * rng.uniform(0.8, 1.2)


def _post(row: Delivery, now: datetime) -> tuple[int | None, str]:
    """Status of the answer, None without one, and what went wrong."""
    hook = row.webhook
    assert hook is not None  # a webhook's delivery goes with it
    body = json.dumps({"id": str(row.pk), **row.body}, separators=(",", ":")).encode()
    timestamp = int(now.timestamp())
    try:
        keys = webhooks.secrets_of(hook, now=now)
        headers = {
            "content-type": "application/json",
            "user-agent": "tinyfleet",
            "webhook-id": str(row.pk),
            "webhook-timestamp": str(timestamp),
            "webhook-signature": webhooks.signatures(
                keys, delivery_id=str(row.pk), timestamp=timestamp, body=body
            ),
        }
        status = calling.post(hook.url, body=body, headers=headers)
    except (AlertError, SealError) as problem:
        return None, str(problem)
    return status, "" if 200 <= status < 300 else f"the receiver answered {status}"
