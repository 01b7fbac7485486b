"""Rows of the approval: what was put up for it, and who said what. The rules are in `ota.approval`."""

from django.db import models

from fleet.ids import uuid7
from ota.choices import Decision


class Submission(models.Model):
    """A plan as it was when preflight found that it may run: what an approval is about. Immutable."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rollout = models.ForeignKey("ota.Rollout", on_delete=models.CASCADE, related_name="submissions")
    at = models.DateTimeField()
    by = models.CharField(max_length=128)  # person, see Actor.person
    authors = models.JSONField()  # persons who wrote the plan: none of them may approve it
    reasons = models.JSONField()  # why an approval is needed, in words; [] = it is not
    manifest_sha256 = models.CharField(max_length=64)
    plan_digest = models.CharField(max_length=64)  # ota.approval.plan_digest
    target_digest = models.CharField(max_length=64)  # ota.frozen.target_digest
    target_count = models.PositiveIntegerField()
    content = models.JSONField()  # what plan_digest is the digest of: a later difference is shown in words

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"submission of {self.rollout_id} at {self.at:%Y-%m-%d %H:%M}"


class Approval(models.Model):
    """What a second person decided, when and why. Never changed but for `voided_at`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rollout = models.ForeignKey("ota.Rollout", on_delete=models.CASCADE, related_name="approvals")
    # null: the rollout was preflighted before submissions were kept
    submission = models.ForeignKey(Submission, on_delete=models.CASCADE, null=True, related_name="approvals")
    decision = models.CharField(max_length=8, choices=Decision.choices)
    by = models.CharField(max_length=128)  # person, see Actor.person
    actor = models.CharField(max_length=128)  # as in the audit trail, with the token
    at = models.DateTimeField()
    reason = models.TextField(blank=True, default="")
    evidence = models.ForeignKey("ota.Evidence", on_delete=models.SET_NULL, null=True, related_name="+")
    voided_at = models.DateTimeField(null=True)  # an edit, or a start that found another fleet, ended it

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.decision} of {self.rollout_id} by {self.by}"
