"""Labels that come later, for sampled inferences."""

from django.db import models


class Label(models.Model):
    """A label that came later, for one sampled inference. All that came are kept; one of a sample counts.

    state: `pending` (its sample is not seen yet), `counted`, `superseded` by one that decides, `unmatched`
    (no sample came in 30 days). ts, version_id, top, device_class: of the sample, once it was seen.
    """

    device_id = models.CharField(max_length=32)
    sample = models.BigIntegerField()  # boot << 32 | number of the inference in the boot
    label = models.SmallIntegerField()
    source = models.CharField(max_length=16)
    rank = models.SmallIntegerField()  # of the source; the highest decides, then the newest `at`
    at = models.DateTimeField()  # when it was given
    received_at = models.DateTimeField()
    probe_at = models.DateTimeField()  # when a pending one is looked for next
    state = models.CharField(max_length=10)
    ts = models.DateTimeField(null=True)
    version_id = models.BigIntegerField(null=True)
    top = models.SmallIntegerField(null=True)
    device_class = models.CharField(max_length=32, blank=True, default="")

    class Meta:
        db_table = "tele_label"
        constraints = [
            models.UniqueConstraint(
                fields=["device_id", "sample", "source", "at", "label"], name="tele_label_once"
            ),
        ]
        indexes = [
            models.Index(fields=["probe_at"], condition=models.Q(state="pending"), name="tele_label_pending"),
            models.Index(fields=["ts"], condition=models.Q(state="counted"), name="tele_label_ts"),
        ]

    def __str__(self) -> str:
        return f"{self.device_id}:{self.sample >> 32}:{self.sample & 0xFFFFFFFF} {self.label} {self.state}"
