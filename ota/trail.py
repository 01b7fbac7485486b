"""Which rows of the audit trail are about a rollout: its own, and those of its waves."""

from django.db.models import Q, QuerySet

from fleet.accounts.models import AuditEvent
from ota.models import Rollout, Wave


def trail_of(rollout: Rollout) -> QuerySet[AuditEvent]:
    """Audit rows of a rollout and its waves, newest first, jobs left out.

    Every subject is named in full, which is a handful of look-ups in the index of subjects. Asked by how a
    wave's id begins, no index of the usual collation helps: among 1 M rows of jobs the database then either
    reads every wave's rows there ever were, or walks back from the newest row until it has met enough.
    """
    waves = Wave.objects.filter(rollout=rollout).order_by("n").values_list("n", flat=True)
    of_waves = Q(subject_kind="wave", subject_id__in=[f"{rollout.pk}/{n}" for n in waves])
    return AuditEvent.objects.filter(Q(subject_kind="rollout", subject_id=str(rollout.pk)) | of_waves)
