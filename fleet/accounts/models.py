"""Users, API tokens and the audit trail."""

from django.contrib.auth.models import AbstractUser
from django.db import models

from fleet.ids import uuid7


class Role(models.TextChoices):
    """What a person may do: rest-api.md "Scopes and roles"."""

    VIEWER = "viewer", "Viewer"
    OPERATOR = "operator", "Operator"
    APPROVER = "approver", "Approver"
    ADMIN = "admin", "Administrator"


class User(AbstractUser):
    """A person who signs in."""

    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)


class ApiToken(models.Model):
    """A bearer token `tfk_<id>_<secret>`; only a keyed digest of the secret is kept."""

    public_id = models.CharField(max_length=16, unique=True)
    digest = models.BinaryField()
    name = models.CharField(max_length=64)
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} (tfk_{self.public_id}_…)"


PEOPLE = ("user", "token", "command")
"""Kinds of actors behind which is a person."""


class AuditEvent(models.Model):
    """One state change: who did what to which object. Written in the transaction of the change itself,
    never edited.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField(db_index=True)
    actor_kind = models.CharField(max_length=16)  # user, token, gate, tick, device, system, command
    actor = models.CharField(max_length=128)
    verb = models.CharField(max_length=64)
    subject_kind = models.CharField(max_length=32)
    subject_id = models.CharField(max_length=128)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    reason = models.TextField(blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")
    source_ip = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["subject_kind", "subject_id", "-at"], name="audit_subject"),
            models.Index(
                fields=["actor", "id"],
                name="audit_people",
                condition=models.Q(actor_kind__in=PEOPLE),
                opclasses=["varchar_pattern_ops", "uuid_ops"],
            ),
            models.Index(
                fields=["verb", "id"],
                name="audit_verbs",
                condition=~models.Q(subject_kind="job"),
                opclasses=["varchar_pattern_ops", "uuid_ops"],
            ),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.subject_kind}:{self.subject_id}"


class AuditSeal(models.Model):
    """A link of the chain over the audit trail (`fleet.accounts.audit_chain`). Never edited.

    It covers the rows behind the seal before it, up to `last_id`, in the order of their ids.
    """

    n = models.PositiveIntegerField(primary_key=True)  # 1, 2, ... without a gap
    at = models.DateTimeField()
    last_id = models.UUIDField()
    count = models.PositiveIntegerField()
    row_hashes = models.BinaryField()  # first 8 bytes of each row's hash: which row is not what it was
    digest = models.BinaryField()  # SHA-256 of the digest before, and of the rows' whole hashes

    class Meta:
        ordering = ["n"]

    def __str__(self) -> str:
        return f"seal {self.n} over {self.count} rows"


class AuditCheck(models.Model):
    """A walk over the whole chain: how far it is, and what it found (`fleet.accounts.audit_checks`)."""

    started_at = models.DateTimeField()
    started_by = models.CharField(max_length=128)
    moved_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    of_seals = models.PositiveIntegerField()  # how many there were when it began
    seals = models.PositiveIntegerField(default=0)  # how many were as written
    rows = models.PositiveBigIntegerField(default=0)
    last_id = models.UUIDField(null=True)
    digest = models.CharField(max_length=64, blank=True, default="")  # of seal number `seals`, hex
    broken_seal = models.PositiveIntegerField(null=True)
    broken_what = models.CharField(max_length=16, blank=True, default="")
    broken_row = models.UUIDField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                models.Value(1), condition=models.Q(finished_at=None), name="one_audit_check_at_a_time"
            )
        ]

    def __str__(self) -> str:
        return f"audit check {self.pk}"
