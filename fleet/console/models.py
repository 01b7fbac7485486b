"""What people keep of the console itself."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from fleet.ids import uuid7


class ListPage(models.TextChoices):
    """Lists that keep views. The value is the name of the page's URL."""

    DEVICES = "devices", "Devices"
    ROLLOUTS = "rollouts", "Rollouts"
    ALERTS = "alerts", "Alerts"


class SentForm(models.Model):
    """A form that was sent, by the number it carried and what it said: its work is done once
    (`fleet.console.once`).
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    number = models.UUIDField()
    digest = models.CharField(max_length=64, default="")  # "" of rows from before it was kept
    at = models.DateTimeField(db_index=True)
    led_to = models.CharField(max_length=512, blank=True, default="")  # "" when it answered with a page

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner", "number", "digest"], name="one_deed_per_form")
        ]

    def __str__(self) -> str:
        return f"form {self.number} of {self.owner_id}"


class SavedView(models.Model):
    """A filter of a list under a name, of one person: the query of its URL."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="views")
    page = models.CharField(max_length=16, choices=ListPage.choices)
    name = models.CharField(max_length=48)
    query = models.CharField(max_length=4000, blank=True, default="")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["owner", "page", "name"], name="one_view_per_name")]

    def __str__(self) -> str:
        return f"{self.page}: {self.name}"


class PlanProgress(models.Model):
    """How far somebody came with the pages of a plan (`plan_pages`), kept so that they can be left and come
    back to. A rollout without a row was planned elsewhere, and all of its plan is said.

    made_by: of the form that made the draft: sent twice, it makes one. preset: what the plan began with.
    saved: names of the pages that somebody has read and saved.
    """

    rollout = models.OneToOneField(
        "ota.Rollout", on_delete=models.CASCADE, primary_key=True, related_name="+"
    )
    made_by = models.UUIDField(unique=True, default=uuid7)
    preset = models.CharField(max_length=16)
    saved = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"plan of {self.rollout_id}"
