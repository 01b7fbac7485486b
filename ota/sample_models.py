"""The table of fleet samples: what a curve of the fleet over a day is drawn from."""

from django.db import models


class FleetSample(models.Model):
    """The fleet at one moment, devices in service only. newest: id16 of the newest version that completed a
    rollout, "" before one; on_newest: devices that ran it in slot 0.
    """

    at = models.DateTimeField(primary_key=True)
    devices = models.PositiveIntegerField()
    online = models.PositiveIntegerField()
    newest = models.CharField(max_length=32, blank=True, default="")
    on_newest = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["at"]

    def __str__(self) -> str:
        return f"{self.online} of {self.devices} online at {self.at:%F %H:%M}"
