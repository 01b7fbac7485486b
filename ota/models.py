"""Tables of a model's journey: artifact, version, manifest, staging, rollout, wave, membership, job,
evidence.
"""

from datetime import timedelta

from django.db import models
from django.db.models import F, Q

from fleet.devices.models import Device, DeviceClass
from fleet.ids import uuid7
from ota.alias_models import ModelAlias as ModelAlias
from ota.choices import (
    JOB_TERMINAL,
    Arm,
    JobState,
    RolloutState,
    StagingState,
    Verdict,
    VerdictKind,
    VersionState,
    WaveState,
)
from ota.operations import Operation as Operation
from ota.sample_models import FleetSample as FleetSample
from ota.submissions import Approval as Approval
from ota.submissions import Submission as Submission


class Artifact(models.Model):
    """Bytes as a person uploaded them, stored once by SHA-256 and never changed."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size = models.PositiveIntegerField()
    data = models.BinaryField()
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.sha256


class MLModel(models.Model):
    """The named line that versions belong to."""

    name = models.CharField(max_length=32, primary_key=True)
    description = models.CharField(max_length=256, blank=True, default="")
    # highest sequence number ever given to a manifest of this name
    last_seq = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ModelVersion(models.Model):
    """One uploaded file under a display version, with everything the inspector and the probe found."""

    model = models.ForeignKey(MLModel, on_delete=models.PROTECT, related_name="versions")
    version = models.CharField(max_length=24)
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="versions")
    evaluation = models.ForeignKey(Artifact, on_delete=models.PROTECT, null=True, related_name="+")
    parent = models.ForeignKey("self", on_delete=models.SET_NULL, null=True)
    state = models.CharField(max_length=16, choices=VersionState.choices, default=VersionState.UPLOADED)
    code = models.CharField(max_length=32, blank=True, default="")  # why refused, stable code
    text = models.TextField(blank=True, default="")
    fix = models.TextField(blank=True, default="")
    inspection = models.JSONField(null=True)  # ota.inspector.Inspection.to_json()
    probe = models.JSONField(null=True)  # ota.probe.ProbeResult.to_json(): arena, timing, evaluation accuracy
    golden = models.BinaryField(null=True)  # CBOR array of vectors (SPEC.md `vector`)
    golden_tol = models.PositiveIntegerField(default=2)
    hints = models.JSONField(default=dict)  # manifest key 21, by number
    declared_accuracy = models.FloatField(null=True)
    notes = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    released_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["model", "version"], name="one_row_per_version"),
            models.UniqueConstraint(fields=["model", "artifact"], name="one_version_per_artifact"),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} {self.version}"


class ClassVerdict(models.Model):
    """Preflight of one version against one device class."""

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="verdicts")
    device_class = models.ForeignKey(DeviceClass, on_delete=models.CASCADE, related_name="verdicts")
    class_id = models.CharField(max_length=32)  # the class as it was when judged
    kind = models.CharField(max_length=16, choices=VerdictKind.choices)
    code = models.CharField(max_length=32, blank=True, default="")
    text = models.TextField(blank=True, default="")
    fix = models.TextField(blank=True, default="")
    missing = models.JSONField(default=list)
    arena_bytes = models.PositiveIntegerField(null=True)
    at = models.DateTimeField()
    acknowledged_by = models.CharField(max_length=128, blank=True, default="")
    acknowledged_reason = models.TextField(blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "device_class"], name="one_verdict_per_class")
        ]

    def __str__(self) -> str:
        return f"{self.version} on {self.device_class_id}: {self.kind}"


class SigningKey(models.Model):
    """An Ed25519 key of the installation. Root keys keep their private half outside the database."""

    kid = models.CharField(max_length=16, primary_key=True)  # SHA-256(public key)[0:8], hex
    role = models.CharField(max_length=16)  # root, release, online
    public_key = models.BinaryField()
    private_pem = models.BinaryField(null=True)  # PKCS8, encrypted with the installation's passphrase
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["role", "created_at"]

    def __str__(self) -> str:
        return f"{self.role} {self.kid}"


class Trust(models.Model):
    """A root-signed trust document that was published."""

    version = models.PositiveIntegerField(primary_key=True)
    message = models.BinaryField()
    issued_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ["-version"]

    def __str__(self) -> str:
        return f"trust {self.version}"


class Manifest(models.Model):
    """A signed manifest: what devices install. Immutable."""

    id = models.CharField(max_length=64, primary_key=True)  # SHA-256 of the message, hex
    mid = models.CharField(max_length=16, unique=True)
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="manifests")
    slot = models.PositiveSmallIntegerField(default=0)
    seq = models.BigIntegerField()
    floor = models.BigIntegerField()
    message = models.BinaryField()
    leaves = models.BinaryField()
    blob = models.BinaryField()  # golden blob behind the model, may be empty
    chunks = models.PositiveIntegerField()  # model + blob
    class_ids = models.JSONField()
    kids = models.JSONField()
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.version} {self.mid}"

    @property
    def id16(self) -> str:
        """First 16 bytes of the manifest id as hex: what devices report."""
        return self.id[:32]


class Staging(models.Model):
    """Publication of one manifest's chunks as retained messages, resumable by `published`."""

    manifest = models.OneToOneField(Manifest, on_delete=models.CASCADE, related_name="staging")
    state = models.CharField(max_length=16, choices=StagingState.choices, default=StagingState.PENDING)
    published = models.PositiveIntegerField(default=0)  # chunks acknowledged by the broker, in index order
    publishes = models.PositiveIntegerField(default=0)  # chunk publishes in all, repairs included
    verified_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=256, blank=True, default="")
    lease_until = models.DateTimeField(null=True)
    fence = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"staging {self.manifest_id[:16]} {self.state}"


class DesiredState(models.Model):
    """What a device is told to run, as the newest signed document. The database is the truth, the retained
    message a cache.
    """

    device = models.OneToOneField(Device, on_delete=models.CASCADE, primary_key=True, related_name="desired")
    counter = models.BigIntegerField(default=0)
    # slot -> [action, manifest id hex, not_before, deadline, attempt]
    entries = models.JSONField(default=dict)
    config = models.JSONField(default=dict)  # config key -> value
    # config key 6 while a rollout with windows is under way, ota.windows
    window = models.JSONField(null=True)
    message = models.BinaryField(null=True)
    issued_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    published_counter = models.BigIntegerField(default=0)

    class Meta:
        indexes = [
            # holds only what waits to be published: each batch and each look for more begins here
            models.Index(
                fields=["issued_at", "device"],
                condition=Q(published_counter__lt=F("counter")),
                name="desired_pending",
            )
        ]

    def __str__(self) -> str:
        return f"desired {self.device_id} {self.counter}"


class Rollout(models.Model):
    """A plan that moves a manifest onto devices in waves, and its state."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=8, default="update")  # update, revert
    manifest = models.ForeignKey(Manifest, on_delete=models.PROTECT, related_name="rollouts")
    alias = models.CharField(max_length=32, blank=True, default="")  # what the version was asked for by
    slot = models.PositiveSmallIntegerField(default=0)
    target = models.JSONField(default=dict)  # ota.targeting.Target.to_json(); what is empty means all
    plan = models.JSONField()  # ota.plan.Plan.to_json()
    salt = models.BinaryField()
    state = models.CharField(max_length=24, choices=RolloutState.choices, default=RolloutState.DRAFT)
    rev = models.PositiveIntegerField(default=1)
    summary = models.JSONField(default=dict)  # preflight: eligible, skipped by reason, reasons per class
    reason = models.TextField(blank=True, default="")  # why halted, paused, rolled back
    halted_on = models.ForeignKey("Evidence", on_delete=models.SET_NULL, null=True, related_name="+")
    superseded_by = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, related_name="supersedes"
    )  # the rollout whose start ended this one
    reverts = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, related_name="reverted_by"
    )  # of kind revert: the finished rollout that it takes back
    created_by = models.CharField(max_length=128)
    authors = models.JSONField(default=list)  # persons who made or changed the plan
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    rollback_started_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    fence = models.BigIntegerField(default=0)
    expected_rev: int | None = None
    """No column: the revision that whoever asks for a verb has read; None asks for none (`ota.permits`)."""

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name


class TargetSnapshot(models.Model):
    """The devices that preflight found eligible. A start compares with them: what was previewed runs."""

    rollout = models.OneToOneField(Rollout, on_delete=models.CASCADE, primary_key=True, related_name="+")
    at = models.DateTimeField()
    count = models.PositiveIntegerField()
    digest = models.CharField(max_length=64)  # ota.frozen.target_digest
    packed_ids = models.BinaryField()  # ids joined by newlines, zlib

    def __str__(self) -> str:
        return f"{self.count} devices of {self.rollout_id}"


class Wave(models.Model):
    """One step of a rollout. The last wave takes the control devices in and has hard gates only."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="waves")
    n = models.PositiveSmallIntegerField()  # 1, 2, ...
    state = models.CharField(max_length=16, choices=WaveState.choices, default=WaveState.PENDING)
    is_gated = models.BooleanField()  # quality gates apply
    size = models.PositiveIntegerField(default=0)
    rev = models.PositiveIntegerField(default=1)  # rises with every change of state
    opened_at = models.DateTimeField(null=True)
    soaking_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    verdict = models.CharField(max_length=16, choices=Verdict.choices, blank=True, default="")
    reasons = models.JSONField(default=list)
    restarts = models.PositiveSmallIntegerField(default=0)  # how often a person let it go on after a halt
    joined_at = models.DateTimeField(null=True)  # of a tail: when late devices were last looked for
    restarted_at = models.DateTimeField(null=True)  # failures and pairs from before it no longer count

    class Meta:
        ordering = ["rollout_id", "n"]
        constraints = [models.UniqueConstraint(fields=["rollout", "n"], name="one_row_per_wave")]

    def __str__(self) -> str:
        return f"wave {self.n} of {self.rollout_id}"


class Membership(models.Model):
    """Frozen assignment of one device in one rollout: anyone can recompute it from salt, stratum and id."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="members")
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="memberships")
    arm = models.CharField(max_length=8, choices=Arm.choices)
    # the wave that offers to it; control devices carry the last wave; 0 = skipped
    wave = models.PositiveSmallIntegerField()
    stratum = models.CharField(max_length=80)
    h = models.CharField(max_length=16)  # first 8 bytes of SHA-256(salt ‖ 0x00 ‖ id), hex
    rank = models.PositiveIntegerField()
    skip_reason = models.CharField(max_length=64, blank=True, default="")
    baseline_run = models.CharField(max_length=32, blank=True, default="")  # id16 it ran at start
    baseline = models.JSONField(default=dict)  # metric -> [mean, n] over the history window, frozen at start

    class Meta:
        ordering = ["rollout_id", "wave", "rank"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "device"], name="one_membership_per_device")
        ]
        indexes = [  # the few who were left out, among all who take part
            models.Index(
                fields=["rollout", "skip_reason"], condition=Q(arm=Arm.SKIPPED), name="member_skipped"
            )
        ]

    def __str__(self) -> str:
        return f"{self.device_id} in {self.rollout_id}"


class Job(models.Model):
    """One device x slot x attempt of a rollout. `kind` is install, or revert while rolling back."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # no index of their own: those below begin with each of them, and every change of a job writes every index
    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="jobs", db_index=False)
    wave = models.ForeignKey(Wave, on_delete=models.CASCADE, related_name="jobs", db_index=False)
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="jobs", db_index=False)
    slot = models.PositiveSmallIntegerField(default=0)
    kind = models.CharField(max_length=8, default="install")
    attempt = models.PositiveIntegerField(default=1)  # desired entry's attempt, rising per device and slot
    target = models.CharField(max_length=64)  # manifest id that the desired entry names; "" for stop
    h = models.CharField(max_length=16, blank=True, default="")  # of an install: its place in the draw
    state = models.CharField(max_length=16, choices=JobState.choices, default=JobState.QUEUED)
    code = models.CharField(max_length=32, blank=True, default="")
    detail = models.IntegerField(default=0)
    have = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0)
    counter = models.BigIntegerField(default=0)  # desired counter that carried the offer (or the withdrawal)
    retry_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    offered_at = models.DateTimeField(null=True)
    state_at = models.DateTimeField(null=True)  # last state change or progress
    away = models.DurationField(default=timedelta)  # time without connection since then: no timer counts it
    away_since = models.DateTimeField(null=True)  # and still without one
    exposed_at = models.DateTimeField(null=True)  # first seen in trial or later
    confirmed_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    is_reconciled = models.BooleanField(default=False)

    class Meta:
        ordering = ["created_at"]
        indexes = [
            models.Index(  # what a wave is counted by
                fields=["wave", "state"],
                include=["kind", "is_reconciled", "code", "exposed_at"],
                name="job_wave_counts",
            ),
            models.Index(fields=["rollout", "state"], name="job_rollout_state"),
            models.Index(fields=["rollout", "id"], name="job_rollout_page"),  # pages of its list
            models.Index(  # the few that failed, in the order of their list
                fields=["rollout", "code", "id"], condition=~Q(code=""), name="job_codes"
            ),
            models.Index(fields=["rollout", "device", "id"], name="job_rollout_device"),
            models.Index(  # whom to offer to next, without sorting everybody who waits
                fields=["rollout", "wave", "h", "device"],
                condition=Q(state=JobState.QUEUED, kind="install"),
                name="job_offers",
            ),
            models.Index(  # what was offered in the last minute
                fields=["rollout", "offered_at"], condition=Q(offered_at__isnull=False), name="job_offered_at"
            ),
            models.Index(  # few of very many, and asked for at every tick
                fields=["rollout", "retry_at"], condition=Q(retry_at__isnull=False), name="job_retries"
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["device", "slot"],
                condition=~Q(state__in=sorted(JOB_TERMINAL)),
                name="one_live_job_per_slot",
            ),
            models.UniqueConstraint(fields=["device", "slot", "attempt"], name="attempt_used_once"),
        ]

    def __str__(self) -> str:
        return f"{self.device_id}/{self.slot} #{self.attempt} {self.state}"


class Evidence(models.Model):
    """What a verdict rested on. Immutable; the verdict can be recomputed from `inputs`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="evidence")
    wave = models.ForeignKey(Wave, on_delete=models.CASCADE, related_name="evidence")
    at = models.DateTimeField()
    verdict = models.CharField(max_length=16, choices=Verdict.choices)
    # one object per gate: rule, now, limit, n, pairs, missing, interval, verdict, text
    rows = models.JSONField()
    inputs = models.JSONField()  # counts and pairs the rows were computed from
    inputs_sha256 = models.CharField(max_length=64)
    code_version = models.CharField(max_length=24)

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.verdict} on {self.wave_id}"
