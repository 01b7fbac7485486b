"""What an alert with action `pause` does: it pauses the rollouts that may be to blame.

Level-triggered: an alert whose evaluator was killed in between is acted on by the next evaluation. A rollout
may be to blame when it is running, and devices of the alert were exposed to its candidate; when the alert
names a model run, it must be that candidate's. A device that still waits, or is in control, accuses nobody.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from fleet.accounts.audit import Actor
from fleet.alerts.choices import ALERT_ACTIVE, Action
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert, AlertEvent
from ota import rollouts
from ota.choices import RolloutState
from ota.models import Rollout
from ota.transitions import IllegalTransition

ACTOR_KIND = "alert"


def act(*, now: datetime) -> int:
    """Do what alerts have not done yet; returns how many rollouts were paused."""
    due = Alert.objects.filter(action=Action.PAUSE, acted_at=None, state__in=ALERT_ACTIVE)
    return sum(_pause(alert, now=now) for alert in due)


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


def subject(alert: Alert) -> str:
    """What an alert is about, in words."""
    if alert.device_id:
        return f"device {alert.device_id}"
    version = " ".join(filter(None, (alert.evidence.get("model"), alert.evidence.get("version"))))
    return f"class {alert.device_class}" + (f" with {version}" if version else "")
