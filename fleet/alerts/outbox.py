"""Who is told of a transition: one outbox row for each receiver, in the transition's own transaction.

Receivers are webhooks and the e-mail addresses of the setting ALERT_EMAILS. Folded alerts and silenced ones
are told to nobody. A lost Celery message loses nothing: the beat sends whatever is due
(`fleet.alerts.sending`, `fleet.alerts.mailing`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.conf import settings

from fleet.alerts import silences
from fleet.alerts.choices import DeliveryKind
from fleet.alerts.models import Alert, Delivery, Webhook

EVENTS: Final = ("alert.opened", "alert.resolved")
_TOLD: Final = {"opened": "alert.opened", "reopened": "alert.opened", "resolved": "alert.resolved"}


def tell(alert: Alert, verb: str, *, now: datetime) -> int:
    """Write the deliveries of a transition; returns how many. Call it in the transition's transaction."""
    event = _TOLD.get(verb)
    if event is None or alert.folded_into_id is not None:
        return 0
    hooks = [hook for hook in Webhook.objects.filter(is_enabled=True) if event in hook.events]
    people = settings.ALERT_EMAILS
    if not (hooks or people) or silences.covers(alert, now=now):
        return 0
    body = message(alert, event, now=now)
    about = {"alert": alert, "event": event, "body": body, "next_at": now, "created_at": now}
    rows = [Delivery(kind=DeliveryKind.WEBHOOK, webhook=hook, **about) for hook in hooks]
    rows += [Delivery(kind=DeliveryKind.EMAIL, recipient=one, **about) for one in people]
    Delivery.objects.bulk_create(rows)
    return len(rows)


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
