"""How mean confidence becomes an estimate of accuracy, for each model run on a device class."""

from django.db import models


class Calibration(models.Model):
    """A line of a model run on a device class, and what it was fitted from (`calibrations.py`).

    kind: of the labels, `delayed` or `proxy`, never both; "" as long as there were too few, and then devices
    is 0 and the line means nothing. [started_at, ended_at): the range of the reference of drift, which is
    quiet by definition. n: labels. The rest: as of `calibrations.Line`.
    """

    pk = models.CompositePrimaryKey("version_id", "device_class")
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    kind = models.CharField(max_length=8, blank=True, default="")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    n = models.BigIntegerField(default=0)
    devices = models.IntegerField(default=0)
    intercept = models.FloatField(default=0)
    slope = models.FloatField(default=0)
    centre = models.FloatField(default=0)
    slope_variance = models.FloatField(default=0)
    residual = models.FloatField(default=0)
    tried_at = models.DateTimeField()
    made_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "tele_calibration"

    def __str__(self) -> str:
        return f"{self.version_id} {self.device_class} from {self.n} {self.kind} labels"
