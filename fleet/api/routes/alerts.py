"""Alerts, the rules that open them, and silences."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Router, Status
from pydantic import Field

from fleet.alerts import machine, rules, silences
from fleet.alerts.choices import AlertState
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import BY_SEVERITY, Alert, Rule, Silence
from fleet.api.auth import Scope, actor
from fleet.api.paging import page
from fleet.api.render_alerts import alert_json, rule_json, silence_json
from fleet.api.revisions import must_match, tag
from fleet.api.routes.devices import Strict
from fleet.api.sorting import Sorts

router = Router(tags=["alerts"])
READ, WRITE = Scope("telemetry:read"), Scope("devices:write")
Severity = Literal["info", "warning", "critical"]
Action = Literal["none", "pause"]
SORTS = Sorts(Alert, {"id": "id", "severity": BY_SEVERITY, "last_seen_at": "last_seen_at"}, default="-id")
RULE_SORTS = Sorts(
    Rule,
    {"name": "name", "kind": "kind", "severity": BY_SEVERITY, "changed_at": "changed_at"},
    default="name",
    key="name",
    most=3,
)
SILENCE_SORTS = Sorts(Silence, {name: name for name in ("id", "until", "created_at")}, default="-id", most=2)


class AckBody(Strict):
    """What whoever looks after it wants to say."""

    note: str = Field("", max_length=256)


class ResolveBody(Strict):
    """Why it is over."""

    reason: str = Field(max_length=256)


class RuleBody(Strict):
    """A new rule. threshold and severity: the kind's when absent. q: which telemetry it is about."""

    name: str = Field(max_length=32)
    kind: str = Field(max_length=32)
    threshold: float | None = None
    q: str = Field("", max_length=2_000)
    severity: Severity | None = None
    action: Action = "none"
    is_enabled: bool = True


class RulePatch(Strict):
    """What changes; an absent field stays."""

    threshold: float | None = None
    q: str | None = Field(None, max_length=2_000)
    severity: Severity | None = None
    action: Action | None = None
    is_enabled: bool | None = None


class SilenceBody(Strict):
    """No messages about these devices until then. q: over the fields of devices; rule: its name, or all."""

    q: str = Field("", max_length=2_000)
    rule: str = Field("", max_length=32)
    until: datetime
    reason: str = Field(max_length=256)


@router.get("/alerts", auth=READ, response=dict[str, Any])
def list_alerts(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SORTS.parameter(),
    state: AlertState | None = None,
    severity: Severity | None = None,
    rule: str = "",
    device: str = "",
    total: bool = False,
) -> Any:
    """Alerts, newest first."""
    given = {"state": state or "", "severity": severity or "", "rule_name": rule, "device_id": device}
    rows = Alert.objects.filter(**{name: value for name, value in given.items() if value})
    return page(
        rows,
        order=SORTS.order(sort),
        limit=limit,
        cursor=cursor,
        filters=given,
        render=alert_json,
        total=total,
    )


@router.get("/alerts/{alert_id}", auth=READ, response=dict[str, Any])
def get_alert(request: HttpRequest, alert_id: UUID, response: HttpResponse) -> Any:
    """One alert with its evidence and transitions."""
    row = _alert(alert_id)
    tag(response, row.rev)
    return alert_json(row, is_full=True)


@router.post("/alerts/{alert_id}/ack", auth=WRITE, response=dict[str, Any])
def acknowledge_alert(request: HttpRequest, alert_id: UUID, body: AckBody) -> Any:
    """Say that somebody looks after it."""
    row = machine.acknowledge(_alert(alert_id), actor=actor(request), now=timezone.now(), note=body.note)
    return alert_json(row, is_full=True)


@router.post("/alerts/{alert_id}/resolve", auth=WRITE, response=dict[str, Any])
def resolve_alert(request: HttpRequest, alert_id: UUID, body: ResolveBody) -> Any:
    """End it by hand. It opens again if its rule still fires."""
    row = machine.resolve(_alert(alert_id), actor=actor(request), now=timezone.now(), reason=body.reason)
    return alert_json(row, is_full=True)


@router.get("/alert-rules", auth=READ, response=dict[str, Any])
def list_rules(
    request: HttpRequest, limit: int = 50, cursor: str = "", sort: str = RULE_SORTS.parameter()
) -> Any:
    """Rules by name."""
    rows, order = Rule.objects.all(), RULE_SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters={}, render=rule_json)


@router.post("/alert-rules", auth=WRITE, response={201: dict[str, Any]})
def create_rule(request: HttpRequest, body: RuleBody) -> Any:
    """Make a rule."""
    given = body.dict()
    given["severity"] = given["severity"] or ""
    return Status(201, rule_json(rules.create(**given, actor=actor(request), now=timezone.now())))


@router.get("/alert-rules/{name}", auth=READ, response=dict[str, Any])
def get_rule(request: HttpRequest, name: str, response: HttpResponse) -> Any:
    """One rule, and what its kind means."""
    row = _rule(name)
    tag(response, row.version)
    kind = KINDS[row.kind]
    about = {"label": kind.label, "text": kind.text, "least": kind.least, "most": kind.most}
    return {**rule_json(row), "about": {**about, "unit": kind.unit, "advice": kind.advice}}


@router.patch("/alert-rules/{name}", auth=WRITE, response=dict[str, Any])
def change_rule(request: HttpRequest, name: str, body: RulePatch, response: HttpResponse) -> Any:
    """Change a rule. Needs If-Match."""
    row = _rule(name)
    must_match(request, row.version)
    given = {name: value for name, value in body.dict(exclude_unset=True).items() if value is not None}
    rules.change(row, **given, actor=actor(request), now=timezone.now())
    tag(response, row.version)
    return rule_json(row)


@router.delete("/alert-rules/{name}", auth=WRITE, response={204: None})
def delete_rule(request: HttpRequest, name: str) -> Any:
    """Remove a rule; its alerts are resolved and stay to be read. Needs If-Match."""
    row = _rule(name)
    must_match(request, row.version)
    rules.delete(row, actor=actor(request), now=timezone.now())
    return Status(204, None)


@router.get("/silences", auth=READ, response=dict[str, Any])
def list_silences(
    request: HttpRequest,
    limit: int = 50,
    cursor: str = "",
    sort: str = SILENCE_SORTS.parameter(),
    active: bool = False,
) -> Any:
    """Silences, newest first. active: only those that count now."""
    rows = silences.active(timezone.now()) if active else Silence.objects.all()
    filters, order = {"active": active}, SILENCE_SORTS.order(sort)
    return page(rows, order=order, limit=limit, cursor=cursor, filters=filters, render=silence_json)


@router.post("/silences", auth=WRITE, response={201: dict[str, Any]})
def create_silence(request: HttpRequest, body: SilenceBody) -> Any:
    """Begin a silence."""
    row = silences.create(
        q=body.q, until=body.until, reason=body.reason, rule_name=body.rule, actor=actor(request),
        now=timezone.now(),
    )  # fmt: skip
    return Status(201, silence_json(row))


@router.post("/silences/{silence_id}/end", auth=WRITE, response=dict[str, Any])
def end_silence(request: HttpRequest, silence_id: UUID) -> Any:
    """End a silence before its time."""
    row = Silence.objects.filter(pk=silence_id).first()
    if row is None:
        raise Http404("no such silence")
    return silence_json(silences.end(row, actor=actor(request), now=timezone.now()))


def _alert(alert_id: UUID) -> Alert:
    row = Alert.objects.filter(pk=alert_id).first()
    if row is None:
        raise Http404("no such alert")
    return row


def _rule(name: str) -> Rule:
    row = Rule.objects.filter(pk=name).first()
    if row is None:
        raise Http404("no such rule")
    return row
