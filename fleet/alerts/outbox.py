"""Who is told of a transition: one outbox row for each receiver, in the transition's own transaction.

Receivers are webhooks and the e-mail addresses of the setting ALERT_EMAILS. Folded alerts are told to nobody.
Of one that opens under a silence its history says so, and it is told when nothing hides it any more and it is
still open: a silence that ends must not have swallowed what is wrong. A silence is for alerts and holds back
no announcement (`fleet.announcing`); those go to webhooks only. A lost Celery message loses nothing: the beat
sends whatever is due (`fleet.alerts.sending`, `fleet.alerts.mailing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, OuterRef, Subquery

from fleet import announcing
from fleet.accounts.audit import SYSTEM
from fleet.alerts import silences
from fleet.alerts.choices import AlertState, DeliveryKind
from fleet.alerts.models import Alert, AlertEvent, Delivery, Webhook
from fleet.announcing import Announcement

EVENTS: Final[Mapping[str, str]] = {
    "alert.opened": "An alert opened, or opened again: what fired, where, and on what evidence.",
    "alert.resolved": "An alert is over: by itself, or resolved by a person.",
    **announcing.EVENTS,
}
"""What a webhook may ask for, with a sentence for people."""
SILENCED: Final = "silenced"
TOLD_LATE: Final = "told"
LATE: Final = 200
_TOLD: Final = {"opened": "alert.opened", "reopened": "alert.opened", "resolved": "alert.resolved"}


def tell(alert: Alert, verb: str, *, now: datetime) -> int:
    """Write the deliveries of a transition; returns how many. Call it in the transition's transaction."""
    event = _TOLD.get(verb)
    if event is None or alert.folded_into_id is not None:
        return 0
    hooks, people = _receivers(event), settings.ALERT_EMAILS
    if not (hooks or people):
        return 0
    silence = silences.hiding([alert], now=now).get(alert.pk)
    if silence is not None:
        if event == "alert.opened":
            note = f"until {silence.until:%Y-%m-%d %H:%M} UTC: {silence.reason}"[:256]
            data = {"silence": str(silence.pk)}
            AlertEvent.objects.create(
                alert=alert, at=now, verb=SILENCED, actor=silence.created_by, note=note, data=data
            )
        return 0
    return _put(hooks, people, event, message(alert, event, now=now), alert=alert, now=now)


def tell_of(said: Announcement) -> int:
    """Write the deliveries of an announcement; returns how many. Called in the transaction of what is
    announced (`fleet.alerts.apps`).
    """
    data = {**said.data, **links(said.page, said.api)}
    made = body(event=said.event, kind=said.kind, id=said.id, rev=said.rev, at=said.at, data=data)
    return put(said.event, made, now=said.at)


def is_asked(event: str) -> bool:
    """True when an enabled webhook asks for this event."""
    return Webhook.objects.filter(is_enabled=True, events__contains=[event]).exists()


def put(event: str, made: Mapping[str, Any], *, now: datetime) -> int:
    """Write a delivery to each webhook that asks for the event; returns how many."""
    return _put(_receivers(event), (), event, dict(made), alert=None, now=now)


def body(
    *, event: str, kind: str, id: str, rev: int, at: datetime, data: Mapping[str, Any]
) -> dict[str, Any]:
    """A message as it is sent, but for its id. rev: which of two messages about an object is the newer."""
    return {
        "type": event,
        "at": at.isoformat(),
        "object": {"kind": kind, "id": id},
        "rev": rev,
        "data": dict(data),
    }


def links(page: str, api: str) -> dict[str, Any]:
    """Where to read on: the console's page and the resource of the API; {} for what has neither."""
    root = settings.PUBLIC_URL.rstrip("/")
    found = {name: root + path for name, path in (("page", page), ("api", api)) if path}
    return {"links": found} if found else {}


def _receivers(event: str) -> list[Webhook]:
    return list(Webhook.objects.filter(is_enabled=True, events__contains=[event]))


def _put(
    hooks: Sequence[Webhook],
    people: Sequence[str],
    event: str,
    made: dict[str, Any],
    *,
    alert: Alert | None,
    now: datetime,
) -> int:
    about = {"alert": alert, "event": event, "body": made, "next_at": now, "created_at": now}
    rows = [Delivery(kind=DeliveryKind.WEBHOOK, webhook=hook, **about) for hook in hooks]
    rows += [Delivery(kind=DeliveryKind.EMAIL, recipient=one, **about) for one in people]
    return len(Delivery.objects.bulk_create(rows))


def tell_late(now: datetime) -> int:
    """Tell of alerts that opened under a silence, are still open and hidden by none any more; returns of how
    many. Safe from many workers: one conditional UPDATE of the alert decides. At most LATE in a turn.
    """
    events = AlertEvent.objects.filter(alert=OuterRef("pk"), verb__in=(*_TOLD, SILENCED, TOLD_LATE))
    newest = events.order_by("-id").values("verb")[:1]
    held = Alert.objects.filter(state=AlertState.OPEN, folded_into=None).annotate(newest=Subquery(newest))
    rows = list(held.filter(newest=SILENCED).order_by("id")[:LATE])
    hiding = silences.hiding(rows, now=now)
    n = 0
    for alert in rows:
        if alert.pk in hiding:
            continue
        with transaction.atomic():
            found = Alert.objects.filter(pk=alert.pk, state=AlertState.OPEN, rev=alert.rev)
            if found.update(rev=F("rev") + 1) != 1:
                continue  # another worker tells it, or it has changed
            alert.rev += 1
            AlertEvent.objects.create(
                alert=alert, at=now, verb=TOLD_LATE, actor=SYSTEM.name, note="nothing hides it any more"
            )
            tell(alert, "opened", now=now)
            n += 1
    return n


def message(alert: Alert, event: str, *, now: datetime) -> dict[str, Any]:
    """What a receiver reads; `rev` tells which of two messages is the newer."""
    data = {
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
    }
    return body(event=event, kind="alert", id=str(alert.pk), rev=alert.rev, at=now, data=data)
