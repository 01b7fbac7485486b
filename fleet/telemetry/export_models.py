"""Exports too large to be streamed while somebody waits: what was asked for, and how far it is."""

from __future__ import annotations

from typing import Final

from django.db import models

from fleet.accounts.audit import Actor
from fleet.ids import uuid7


class ExportState(models.TextChoices):
    """Of an export that workers write; the same words as of any other operation.

    QUEUED -> RUNNING -> SUCCEEDED | FAILED;  QUEUED | RUNNING -> CANCELLED by whoever asked
    """

    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


EXPORT_LIVE: Final = (ExportState.QUEUED, ExportState.RUNNING)


class ExportJob(models.Model):
    """One large export. Rows before `reached` are in `parts` files; what is after them is to be read."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16)  # of export.KINDS
    form = models.CharField(max_length=16)
    start = models.DateTimeField()
    end = models.DateTimeField()
    q = models.TextField(blank=True, default="")
    state = models.CharField(max_length=16, choices=ExportState.choices, default=ExportState.QUEUED)
    done = models.BigIntegerField(default=0)  # rows written
    total = models.BigIntegerField(null=True)  # rows counted at the first step
    reached = models.DateTimeField()
    step_s = models.FloatField(default=0)  # seconds of rows that one part holds
    parts = models.IntegerField(default=0)
    size = models.BigIntegerField(null=True)  # bytes of the whole file
    problem = models.JSONField(null=True)  # {"code", "text"} of a failed one
    actor = models.JSONField()  # who asked, fleet.accounts.audit.Actor
    asked_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "tele_export"
        ordering = ["-asked_at", "-id"]

    def __str__(self) -> str:
        return f"export of {self.kind} {self.id}: {self.state}"

    @property
    def asked_by(self) -> Actor:
        """Who asked for it."""
        return Actor(**self.actor)

    @property
    def filename(self) -> str:
        """What the file is called, for whoever keeps it."""
        return f"telemetry-{self.kind}.{self.form}"
