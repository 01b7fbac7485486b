"""The verbs of alert rules. Every change is one conditional UPDATE of the version with its audit row."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import F

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.accounts.models import AuditEvent
from fleet.alerts import machine
from fleet.alerts.choices import ALERT_ACTIVE, Action, AlertState, Severity
from fleet.alerts.errors import AlertError
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert, Rule
from fleet.mqtt.topics import is_device_id
from fleet.telemetry import selection

MAX_RULES: Final = 200
_EDITABLE: Final = ("threshold", "q", "severity", "action", "is_enabled")


def create(
    name: str,
    *,
    kind: str,
    actor: Actor,
    now: datetime,
    threshold: float | None = None,
    q: str = "",
    severity: str = "",
    action: str = Action.NONE,
    is_enabled: bool = True,
) -> Rule:
    """Make a rule; threshold and severity default to the kind's.

    Raises AlertError `validation` or `duplicate`, QueryError of `fleet.devices` for a query that is none.
    """
    if not is_device_id(name):
        raise AlertError("validation", "a name is 1..32 of a-z, 0-9 and -, not starting with -", field="name")
    if kind not in KINDS:
        raise AlertError("validation", f"kind is one of {', '.join(KINDS)}", field="kind")
    given = {
        "threshold": KINDS[kind].default if threshold is None else threshold,
        "q": q,
        "severity": severity or str(KINDS[kind].severity),
        "action": action,
        "is_enabled": is_enabled,
    }
    values = _checked(kind, given, now=now)
    row = Rule(name=name, kind=kind, created_at=now, created_by=actor.name, changed_at=now, **values)
    try:
        with transaction.atomic():
            if Rule.objects.count() >= MAX_RULES:
                raise AlertError("validation", f"there are {MAX_RULES} rules already")
            row.save(force_insert=True)
            _record(row, "alert_rule.create", actor, now, after={"kind": kind, **values})
    except IntegrityError:
        raise AlertError("duplicate", f"a rule {name!r} exists already", field="name") from None
    return row


def change(rule: Rule, *, actor: Actor, now: datetime, **given: Any) -> Rule:
    """Change threshold, q, severity, action or is_enabled; the version rises. Raises as `create`, `stale`."""
    values = _checked(rule.kind, given, now=now)
    before = {name: getattr(rule, name) for name in values}
    with transaction.atomic():
        found = Rule.objects.filter(pk=rule.pk, version=rule.version)
        if found.update(version=F("version") + 1, changed_at=now, problem="", **values) != 1:
            raise AlertError("stale", f"rule {rule.name} was changed meanwhile: read it again")
        _record(rule, "alert_rule.change", actor, now, before=before, after=values)
    rule.version += 1
    for name, value in {**values, "changed_at": now, "problem": ""}.items():
        setattr(rule, name, value)
    return rule


def delete(rule: Rule, *, actor: Actor, now: datetime) -> None:
    """Remove a rule; its alerts are resolved and stay to be read. Raises AlertError `stale`."""
    with transaction.atomic():
        if Rule.objects.filter(pk=rule.pk, version=rule.version).update(version=F("version") + 1) != 1:
            raise AlertError("stale", f"rule {rule.name} was changed meanwhile: read it again")
        for alert in Alert.objects.filter(rule=rule, state__in=ALERT_ACTIVE):
            machine.move(
                alert, AlertState.RESOLVED, actor=actor, now=now, note="its rule was deleted", resolved_at=now
            )
        _record(rule, "alert_rule.delete", actor, now, before={"kind": rule.kind, "q": rule.q})
        Rule.objects.filter(pk=rule.pk).delete()


def ensure_defaults(now: datetime) -> list[Rule]:
    """Make one rule of each kind where none was ever made under that name; a deleted one stays deleted."""
    names = {kind.replace("_", "-"): kind for kind in KINDS}
    missing = names.keys() - set(Rule.objects.values_list("name", flat=True))
    if not missing:
        return []
    made = AuditEvent.objects.filter(
        subject_kind="alert_rule", subject_id__in=missing, verb="alert_rule.create"
    )
    missing -= set(made.values_list("subject_id", flat=True))
    return [create(name, kind=names[name], actor=SYSTEM, now=now) for name in sorted(missing)]


def _checked(kind: str, given: dict[str, Any], *, now: datetime) -> dict[str, Any]:
    for name, values in (("severity", Severity.values), ("action", Action.values)):
        if name in given and given[name] not in values:
            raise AlertError("validation", f"{name} is one of {', '.join(values)}", field=name)
    if "threshold" in given:
        about, value = KINDS[kind], given["threshold"]
        if not math.isfinite(value) or not about.least <= value <= about.most:
            text = f"threshold of {kind} is {about.least:g} to {about.most:g} {about.unit}, got {value:g}"
            raise AlertError("validation", text, field="threshold")
    if "q" in given:
        given = {**given, "q": given["q"].strip()}
        if given["q"]:
            if KINDS[kind].is_system:
                raise AlertError("validation", f"{kind} is about no devices: it has no query", field="q")
            selection.condition(given["q"], now=now)
    if KINDS[kind].is_system and given.get("action", Action.NONE) != Action.NONE:
        raise AlertError("validation", f"{kind} accuses no rollout: it pauses none", field="action")
    return {name: given[name] for name in _EDITABLE if name in given}


def _record(
    rule: Rule,
    verb: str,
    actor: Actor,
    now: datetime,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    audit.record(
        actor=actor, verb=verb, subject_kind="alert_rule", subject_id=rule.pk, at=now, before=before,
        after=after,
    )  # fmt: skip
