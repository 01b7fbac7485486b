"""States of alerts and deliveries, severities and actions: value, label, tone and edges, once.

    OPEN -> ACKNOWLEDGED (who, note) -> RESOLVED (clear for 3 evaluations, or by hand with a reason)
    OPEN -> RESOLVED likewise;  RESOLVED -> OPEN when it fires again within 30 minutes (flap count)

What is not an edge here cannot be made (`fleet.alerts.machine`).
"""

from typing import Final

from django.db import models

from ota.choices import Tone


class AlertState(models.TextChoices):
    """An alert from the first evaluation that fired to its end."""

    OPEN = "open", "Open"
    ACKNOWLEDGED = "acknowledged", "Acknowledged"
    RESOLVED = "resolved", "Resolved"


class Severity(models.TextChoices):
    """How much an alert matters."""

    INFO = "info", "Info"
    WARNING = "warning", "Warning"
    CRITICAL = "critical", "Critical"


class Action(models.TextChoices):
    """What an alert does besides telling people."""

    NONE = "none", "Tell people"
    PAUSE = "pause", "Tell people and pause the rollout"


class DeliveryKind(models.TextChoices):
    """How people hear of it."""

    WEBHOOK = "webhook", "Webhook"
    EMAIL = "email", "E-mail"


class DeliveryState(models.TextChoices):
    """One message to one receiver. It may arrive twice, with the same delivery id."""

    PENDING = "pending", "Pending"
    DELIVERED = "delivered", "Delivered"
    FAILED = "failed", "Failed"


A, D, S = AlertState, DeliveryState, Severity

ALERT_EDGES: Final[dict[str, frozenset[str]]] = {
    A.OPEN: frozenset({A.ACKNOWLEDGED, A.RESOLVED}),
    A.ACKNOWLEDGED: frozenset({A.RESOLVED}),
    A.RESOLVED: frozenset({A.OPEN}),
}
ALERT_VERBS: Final[dict[str, dict[str, str]]] = {
    A.OPEN: {"ack": A.ACKNOWLEDGED, "resolve": A.RESOLVED},
    A.ACKNOWLEDGED: {"resolve": A.RESOLVED},
    A.RESOLVED: {},
}
"""What a person may ask for in a state, and where it leads; only an evaluation opens again."""
DELIVERY_EDGES: Final[dict[str, frozenset[str]]] = {
    D.PENDING: frozenset({D.DELIVERED, D.FAILED}),
    D.DELIVERED: frozenset({D.PENDING}),  # asked for again by hand
    D.FAILED: frozenset({D.PENDING}),
}
ALERT_ACTIVE: Final = (A.OPEN, A.ACKNOWLEDGED)

TONES: Final[dict[str, dict[str, Tone]]] = {
    "alert": {A.OPEN: Tone.ATTENTION, A.ACKNOWLEDGED: Tone.ACTIVE, A.RESOLVED: Tone.NEUTRAL},
    "severity": {S.INFO: Tone.NEUTRAL, S.WARNING: Tone.ATTENTION, S.CRITICAL: Tone.BAD},
    "delivery": {D.PENDING: Tone.ACTIVE, D.DELIVERED: Tone.GOOD, D.FAILED: Tone.BAD},
}
