"""Devices, device classes, credentials, and what devices last reported about their slots."""

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q

from fleet.devices.version_order import KEY_CHARS


class DeviceClass(models.Model):
    """Chip, memory and operator set of a kind of board. `class_id` is the digest of SPEC.md section 9."""

    name = models.CharField(max_length=32, primary_key=True)
    chip = models.CharField(max_length=16)
    arena_bytes = models.PositiveIntegerField()
    slot_bytes = models.JSONField()  # capacity of each slot for model + golden blob, bytes
    operators = models.JSONField(default=list)  # builtin codes, rising
    custom_operators = models.JSONField(default=list)
    esp_nn_version = models.CharField(max_length=16, blank=True, default="")
    firmware_version = models.CharField(max_length=24, default="1.0.0")  # what the line ships now
    class_id = models.CharField(max_length=32, unique=True)  # 16 bytes, hex
    description = models.TextField(blank=True, default="")
    rev = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_simulated(self) -> bool:
        """True for classes of virtual devices: no figure of theirs is an ESP32's."""
        return self.chip == "host"


class Presence(models.TextChoices):
    """Presence as last heard; decides nothing."""

    NEVER_SEEN = "never_seen", "Never seen"
    ONLINE = "online", "Online"
    OFFLINE = "offline", "Offline"


class Device(models.Model):
    """A board, known by the id that is its broker user name."""

    id = models.CharField(max_length=32, primary_key=True)
    device_class = models.ForeignKey(DeviceClass, on_delete=models.PROTECT, related_name="devices")
    enrolled_at = models.DateTimeField()
    quarantined_at = models.DateTimeField(null=True)
    quarantine_reason = models.CharField(max_length=128, blank=True, default="")
    retired_at = models.DateTimeField(null=True)
    presence = models.CharField(max_length=16, choices=Presence.choices, default=Presence.NEVER_SEEN)
    last_seen_at = models.DateTimeField(null=True)
    # from the newest reported document
    boot = models.BigIntegerField(default=0)
    report_n = models.BigIntegerField(default=0)
    reported_at = models.DateTimeField(null=True)
    report_made_at = models.DateTimeField(
        null=True
    )  # by the device's clock where that can be, <= reported_at
    reported_class_id = models.CharField(max_length=32, blank=True, default="")
    firmware_version = models.CharField(max_length=24, blank=True, default="")
    firmware_key = models.CharField(max_length=KEY_CHARS, blank=True, default="", db_collation="C")
    esp_nn_version = models.CharField(max_length=16, blank=True, default="")
    chip = models.CharField(max_length=16, blank=True, default="")
    trust_version = models.BigIntegerField(default=0)
    desired_counter = models.BigIntegerField(default=0)  # last counter the device accepted
    command_counter = models.BigIntegerField(default=0)
    is_stale = models.BooleanField(default=False)
    free_heap_bytes = models.BigIntegerField(null=True)
    reset_reason = models.CharField(max_length=16, blank=True, default="")
    refusal_code = models.CharField(max_length=32, blank=True, default="")
    rejected_config = models.JSONField(default=list)
    operators = models.JSONField(default=list)
    # what people say about it
    tags = models.JSONField(default=list)  # texts, sorted, each once
    attributes = models.JSONField(default=dict)  # key -> text

    class Meta:
        ordering = ["id"]
        indexes = [
            GinIndex(name="device_tags", fields=["tags"], opclasses=["jsonb_path_ops"]),
            GinIndex(name="device_attributes", fields=["attributes"], opclasses=["jsonb_path_ops"]),
            # the fleet, by class and in the order of its list; the few that counts leave out
            models.Index(
                fields=["device_class", "id"], condition=Q(retired_at__isnull=True), name="device_in_service"
            ),
            models.Index(fields=["id"], condition=Q(retired_at__isnull=False), name="device_retired"),
            models.Index(fields=["enrolled_at", "id"], name="device_enrolled"),  # orders of lists
            models.Index(fields=["firmware_key", "id"], name="device_firmware"),
        ]

    def __str__(self) -> str:
        return self.id


class DeviceSlot(models.Model):
    """Inventory of one slot as last reported (SPEC.md `slotrep`); digests as hex of id16."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="slots")
    slot = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=16)
    code = models.CharField(max_length=32, blank=True, default="")
    detail = models.IntegerField(default=0)
    have = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0)
    attempt = models.PositiveIntegerField(default=0)
    target = models.CharField(max_length=32, blank=True, default="")
    run = models.CharField(max_length=32, blank=True, default="")
    run_seq = models.BigIntegerField(null=True)
    run_bank = models.PositiveSmallIntegerField(null=True)
    run_flags = models.PositiveSmallIntegerField(default=0)
    other = models.CharField(max_length=32, blank=True, default="")
    other_seq = models.BigIntegerField(null=True)
    other_flags = models.PositiveSmallIntegerField(default=0)
    failed = models.CharField(max_length=16, blank=True, default="")
    failed_attempt = models.PositiveIntegerField(default=0)
    arena_used = models.PositiveIntegerField(default=0)
    selftest = models.JSONField(default=list)  # [n, ok, max diff in output LSB, median µs]
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["device_id", "slot"]
        constraints = [models.UniqueConstraint(fields=["device", "slot"], name="one_row_per_slot")]
        indexes = [
            # who runs what, without reading a slot; of a digest also by how it begins
            models.Index(
                fields=["run", "slot", "device"],
                opclasses=["varchar_pattern_ops", "int2_ops", "varchar_ops"],
                include=["arena_used", "run_flags"],
                name="slot_runs",
            )
        ]

    def __str__(self) -> str:
        return f"{self.device_id}/{self.slot}"


class GroupKind(models.TextChoices):
    """How a group knows its devices."""

    STATIC = "static", "Static"
    DYNAMIC = "dynamic", "Dynamic"


class DeviceGroup(models.Model):
    """Devices under one name: listed one by one, or what a stored query selects when it is asked.

    The query is parsed each time; a rollout freezes what it selects at its start.
    """

    name = models.CharField(max_length=32, primary_key=True)
    kind = models.CharField(max_length=8, choices=GroupKind.choices)
    q = models.TextField(blank=True, default="")  # of a dynamic group
    description = models.CharField(max_length=256, blank=True, default="")
    rev = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class GroupMember(models.Model):
    """A device that a static group lists."""

    group = models.ForeignKey(DeviceGroup, on_delete=models.CASCADE, related_name="members")
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="group_rows")

    class Meta:
        ordering = ["group_id", "device_id"]
        constraints = [models.UniqueConstraint(fields=["group", "device"], name="one_row_per_member")]

    def __str__(self) -> str:
        return f"{self.device_id} in {self.group_id}"


class DeviceCredential(models.Model):
    """Broker secret and MAC key of a device. Two may live during a rotation; the kid of a message picks
    the key.
    """

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="credentials")
    mac_kid = models.CharField(max_length=8)  # hex of 4 bytes
    sealed_mac_key = models.BinaryField()
    sealed_broker_secret = models.BinaryField()
    broker_secret_hash = models.CharField(max_length=256)  # the broker's password-file form
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["device", "mac_kid"], name="one_key_per_kid")]

    def __str__(self) -> str:
        return f"{self.device_id}:{self.mac_kid}"


class EnrolmentToken(models.Model):
    """One-time permission for one device to enrol; only a digest is kept."""

    digest = models.CharField(
        max_length=64, unique=True
    )  # SHA-256, hex; the token itself has 256 random bits
    device_class = models.ForeignKey(DeviceClass, on_delete=models.PROTECT)
    device_id = models.CharField(max_length=32, blank=True, default="")  # "" lets the device name itself
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    used_by = models.CharField(max_length=32, blank=True, default="")
    request_digest = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"enrolment token {self.pk}"


class DeviceEvent(models.Model):
    """Something a device said or did that people read on its timeline."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=32)
    code = models.CharField(max_length=32, blank=True, default="")
    text = models.CharField(max_length=256)
    data = models.JSONField(default=dict)
    boot = models.BigIntegerField(null=True)
    n = models.BigIntegerField(null=True)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["device", "-at"], name="device_timeline")]
        constraints = [
            models.UniqueConstraint(
                fields=["device", "boot", "n"], condition=Q(n__isnull=False), name="event_counted_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.device_id} {self.kind}"


class Installation(models.Model):
    """The one row that names this installation: 16 random bytes that bind every MAC and signature to it."""

    installation_id = models.BinaryField()
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return bytes(self.installation_id).hex()
