"""What of the audit trail somebody asks for: by actor, verb, object and time.

Most rows are job transitions, millions of them, so what people ask for has indexes of its own: what people
and their tokens did (`audit_people`), everything that is no job (`audit_verbs`), and kinds of actors that
write seldom (`audit_kinds`; the newest rows of devices and ticks are near the trail's end anyway). The time
of a row is `at`, its place in the trail is its id: pages go by the id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Q, QuerySet

from fleet.accounts.models import PEOPLE, AuditEvent

_VERB: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}(?:\.\*)?|[a-z][a-z0-9_-]{0,63}\.\*", re.ASCII)
_JOB: Final = "job"


@dataclass(frozen=True)
class AuditQuery:
    """A filter; "" and None ask for everything.

    actor: a person, whatever they acted through; with actor_kind the exact name of an actor of that kind.
    verb: `rollout.pause`, or `rollout.*` for all of a noun. start, end: `at` in [start, end).
    """

    actor: str = ""
    actor_kind: str = ""
    verb: str = ""
    subject_kind: str = ""
    subject_id: str = ""
    request_id: str = ""
    start: datetime | None = None
    end: datetime | None = None

    def problem(self) -> tuple[str, str] | None:
        """Name of the parameter that cannot be meant, and why; None when all can."""
        if self.verb and not _VERB.fullmatch(self.verb):
            return "verb", "a verb is like rollout.pause, or rollout.* for all of a noun"
        if self.subject_id and not self.subject_kind:
            return "subject_id", "name the subject_kind too: ids of different kinds can be equal"
        for name, moment in (("from", self.start), ("to", self.end)):
            if moment is not None and moment.tzinfo is None:
                return name, "a time needs an offset or Z"
        if self.start is not None and self.end is not None and self.start >= self.end:
            return "to", "to is not after from"
        return None

    def rows(self) -> QuerySet[AuditEvent]:
        """The rows, in no order yet."""
        found = AuditEvent.objects.filter(_of_actor(self.actor, self.actor_kind))
        if self.verb.endswith(".*"):
            found = found.filter(verb__startswith=self.verb[:-1])
        elif self.verb:
            found = found.filter(verb=self.verb)
        if self.verb and self.verb.partition(".")[0] != _JOB:
            found = found.exclude(subject_kind=_JOB)  # says nothing new, and lets the index be used
        if self.subject_kind:
            found = found.filter(subject_kind=self.subject_kind)
        if self.subject_id:
            found = found.filter(subject_id=self.subject_id)
        if self.request_id:
            found = found.filter(request_id=self.request_id)
        if self.start is not None:
            found = found.filter(at__gte=self.start)
        return found if self.end is None else found.filter(at__lt=self.end)


def _of_actor(name: str, kind: str) -> Q:
    if kind:
        return Q(actor_kind=kind, actor=name) if name else Q(actor_kind=kind)
    if not name:
        return Q()
    return Q(actor_kind__in=PEOPLE) & (Q(actor=name) | Q(actor__startswith=f"{name}/tfk_"))
