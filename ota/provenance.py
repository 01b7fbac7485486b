"""Where a version came from: who uploaded what from where, what it was judged on, who signed it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fleet.accounts.models import AuditEvent
from ota.models import Artifact, ModelVersion

_TOLD = {
    "version.upload": "uploaded",
    "version.inspect": "inspection asked for",
    "verdict.acknowledge": "acknowledged what was unproven",
    "version.release": "signed",
    "version.yank": "taken back",
}
MOST = 50


@dataclass(frozen=True)
class Deed:
    """Something a person did to the version. source_ip: address it came from, "" for a command here."""

    at: datetime
    verb: str
    words: str
    actor: str
    actor_kind: str
    source_ip: str
    request_id: str
    reason: str


@dataclass(frozen=True)
class Provenance:
    """Everything known of a version's origin. evaluation: digest and bytes of its evaluation set, ("", 0)
    without one. converter: what the file says about what wrote it, which nobody vouches for. deeds: newest
    first, MOST of them.
    """

    sha256: str
    size: int
    parent: str
    evaluation_sha256: str
    evaluation_size: int
    declared_accuracy: float | None
    converter: str
    metadata: tuple[str, ...]
    notes: str
    created_at: datetime
    created_by: str
    deeds: tuple[Deed, ...]

    @property
    def upload(self) -> Deed | None:
        """The upload itself; None for a version older than the trail that is kept."""
        return next((deed for deed in reversed(self.deeds) if deed.verb == "version.upload"), None)


def provenance(version: ModelVersion) -> Provenance:
    """What the row, its artifacts and the audit trail say. At most two queries beside its relations'."""
    inspection = version.inspection or {}
    sizes = Artifact.objects.filter(pk=version.evaluation_id).values_list("size", flat=True)
    events = AuditEvent.objects.filter(
        subject_kind="version", subject_id=str(version.pk), verb__in=list(_TOLD)
    ).order_by("-at", "-id")[:MOST]
    return Provenance(
        sha256=version.artifact_id,
        size=version.artifact.size,
        parent=version.parent.version if version.parent else "",
        evaluation_sha256=version.evaluation_id or "",
        evaluation_size=(sizes.first() or 0) if version.evaluation_id else 0,
        declared_accuracy=version.declared_accuracy,
        converter=inspection.get("description", ""),
        metadata=tuple(inspection.get("metadata", ())),
        notes=version.notes,
        created_at=version.created_at,
        created_by=version.created_by,
        deeds=tuple(
            Deed(
                at=row.at,
                verb=row.verb,
                words=_TOLD[row.verb],
                actor=row.actor,
                actor_kind=row.actor_kind,
                source_ip=row.source_ip,
                request_id=row.request_id,
                reason=row.reason,
            )
            for row in events
        ),
    )
