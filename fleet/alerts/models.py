"""Tables of alerting: rules, alerts with their transitions, silences, webhooks, and the outbox of deliveries
with what is still gathered for them.
"""

from django.db import models
from django.db.models import Q

from fleet.alerts.choices import Action, AlertState, DeliveryKind, DeliveryState, Severity
from fleet.ids import uuid7
from fleet.ranks import Ranked

BY_SEVERITY = Ranked("severity", tuple(Severity.values))


class Rule(models.Model):
    """One thing to watch for: a kind of `fleet.alerts.kinds`, a threshold, and which devices it is about."""

    name = models.CharField(max_length=32, primary_key=True)
    kind = models.CharField(max_length=32)
    threshold = models.FloatField()  # unit and meaning: kinds.KINDS
    q = models.TextField(blank=True, default="")  # over fleet.telemetry.fields.FIELDS; "" means all
    severity = models.CharField(max_length=16, choices=Severity.choices)
    action = models.CharField(max_length=16, choices=Action.choices, default=Action.NONE)
    is_enabled = models.BooleanField(default=True)
    version = models.PositiveIntegerField(default=1)
    problem = models.CharField(max_length=256, blank=True, default="")  # why it could not be evaluated
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Alert(models.Model):
    """A rule that fires about one device or one part of the fleet, from its first evaluation to its end.

    Of one rule and scope at most one is not resolved, whoever evaluates.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rule = models.ForeignKey(Rule, on_delete=models.SET_NULL, null=True, related_name="alerts")
    rule_name = models.CharField(max_length=32)
    rule_version = models.PositiveIntegerField()
    kind = models.CharField(max_length=32)
    severity = models.CharField(max_length=16, choices=Severity.choices)
    action = models.CharField(max_length=16, choices=Action.choices)
    scope_key = models.CharField(max_length=160)
    device_id = models.CharField(max_length=32, blank=True, default="")  # "" of a part of the fleet
    device_class = models.CharField(max_length=32, blank=True, default="")
    mid = models.CharField(max_length=16, blank=True, default="")  # the model run it is about
    folded_into = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="folded")
    state = models.CharField(max_length=16, choices=AlertState.choices, default=AlertState.OPEN)
    rev = models.PositiveIntegerField(default=1)
    count = models.PositiveIntegerField(default=1)  # evaluations that fired
    clear_n = models.PositiveSmallIntegerField(default=0)  # evaluations in a row that were clear
    flaps = models.PositiveIntegerField(default=0)  # how often it opened again
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    evaluated_at = models.DateTimeField()
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.CharField(max_length=128, blank=True, default="")
    resolved_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=256, blank=True, default="")  # note of the newest transition
    evidence = models.JSONField(default=dict)  # what the newest firing evaluation rested on
    acted_at = models.DateTimeField(null=True)  # when its action was done

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "scope_key"],
                condition=~Q(state=AlertState.RESOLVED),
                name="one_unresolved_alert",
            )
        ]
        indexes = [
            models.Index(fields=["state", "-id"], name="alert_state"),
            models.Index(fields=["last_seen_at", "id"], name="alert_last_seen"),  # orders of lists
            models.Index(BY_SEVERITY.expression(), "id", name="alert_severity"),
        ]

    def __str__(self) -> str:
        return f"{self.rule_name} {self.scope_key} {self.state}"


class AlertEvent(models.Model):
    """One transition of an alert, or what it did."""

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    verb = models.CharField(max_length=32)  # opened, acknowledged, resolved, reopened, paused, silenced, told
    actor = models.CharField(max_length=128)
    note = models.CharField(max_length=256, blank=True, default="")
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.verb} {self.alert_id}"


class Silence(models.Model):
    """No messages about these devices until then. Alerts still open, and their actions are still done; one
    that is still open in the end is told then.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    q = models.TextField(blank=True, default="")  # over the fields of devices; "" means all
    rule_name = models.CharField(max_length=32, blank=True, default="")  # "" means every rule
    until = models.DateTimeField()
    reason = models.CharField(max_length=256)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    ended_at = models.DateTimeField(null=True)  # by hand, before its time

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"silence until {self.until:%F %H:%M}"


class Webhook(models.Model):
    """A receiver of signed messages: its own secret, kept sealed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=64, unique=True)
    url = models.CharField(max_length=512)
    events = models.JSONField(default=list)  # of outbox.EVENTS
    sealed_secret = models.BinaryField()
    sealed_former = models.BinaryField(null=True)  # the secret before, while receivers change over
    former_until = models.DateTimeField(null=True)
    is_enabled = models.BooleanField(default=True)
    rev = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """One message to one receiver, written in the transaction of what it tells: the outbox."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16, choices=DeliveryKind.choices)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, null=True, related_name="deliveries")
    recipient = models.CharField(max_length=254, blank=True, default="")  # of an e-mail
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, null=True, related_name="deliveries")
    event = models.CharField(max_length=32)
    body = models.JSONField()
    state = models.CharField(max_length=16, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()  # not before; a sender at work moves it ahead
    status = models.PositiveSmallIntegerField(null=True)  # of the receiver's newest answer
    error = models.CharField(max_length=256, blank=True, default="")
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["kind", "next_at"],
                condition=Q(state=DeliveryState.PENDING),
                name="delivery_due",
            ),
            models.Index(
                fields=["finished_at"],
                condition=Q(state=DeliveryState.FAILED),
                name="delivery_failed",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.webhook_id or self.recipient} {self.state}"


class GatheredFact(models.Model):
    """One of many things that are told together (`fleet.alerts.gathering`): written in its own transaction,
    deleted with the message that tells of it.
    """

    event = models.CharField(max_length=32)
    kind = models.CharField(max_length=32)  # with object_id: which facts become one message
    object_id = models.CharField(max_length=128)
    at = models.DateTimeField()
    key = models.CharField(max_length=32)
    item = models.JSONField()
    about = models.JSONField()
    page = models.CharField(max_length=256, blank=True, default="")
    api = models.CharField(max_length=256, blank=True, default="")

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.event} of {self.kind} {self.object_id}"


class Mailbox(models.Model):
    """A recipient of e-mail, and when it may be written to again (`fleet.alerts.mailing`)."""

    recipient = models.CharField(max_length=254, primary_key=True)
    next_at = models.DateTimeField()  # not before; a sender at work moves it ahead
    attempts = models.PositiveSmallIntegerField(default=0)  # in a row that failed
    error = models.CharField(max_length=256, blank=True, default="")  # of the newest one
    sent_at = models.DateTimeField(null=True)  # when a server took the newest message

    class Meta:
        ordering = ["recipient"]

    def __str__(self) -> str:
        return self.recipient
