"""Answers kept for repeated requests."""

from django.db import models


class IdempotentRequest(models.Model):
    """The first answer to a POST with an Idempotency-Key, kept for 24 hours, committed with its change."""

    owner = models.CharField(max_length=64)
    key = models.CharField(max_length=64)
    request_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(default=0)
    headers = models.JSONField(default=dict)
    body = models.BinaryField(default=bytes)  # sealed: fleet.api.idempotency
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="one_answer_per_key")]

    def __str__(self) -> str:
        return f"{self.owner} {self.key}"
