"""JSON of alerts, rules, silences, webhooks and deliveries."""

from typing import Any

from fleet.alerts.choices import DeliveryState
from fleet.alerts.kinds import KINDS
from fleet.alerts.mailing import Waiting
from fleet.alerts.models import Alert, Delivery, Rule, Silence, Webhook
from fleet.api.render import stamp


def alert_json(row: Alert, *, is_full: bool = False) -> dict[str, Any]:
    """An alert; with is_full also its transitions and what to do next."""
    body: dict[str, Any] = {
        "id": str(row.pk),
        "rule": row.rule_name,
        "rule_version": row.rule_version,
        "kind": row.kind,
        "severity": row.severity,
        "state": row.state,
        "rev": row.rev,
        "scope": row.scope_key,
        "device": row.device_id or None,
        "device_class": row.device_class or None,
        "mid": row.mid or None,
        "folded_into": str(row.folded_into_id) if row.folded_into_id else None,
        "count": row.count,
        "flaps": row.flaps,
        "first_seen_at": stamp(row.first_seen_at),
        "last_seen_at": stamp(row.last_seen_at),
        "acknowledged_at": stamp(row.acknowledged_at),
        "acknowledged_by": row.acknowledged_by or None,
        "resolved_at": stamp(row.resolved_at),
        "reason": row.reason,
        "evidence": row.evidence,
    }
    if is_full:
        body["advice"] = KINDS[row.kind].advice
        body["events"] = [
            {"at": stamp(one.at), "verb": one.verb, "actor": one.actor, "note": one.note, "data": one.data}
            for one in row.events.all()
        ]
    return body


def rule_json(row: Rule) -> dict[str, Any]:
    """A rule. problem: why its newest evaluation could not be done, "" when it could."""
    return {
        "name": row.name,
        "kind": row.kind,
        "threshold": row.threshold,
        "unit": KINDS[row.kind].unit,
        "q": row.q,
        "severity": row.severity,
        "action": row.action,
        "is_enabled": row.is_enabled,
        "version": row.version,
        "problem": row.problem,
        "created_at": stamp(row.created_at),
        "created_by": row.created_by,
        "changed_at": stamp(row.changed_at),
    }


def silence_json(row: Silence) -> dict[str, Any]:
    """A silence."""
    return {
        "id": str(row.pk),
        "q": row.q,
        "rule": row.rule_name,
        "until": stamp(row.until),
        "reason": row.reason,
        "created_at": stamp(row.created_at),
        "created_by": row.created_by,
        "ended_at": stamp(row.ended_at),
    }


def webhook_json(row: Webhook) -> dict[str, Any]:
    """A webhook without its secrets. former_secret_until: messages are signed with the secret before too."""
    return {
        "id": str(row.pk),
        "name": row.name,
        "url": row.url,
        "events": row.events,
        "is_enabled": row.is_enabled,
        "rev": row.rev,
        "former_secret_until": stamp(row.former_until),
        "created_at": stamp(row.created_at),
        "created_by": row.created_by,
    }


def delivery_json(row: Delivery) -> dict[str, Any]:
    """A delivery. status: of the receiver's newest answer, null without one. recipient: of an e-mail."""
    return {
        "id": str(row.pk),
        "event": row.event,
        "recipient": row.recipient or None,
        "alert": str(row.alert_id) if row.alert_id else None,
        "state": row.state,
        "attempts": row.attempts,
        "next_at": stamp(row.next_at) if row.state == DeliveryState.PENDING else None,
        "status": row.status,
        "error": row.error,
        "created_at": stamp(row.created_at),
        "finished_at": stamp(row.finished_at),
    }


def mailbox_json(row: Waiting) -> dict[str, Any]:
    """A recipient of e-mail. next_at: not before, null while nothing waits. attempts, error: of failures."""
    return {
        "recipient": row.recipient,
        "waiting": row.waiting,
        "next_at": stamp(row.next_at) if row.waiting else None,
        "attempts": row.attempts,
        "error": row.error,
        "sent_at": stamp(row.sent_at),
    }
