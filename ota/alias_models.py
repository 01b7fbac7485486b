"""The table of aliases: names that point to a version of a model."""

from django.db import models


class ModelAlias(models.Model):
    """A name such as `stable` that points to a version of its model. Where it pointed before is in the audit
    trail, verb `alias.set`.
    """

    model = models.ForeignKey("ota.MLModel", on_delete=models.PROTECT, related_name="aliases")
    name = models.CharField(max_length=32)
    version = models.ForeignKey("ota.ModelVersion", on_delete=models.PROTECT, related_name="aliases")
    rev = models.PositiveIntegerField(default=1)
    changed_at = models.DateTimeField()
    changed_by = models.CharField(max_length=128)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["model", "name"], name="one_alias_per_name")]

    def __str__(self) -> str:
        return f"{self.model_id} {self.name}"

    @property
    def subject_id(self) -> str:
        """How the audit trail calls it."""
        return f"{self.model_id}/{self.name}"
