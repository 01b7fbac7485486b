"""Silences: no messages about some devices until a time. Alerts open all the same."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Alert, Rule, Silence
from fleet.devices.errors import DeviceError
from fleet.devices.query import parse
from fleet.devices.selection import selected, where
from ota.transitions import IllegalTransition

LONGEST: Final = timedelta(days=30)


def active(now: datetime) -> QuerySet[Silence]:
    """Silences that count now."""
    return Silence.objects.filter(ended_at=None, until__gt=now)


def create(
    *, q: str, until: datetime, reason: str, actor: Actor, now: datetime, rule_name: str = ""
) -> Silence:
    """Begin a silence. q: over the fields of devices, "" for all. rule_name: "" for every rule.

    Raises AlertError `validation`, QueryError for a query that is none.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= 256 or not reason.isprintable():
        raise AlertError("validation", "a silence says why, in at most 256 characters", field="reason")
    if until.tzinfo is None or not now < until <= now + LONGEST:
        raise AlertError("validation", "until is a time with zone, at most 30 days ahead", field="until")
    if rule_name and not Rule.objects.filter(pk=rule_name).exists():
        raise AlertError("validation", f"there is no rule {rule_name[:40]!r}", field="rule")
    if q.strip():
        where(parse(q.strip()), now=now)
    with transaction.atomic():
        row = Silence.objects.create(
            q=q.strip(), rule_name=rule_name, until=until, reason=reason, created_at=now,
            created_by=actor.person,
        )  # fmt: skip
        about = {"q": row.q, "rule": rule_name, "until": until.isoformat()}
        _record(row, "silence.create", actor, now, reason=reason, about=about)
    return row


def end(row: Silence, *, actor: Actor, now: datetime) -> Silence:
    """End a silence before its time. Raises IllegalTransition when it has ended."""
    with transaction.atomic():
        if active(now).filter(pk=row.pk).update(ended_at=now) != 1:
            raise IllegalTransition("ended", (), asked="end")
        _record(row, "silence.end", actor, now, reason="", about={})
    row.ended_at = now
    return row


def covers(alert: Alert, *, now: datetime) -> bool:
    """Whether a silence is about this alert (`hiding`)."""
    return bool(hiding([alert], now=now))


def hiding(
    alerts: Collection[Alert], *, now: datetime, among: Collection[Silence] | None = None
) -> dict[UUID, Silence]:
    """Of these alerts, those that a silence hides: alert id -> the one of them that lasts longest.

    An alert of a part of the fleet is covered by one that names no devices; a silence whose query is none any
    more covers nothing. among: those that count now, when the caller has read them. One query for each
    silence that names devices, whatever the number of alerts.
    """
    found: dict[UUID, Silence] = {}
    rows = active(now) if among is None else among
    for row in sorted(rows, key=lambda one: one.until, reverse=True):
        asked = [one for one in alerts if one.pk not in found and row.rule_name in ("", one.rule_name)]
        if row.q and asked:
            try:
                ids = {one.device_id for one in asked if one.device_id}
                chosen = set(selected(row.q, now=now).filter(pk__in=ids).values_list("pk", flat=True))
            except DeviceError:
                continue
            asked = [one for one in asked if one.device_id in chosen]
        found |= {one.pk: row for one in asked}
    return found


def _record(
    row: Silence, verb: str, actor: Actor, now: datetime, *, reason: str, about: dict[str, str]
) -> None:
    audit.record(
        actor=actor, verb=verb, subject_kind="silence", subject_id=str(row.pk), at=now, after=about,
        reason=reason,
    )  # fmt: skip
