"""The audit trail: every state change writes one row in its own transaction."""

import dataclasses
from datetime import datetime
from typing import Any

from fleet import hints
from fleet.accounts.models import AuditEvent


@dataclasses.dataclass(frozen=True)
class Actor:
    """Who acts. kind: user, token, gate, tick, device, system or command; name: user name, token id, rule,
    device id.
    """

    kind: str
    name: str
    request_id: str = ""
    source_ip: str = ""

    @property
    def person(self) -> str:
        """Who that is, whatever they act through: all API tokens of one person are that person."""
        return person_of(self.name)


def person_of(name: str) -> str:
    """The person behind an actor's name: `olga` for `olga` and for `olga/tfk_0123`."""
    return name.rpartition("/tfk_")[0] or name


SYSTEM = Actor("system", "system")
TICK = Actor("tick", "tick")


def record(
    *,
    actor: Actor,
    verb: str,
    subject_kind: str,
    subject_id: str,
    at: datetime,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> AuditEvent:
    """Write one audit row. Call it inside the transaction of the change; if the row cannot be written, the
    change does not happen.

    before, after: JSON-serialisable values of what changed; secrets only as digests. Whoever watches the
    subject is told of it after the commit.
    """
    hints.changed(*hints.of_subject(subject_kind, subject_id))
    return AuditEvent.objects.create(
        at=at,
        actor_kind=actor.kind,
        actor=actor.name,
        verb=verb,
        subject_kind=subject_kind,
        subject_id=subject_id,
        before=before,
        after=after,
        reason=reason,
        request_id=actor.request_id,
        source_ip=actor.source_ip,
    )
