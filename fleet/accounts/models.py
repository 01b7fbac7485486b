"""Users, how they sign in, API tokens and the audit trail."""

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
    second_factor = models.CharField(max_length=36, blank=True, default="")
    """Id of the confirmed `SecondFactor`, "" for none: a page needs no query to see whether one is due."""
    group_limit = models.JSONField(null=True, blank=True)
    """Names of the device groups this person is limited to; None: no limit. An empty list shows no device."""
    rev = models.PositiveIntegerField(default=1)


class SecondFactor(models.Model):
    """The secret that a person's authenticator holds; it counts once a code of it was shown.

    django-otp's own tables keep the secret and the recovery codes in clear, and check a code without a lock,
    so that two requests at once can both use it. Here the secret is sealed (`fleet.sealing`), the codes are
    keyed digests, and `last_step` moves by one conditional UPDATE.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="factor")
    sealed_secret = models.BinaryField()
    made_at = models.DateTimeField()
    confirmed_at = models.DateTimeField(null=True)
    last_step = models.BigIntegerField(default=0)  # of the last code that was used: RFC 6238's T
    failures = models.PositiveIntegerField(default=0)  # in a row
    held_until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"second factor of {self.user_id}"


class RecoveryCode(models.Model):
    """A code that stands in for the second factor once; only its keyed digest is kept."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="recovery_codes")
    digest = models.BinaryField(unique=True)

    def __str__(self) -> str:
        return f"recovery code of {self.user_id}"


class SignIn(models.Model):
    """A session that a person began, so that they can see and end it."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sign_ins")
    session_key = models.CharField(max_length=40, unique=True)
    begun_at = models.DateTimeField()
    address = models.CharField(max_length=64, blank=True, default="")
    browser = models.CharField(max_length=200, blank=True, default="")  # as the browser calls itself

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"session of {self.user_id} since {self.begun_at}"


class Invitation(models.Model):
    """A place that an administrator keeps for a person; whoever holds its link takes it, once."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    digest = models.BinaryField(unique=True)
    email = models.EmailField(blank=True, default="")
    role = models.CharField(max_length=16, choices=Role.choices)
    group_limit = models.JSONField(null=True)
    made_by = models.CharField(max_length=150)
    made_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"invitation {self.id} as {self.role}"


class Identity(models.Model):
    """What an identity provider calls a person: its issuer and their subject there, which never change."""

    issuer = models.CharField(max_length=255)
    subject = models.CharField(max_length=255)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities")
    made_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="identity_of_one_person")]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


class ApiToken(models.Model):
    """A bearer token `tfk_<id>_<secret>`; only a keyed digest of the secret is kept.

    shown: no column, digest of the secret that this row was asked for with (`tokens.authenticate`), else b"".
    """

    shown: bytes = b""
    public_id = models.CharField(max_length=16, unique=True)
    digest = models.BinaryField()
    name = models.CharField(max_length=64)
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    scopes = models.JSONField(default=list)
    group_limit = models.JSONField(null=True, blank=True)  # as `User.group_limit`, within it
    networks = models.JSONField(null=True, blank=True)  # addresses it may be used from; None: any
    former_digest = models.BinaryField(null=True)  # of the secret before, while it is still taken
    former_until = models.DateTimeField(null=True)
    former_used_at = models.DateTimeField(null=True)  # who still has the former secret
    rev = models.PositiveIntegerField(default=1)
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
STEPS = ("job", "wave")
"""Kinds of subjects that a rollout moves by itself: nearly all rows there are."""
BUSY = ("device", "tick")
"""Kinds that write most rows, one a job transition: the newest of theirs are always near the trail's end."""


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
            models.Index(
                fields=["-at", "-id"], name="audit_newest", condition=~models.Q(subject_kind__in=STEPS)
            ),
            models.Index(
                fields=["actor_kind", "id"],
                name="audit_kinds",
                condition=~models.Q(actor_kind__in=BUSY),
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


class AuditAnchor(models.Model):
    """Where the chain of seals begins since older rows left (`fleet.accounts.audit_retention`): at most one.

    n, last_id and digest are those of the last seal that left with its rows; seal n + 1 goes on from them.
    """

    n = models.PositiveIntegerField(primary_key=True)
    at = models.DateTimeField()
    last_id = models.UUIDField()
    rows = models.PositiveBigIntegerField()  # how many left in all
    digest = models.BinaryField()

    class Meta:
        ordering = ["n"]

    def __str__(self) -> str:
        return f"chain from seal {self.n + 1} on"


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
