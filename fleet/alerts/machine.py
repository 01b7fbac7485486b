"""The only way an alert opens, changes state or counts: one conditional write plus its event and audit row.

A transition names the state and revision it starts from, so of two evaluators, or a person and an evaluator,
exactly one wins. Opening is decided by the partial unique index: whoever comes second finds the alert there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import IntegrityError, connection, transaction
from django.db.models import F

from fleet import hints
from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.alerts import outbox
from fleet.alerts.choices import ALERT_ACTIVE, ALERT_EDGES, ALERT_VERBS, AlertState
from fleet.alerts.errors import AlertError
from fleet.alerts.findings import Finding
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert, AlertEvent, Rule
from ota.transitions import IllegalTransition

CLEAR_EVALUATIONS: Final = 3
REOPEN_WITHIN: Final = timedelta(minutes=30)
_VERBS: Final = {
    AlertState.OPEN: "reopened",
    AlertState.ACKNOWLEDGED: "acknowledged",
    AlertState.RESOLVED: "resolved",
}


def move(alert: Alert, to: str, *, actor: Actor, now: datetime, note: str = "", **fields: Any) -> bool:
    """Move an alert to another state. True for the one caller whose UPDATE found it as `alert` shows it.

    Raises IllegalTransition when there is no such edge.
    """
    if to not in ALERT_EDGES[alert.state]:
        raise IllegalTransition(alert.state, ALERT_EDGES[alert.state], asked=str(to))
    values: dict[str, Any] = {"state": str(to), "reason": note, **fields}
    verb = _VERBS[AlertState(to)]
    with transaction.atomic():
        found = Alert.objects.filter(pk=alert.pk, state=alert.state, rev=alert.rev)
        if found.update(rev=F("rev") + 1, **values) != 1:
            return False
        before = alert.state
        for name, value in values.items():
            setattr(alert, name, value)
        alert.rev += 1
        _record(alert, verb, before, actor=actor, now=now, note=note)
        outbox.tell(alert, verb, now=now)
    return True


def acknowledge(alert: Alert, *, actor: Actor, now: datetime, note: str = "") -> Alert:
    """Say that a person looks after it. Raises IllegalTransition, AlertError `validation` for the note."""
    fields = {"acknowledged_at": now, "acknowledged_by": actor.person}
    return _by_hand(alert, "ack", actor=actor, now=now, note=_note(note, "note"), **fields)


def resolve(alert: Alert, *, actor: Actor, now: datetime, reason: str) -> Alert:
    """End it by hand. It opens again if it still fires. Raises IllegalTransition, AlertError `validation`."""
    text = _note(reason, "reason")
    if not text:
        raise AlertError("validation", "say why it is resolved", field="reason")
    return _by_hand(alert, "resolve", actor=actor, now=now, note=text, resolved_at=now)


def fire(rule: Rule, found: Finding, *, parent: Alert | None, now: datetime) -> Alert | None:
    """Open an alert, or open again one that was resolved a short while ago; None when it is open already.

    parent: the alert of its part of the fleet, which then speaks for it: no message of its own.
    """
    old = (
        Alert.objects.filter(
            rule=rule,
            scope_key=found.key,
            state=AlertState.RESOLVED,
            resolved_at__gt=now - REOPEN_WITHIN,
            resolved_at__lte=now,
        )
        .order_by("-resolved_at")
        .first()
    )
    actor = Actor("rule", rule.name)
    try:
        with transaction.atomic():
            if old is not None:
                moved = move(
                    old, AlertState.OPEN, actor=actor, now=now, note="fires again", flaps=old.flaps + 1,
                    count=old.count + 1, clear_n=0, last_seen_at=now, evaluated_at=now, resolved_at=None,
                    evidence=dict(found.evidence), folded_into=parent, acted_at=None,
                )  # fmt: skip
                return old if moved else None
            kind = KINDS[rule.kind]
            is_worse = found.is_fleet and not kind.is_fleet
            alert = Alert.objects.create(
                rule=rule, rule_name=rule.name, rule_version=rule.version, kind=rule.kind,
                severity="critical" if is_worse else rule.severity, action=rule.action, scope_key=found.key,
                device_id=found.device_id, device_class=found.device_class, mid=found.mid, folded_into=parent,
                first_seen_at=now, last_seen_at=now, evaluated_at=now, evidence=dict(found.evidence),
            )  # fmt: skip
            _record(alert, "opened", "", actor=actor, now=now, note="")
            outbox.tell(alert, "opened", now=now)
    except IntegrityError:  # another evaluator was quicker
        return None
    return alert


def keep(pairs: Sequence[tuple[Alert, Finding]], *, now: datetime) -> int:
    """Count one more firing evaluation of these alerts; returns how many were not counted at `now` yet."""
    if not pairs:
        return 0
    hints.changed(hints.ALERTS)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE alerts_alert a SET count = a.count + 1, clear_n = 0, last_seen_at = %s,"
            " evaluated_at = %s, evidence = s.evidence::jsonb"
            " FROM unnest(%s::uuid[], %s::text[]) AS s(id, evidence)"
            " WHERE a.id = s.id AND a.evaluated_at < %s AND a.state <> 'resolved'",
            [
                now,
                now,
                [alert.pk for alert, _ in pairs],
                [json.dumps(dict(found.evidence)) for _, found in pairs],
                now,
            ],
        )
        return int(cursor.rowcount)


def clear(alerts: Iterable[Alert], *, now: datetime) -> int:
    """Count one clear evaluation of these alerts and resolve those that were clear often enough."""
    due = Alert.objects.filter(
        pk__in=[alert.pk for alert in alerts], state__in=ALERT_ACTIVE, evaluated_at__lt=now
    )
    due.update(clear_n=F("clear_n") + 1, evaluated_at=now)
    n = 0
    done = Alert.objects.filter(
        pk__in=[alert.pk for alert in alerts], state__in=ALERT_ACTIVE, clear_n__gte=CLEAR_EVALUATIONS
    )
    for alert in done:
        actor = Actor("rule", alert.rule_name)
        note = f"clear for {CLEAR_EVALUATIONS} evaluations"
        n += move(alert, AlertState.RESOLVED, actor=actor, now=now, note=note, resolved_at=now)
    return n


def _by_hand(alert: Alert, verb: str, *, actor: Actor, now: datetime, note: str, **fields: Any) -> Alert:
    fresh = Alert.objects.get(pk=alert.pk)
    to = ALERT_VERBS[fresh.state].get(verb)
    if to is None or not move(fresh, to, actor=actor, now=now, note=note, **fields):
        state = Alert.objects.values_list("state", flat=True).get(pk=alert.pk)
        raise IllegalTransition(state, ALERT_VERBS[state], asked=verb)
    return fresh


def _note(text: str, name: str) -> str:
    text = text.strip()
    if len(text) > 256 or not text.isprintable():
        raise AlertError("validation", f"{name} is one line of at most 256 characters", field=name)
    return text


def _record(alert: Alert, verb: str, before: str, *, actor: Actor, now: datetime, note: str) -> None:
    AlertEvent.objects.create(alert=alert, at=now, verb=verb, actor=actor.name, note=note)
    audit.record(
        actor=actor,
        verb=f"alert.{verb}",
        subject_kind="alert",
        subject_id=str(alert.pk),
        at=now,
        before={"state": str(before)} if before else None,
        after={"state": str(alert.state), "rule": alert.rule_name, "scope": alert.scope_key},
        reason=note,
    )
