"""What an alert with action `pause` does: it pauses the rollouts that may be to blame.

Level-triggered: an alert whose evaluator was killed in between is acted on by the next evaluation. A rollout
may be to blame when it is running, and devices of the alert were exposed to its candidate; when the alert
names a model run, it must be that candidate's. A device that still waits, or is in control, accuses nobody.
Of a kind that is no blame (drift) only the alert of a part of the fleet acts: one board's broken sensor stops
no rollout.

A rollout that an alert paused goes on by `resume`, which asks that somebody acknowledged the alert: whoever
resumes has then said that they know why it stopped.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.alerts.choices import ALERT_ACTIVE, Action, AlertState
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert, AlertEvent
from ota import rollouts
from ota.choices import RolloutState
from ota.errors import RolloutError
from ota.models import Rollout
from ota.transitions import IllegalTransition

ACTOR_KIND = "alert"


def act(*, now: datetime) -> int:
    """Do what alerts have not done yet; returns how many rollouts were paused."""
    due = Alert.objects.filter(action=Action.PAUSE, acted_at=None, state__in=ALERT_ACTIVE)
    shy = [kind.name for kind in KINDS.values() if not kind.is_blame]
    return sum(_pause(alert, now=now) for alert in due.exclude(~Q(device_id=""), kind__in=shy))


def _pause(alert: Alert, *, now: datetime) -> int:
    n = 0
    for rollout in blamed(alert):
        actor = Actor(ACTOR_KIND, str(alert.pk))
        why = f"alert {alert.rule_name}: {KINDS[alert.kind].label.lower()}, {subject(alert)}"
        try:
            with transaction.atomic():
                rollouts.pause(rollout, actor=actor, now=now, reason=why)
                Alert.objects.filter(pk=alert.pk).update(acted_at=now)
                AlertEvent.objects.create(
                    alert=alert, at=now, verb="paused", actor=alert.rule_name, note=rollout.name[:256],
                    data={"rollout": str(rollout.pk)},
                )  # fmt: skip
        except IllegalTransition:  # a person or a gate was quicker
            continue
        n += 1
    return n


def blamed(alert: Alert) -> list[Rollout]:
    """Running rollouts whose candidate devices of this alert were exposed to."""
    rows = Rollout.objects.filter(
        state=RolloutState.RUNNING,
        jobs__device_id__in=alert.evidence.get("devices", []),
        jobs__kind="install",
        jobs__exposed_at__isnull=False,
    )
    if alert.mid and alert.kind not in ("crash_loop", "golden_mismatch"):
        rows = rows.filter(manifest__mid=alert.mid)  # a device that cannot run it sends no window of it
    return list(rows.distinct())


def paused_by(rollout: Rollout) -> Alert | None:
    """The alert that paused this rollout, while it is paused because of it."""
    if rollout.state != RolloutState.PAUSED:
        return None
    newest = (
        AuditEvent.objects.filter(subject_kind="rollout", subject_id=str(rollout.pk), verb="rollout.paused")
        .values_list("actor_kind", "actor")
        .first()
    )
    if newest is None or newest[0] != ACTOR_KIND:
        return None
    return Alert.objects.filter(pk=newest[1]).first()


def resume(
    rollout: Rollout,
    *,
    actor: Actor,
    now: datetime,
    ack_evidence: UUID | str | None = None,
    reason: str = "",
) -> Rollout:
    """As `rollouts.resume`, of a rollout that an alert paused only when nobody has to look at it any more.

    Raises RolloutError `evidence_not_current` while that alert is open, and what `rollouts.resume` raises.
    """
    alert = paused_by(rollout)
    if alert is not None and alert.state == AlertState.OPEN:
        raise RolloutError(
            "evidence_not_current",
            f"alert {alert.rule_name} ({subject(alert)}) paused it, and nobody has acknowledged that alert",
            "Acknowledge the alert, then resume.",
        )
    return rollouts.resume(rollout, actor=actor, now=now, ack_evidence=ack_evidence, reason=reason)


def subject(alert: Alert) -> str:
    """What an alert is about, in words."""
    if alert.device_id:
        return f"device {alert.device_id}"
    if alert.kind in KINDS and KINDS[alert.kind].is_system:
        return str(alert.evidence.get("subject", alert.scope_key))
    version = " ".join(filter(None, (alert.evidence.get("model"), alert.evidence.get("version"))))
    return f"class {alert.device_class}" + (f" with {version}" if version else "")
