"""Which raw partitions have become Parquet, what is in them, and which could not."""

from django.db import models


class ColdPart(models.Model):
    """One raw partition that left the database, or should have. problem: why it could not, "" otherwise."""

    name = models.CharField(max_length=40, primary_key=True)  # of the partition, tele_window_20260501
    kind = models.CharField(max_length=16)  # window, inference, sketch
    day = models.DateField()
    rows = models.BigIntegerField(default=0)
    seq_min = models.BigIntegerField(null=True)
    seq_max = models.BigIntegerField(null=True)
    seq_sum = models.DecimalField(max_digits=38, decimal_places=0, default=0)
    size = models.BigIntegerField(default=0)  # bytes of the file
    problem = models.CharField(max_length=256, blank=True, default="")
    tried_at = models.DateTimeField()
    exported_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "tele_cold"

    def __str__(self) -> str:
        return f"{self.kind} {self.day} {self.rows}"
