"""Drift of single devices: what windows are compared with, and what each comparison gave."""

from django.db import models


class DriftReference(models.Model):
    """What clean windows of a model run on a device class look like (`references.py`).

    kind: `week` its first week, `chosen` by a person, `peers` what its devices sent so far. [started_at,
    ended_at): when the windows ended. body: `references.packed`.
    """

    pk = models.CompositePrimaryKey("version_id", "device_class")
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    kind = models.CharField(max_length=8)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    windows = models.IntegerField()
    devices = models.IntegerField()
    n = models.BigIntegerField()
    body = models.JSONField()
    made_at = models.DateTimeField()

    class Meta:
        db_table = "tele_drift_reference"

    def __str__(self) -> str:
        return f"{self.version_id} {self.device_class} {self.kind}"


class WindowDrift(models.Model):
    """A sketch's window against the reference of its model run and class (`shifts.Judgement`).

    worst: largest ratio of a statistic to its limit; above 1 the window is flagged. channel, moment: of the
    input that moved most.
    """

    pk = models.CompositePrimaryKey("device_id", "ts", "seq")
    ts = models.DateTimeField()  # end of the window
    seq = models.BigIntegerField()
    version_id = models.BigIntegerField()
    n = models.IntegerField()
    worst = models.FloatField()
    input = models.FloatField(null=True)
    class_psi = models.FloatField(null=True)
    class_limit = models.FloatField(null=True)
    distance_psi = models.FloatField(null=True)
    distance_limit = models.FloatField(null=True)
    confidence = models.FloatField(null=True)
    channel = models.SmallIntegerField(null=True)
    moment = models.SmallIntegerField(null=True)
    device_id = models.CharField(max_length=32)
    device_class = models.CharField(max_length=32)
    reference = models.CharField(max_length=8)  # kind of the reference it was judged by

    class Meta:
        db_table = "tele_drift"

    def __str__(self) -> str:
        return f"{self.device_id} {self.ts:%F %H:%M} {self.worst:.2f}"
