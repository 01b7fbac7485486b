"""Tables of what is missing: which counters of each boot have arrived, and every gap that was found."""

from django.db import models


class GapState(models.TextChoices):
    """A gap from the look that found it to its end.

    OPEN -> ASKED (a signed command went out) -> REPAIRED | LOST;  OPEN -> REPAIRED | LOST likewise;
    LOST -> REPAIRED when the records arrive after all.
    """

    OPEN = "open", "Open"
    ASKED = "asked", "Asked"
    REPAIRED = "repaired", "Repaired"
    LOST = "lost", "Lost"


GAP_PENDING = (GapState.OPEN, GapState.ASKED)


class Boot(models.Model):
    """What has arrived of one boot of a device, whose counters are dense from 0.

    Beside these columns it has two of PostgreSQL's `int8multirange`, which Django has no field for:
    `counters`, every counter that arrived, and `filled`, those missing ones that `tele_gap` has rows of.
    """

    pk = models.CompositePrimaryKey("device_id", "boot")
    device_id = models.CharField(max_length=32)
    boot = models.BigIntegerField()
    highest = models.BigIntegerField()  # counter
    received = models.BigIntegerField()  # different counters that arrived
    scattered = models.BigIntegerField(
        db_default=0
    )  # missing ones that are only counted: `fleet.telemetry.gaps`
    heard_at = models.DateTimeField()  # arrival of the newest record
    unsettled_at = models.DateTimeField(
        null=True
    )  # since when `tele_gap` says something else than `counters`

    class Meta:
        db_table = "tele_boot"

    def __str__(self) -> str:
        return f"{self.device_id} {self.boot}: {self.received} up to {self.highest}"


class Gap(models.Model):
    """Counters [first, last] of a boot that were found missing. Gaps of a boot never overlap.

    cause: why it is lost, see `fleet.telemetry.gaps`. records: how many of them are missing; fewer than the
    range holds only for cause `scattered`. tries: commands that went out; command: the counter of the last.
    """

    device_id = models.CharField(max_length=32)
    boot = models.BigIntegerField()
    first = models.BigIntegerField()
    last = models.BigIntegerField()
    records = models.BigIntegerField()
    state = models.CharField(max_length=16, choices=GapState.choices)
    cause = models.CharField(max_length=32, db_default="")
    tries = models.SmallIntegerField(db_default=0)
    command = models.BigIntegerField(db_default=0)
    found_at = models.DateTimeField()
    asked_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)
    since_at = models.DateTimeField(null=True)  # its records were measured between these two, by
    until_at = models.DateTimeField(null=True)  # `gap_times.place`

    class Meta:
        db_table = "tele_gap"
        constraints = [models.UniqueConstraint(fields=["device_id", "boot", "first"], name="tele_gap_once")]
        indexes = [
            models.Index(
                fields=["id"], name="tele_gap_pending", condition=models.Q(state__in=("open", "asked"))
            ),
            models.Index(fields=["id"], name="tele_gap_unplaced", condition=models.Q(until_at=None)),
            models.Index(fields=["until_at"], name="tele_gap_missing", condition=~models.Q(state="repaired")),
        ]

    def __str__(self) -> str:
        return f"{self.device_id} {self.boot}: {self.first}..{self.last} {self.state} {self.cause}"
