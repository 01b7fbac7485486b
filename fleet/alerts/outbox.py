"""Who is told of a transition: one outbox row for each receiver, in the transition's own transaction.

Folded alerts and silenced ones are told to nobody; a silence is for alerts and holds back no announcement
(`ota.announcing`). A lost Celery message loses nothing: the beat sends
whatever is due (`fleet.alerts.sending`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from fleet.alerts import silences
from fleet.alerts.choices import DeliveryKind
from fleet.alerts.models import Alert, Delivery, Webhook
from ota import announcing
from ota.announcing import Announcement

EVENTS: Final = ("alert.opened", "alert.resolved", *announcing.EVENTS)
_TOLD: Final = {"opened": "alert.opened", "reopened": "alert.opened", "resolved": "alert.resolved"}


def tell(alert: Alert, verb: str, *, now: datetime) -> int:
    """Write the deliveries of a transition; returns how many. Call it in the transition's transaction."""
    event = _TOLD.get(verb)
    if event is None or alert.folded_into_id is not None:
        return 0
    hooks = _receivers(event)
    if not hooks or silences.covers(alert, now=now):
        return 0
    return _put(hooks, event, message(alert, event, now=now), alert=alert, now=now)


def tell_of(said: Announcement) -> int:
    """Write the deliveries of an announcement; returns how many. Called in the transaction of what is
    announced (`fleet.alerts.apps`).
    """
    body = {
        "type": said.event,
        "at": said.at.isoformat(),
        "object": {"kind": said.kind, "id": said.id},
        "rev": said.rev,
        "data": dict(said.data),
    }
    return _put(_receivers(said.event), said.event, body, alert=None, now=said.at)


def _receivers(event: str) -> list[Webhook]:
    return [hook for hook in Webhook.objects.filter(is_enabled=True) if event in hook.events]


def _put(
    hooks: Sequence[Webhook], event: str, body: dict[str, Any], *, alert: Alert | None, now: datetime
) -> int:
    rows = [
        Delivery(
            kind=DeliveryKind.WEBHOOK,
            webhook=hook,
            alert=alert,
            event=event,
            body=body,
            next_at=now,
            created_at=now,
        )
        for hook in hooks
    ]
    return len(Delivery.objects.bulk_create(rows))


def message(alert: Alert, event: str, *, now: datetime) -> dict[str, Any]:
    """What a receiver reads; `rev` tells which of two messages is the newer."""
    return {
        "type": event,
        "at": now.isoformat(),
        "object": {"kind": "alert", "id": str(alert.pk)},
        "rev": alert.rev,
        "data": {
            "rule": alert.rule_name,
            "kind": alert.kind,
            "severity": str(alert.severity),
            "state": str(alert.state),
            "scope": alert.scope_key,
            "device": alert.device_id or None,
            "device_class": alert.device_class or None,
            "mid": alert.mid or None,
            "count": alert.count,
            "flaps": alert.flaps,
            "reason": alert.reason,
            "evidence": alert.evidence,
        },
    }
