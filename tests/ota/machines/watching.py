"""What the invariants look at: the database after a step, what was before it, and the trail in between.

One look costs a handful of queries. The audit trail is replayed row by row, so a state that was there only
for a moment inside one transaction is judged too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from fleet.accounts.audit import person_of
from fleet.accounts.models import AuditEvent
from ota.choices import JOB_IN_FLIGHT, WaveState
from ota.desired import Desired
from ota.models import DesiredState, Evidence, Job, Membership, Rollout, Wave
from ota.plan import Plan

PASSED = (WaveState.PASSED, WaveState.OVERRIDDEN)
_WRITING = ("rollout.create", "rollout.create_revert", "rollout.edit")


class JobRow(NamedTuple):
    """A job as the database has it."""

    rollout: UUID
    wave: int
    device: str
    slot: int
    kind: str
    attempt: int
    target: str
    state: str
    code: str
    counter: int
    retry_at: datetime | None
    created_at: datetime
    is_exposed: bool


class WaveRow(NamedTuple):
    """A wave as the database has it."""

    rollout: UUID
    n: int
    state: str
    size: int
    is_gated: bool
    verdict: str
    opened_at: datetime | None


class MemberRow(NamedTuple):
    """A frozen membership."""

    device: str
    arm: str
    wave: int
    stratum: str
    h: str
    rank: int
    baseline_run: str


@dataclass(frozen=True)
class Facts:
    """The database at one moment. desired: device -> (counter, entries)."""

    rollouts: dict[UUID, Rollout]
    waves: dict[tuple[UUID, int], WaveRow]
    jobs: dict[UUID, JobRow]
    members: dict[UUID, tuple[MemberRow, ...]]
    desired: dict[str, tuple[int, dict[str, list[Any]]]]

    @classmethod
    def read(cls) -> Facts:
        """Six queries."""
        columns = (
            "pk", "rollout_id", "wave__n", "device_id", "slot", "kind", "attempt", "target", "state", "code",
            "counter", "retry_at", "created_at", "exposed_at",
        )  # fmt: skip
        members: dict[UUID, list[MemberRow]] = {}
        frozen = Membership.objects.order_by("device_id").values_list(
            "rollout_id", "device_id", "arm", "wave", "stratum", "h", "rank", "baseline_run"
        )
        for rollout_id, *row in frozen:
            members.setdefault(rollout_id, []).append(MemberRow(*row))
        rows = Wave.objects.values_list(
            "rollout_id", "n", "state", "size", "is_gated", "verdict", "opened_at"
        )
        return cls(
            {row.pk: row for row in Rollout.objects.select_related("manifest")},
            {(row[0], row[1]): WaveRow(*row) for row in rows},
            {
                pk: JobRow(*rest, is_exposed=exposed is not None)
                for pk, *rest, exposed in Job.objects.values_list(*columns)
            },
            {name: tuple(rows) for name, rows in members.items()},
            {
                name: (counter, entries)
                for name, counter, entries in DesiredState.objects.values_list("pk", "counter", "entries")
            },
        )

    def outcome(self) -> dict[str, Any]:
        """What happened, without names and numbers that differ between two runs of the same thing."""
        jobs = {
            (job.rollout, job.device, job.kind, job.attempt): (
                job.state, job.code, job.target, job.retry_at is not None, job.is_exposed,
            )
            for job in self.jobs.values()
        }  # fmt: skip
        return {
            "rollouts": {pk: row.state for pk, row in self.rollouts.items()},
            "waves": {key: (row.state, row.size, row.verdict) for key, row in self.waves.items()},
            "jobs": jobs,
            "members": self.members,
            "desired": {name: entries for name, (_, entries) in self.desired.items()},
        }


@dataclass(frozen=True)
class Move:
    """One audit row that changed a state. in_flight, is_proven, rollout_state: of its rollout at that row."""

    row: AuditEvent
    kind: str
    subject: str
    before: str
    after: str
    rollout: UUID | None = None
    rollout_state: str = ""
    in_flight: int = 0
    is_proven: bool = False


@dataclass
class Seen:
    """What a step did. moves: state changes in their order. documents: (device, document, bytes) newly
    published.
    """

    before: Facts
    now: Facts
    moves: list[Move]
    trail: list[AuditEvent]
    evidence: list[Evidence]
    documents: list[tuple[str, Desired, bytes]]
    watcher: Watcher


@dataclass
class Watcher:
    """Keeps what was seen last. published: device -> counter -> bytes, in the order they were published.
    wrote: rollout -> persons who made or changed its plan, as the trail has it.
    """

    facts: Facts = field(default_factory=lambda: Facts({}, {}, {}, {}, {}))
    rollout_state: dict[UUID, str] = field(default_factory=dict)
    wave_state: dict[tuple[UUID, int], str] = field(default_factory=dict)
    job_state: dict[UUID, str] = field(default_factory=dict)
    published: dict[str, dict[int, bytes]] = field(default_factory=dict)
    plans: dict[UUID, Plan] = field(default_factory=dict)
    wrote: dict[UUID, set[str]] = field(default_factory=dict)
    retried: set[UUID] = field(default_factory=set)
    last_audit: int = 0
    last_evidence: set[UUID] = field(default_factory=set)

    def look(self, documents: list[tuple[str, Desired, bytes]]) -> Seen:
        """Read what there is now, and everything that led to it."""
        now = Facts.read()
        trail = list(AuditEvent.objects.filter(pk__gt=self.last_audit).order_by("pk"))
        if trail:
            self.last_audit = trail[-1].pk
        evidence = list(Evidence.objects.exclude(pk__in=self.last_evidence))
        self.last_evidence |= {row.pk for row in evidence}
        for row in trail:
            self._note_author(row)
        moves = [move for row in trail if (move := self._replay(row, now)) is not None]
        seen = Seen(self.facts, now, moves, trail, evidence, documents, self)
        self.facts = now
        return seen

    def plan(self, rollout: Rollout) -> Plan:
        """The parsed plan."""
        if rollout.pk not in self.plans or self.plans[rollout.pk].to_json() != rollout.plan:
            self.plans[rollout.pk] = Plan.parse(rollout.plan)
        return self.plans[rollout.pk]

    def _note_author(self, row: AuditEvent) -> None:
        """A start that finds another fleet makes a draft too, and says so; an edit gives no reason."""
        is_edit = row.verb == "rollout.draft" and not row.reason
        if row.verb in _WRITING or is_edit:
            self.wrote.setdefault(UUID(row.subject_id), set()).add(person_of(row.actor))

    def _replay(self, row: AuditEvent, now: Facts) -> Move | None:
        before, after = (row.before or {}).get("state"), (row.after or {}).get("state")
        if row.subject_kind == "rollout" and after is not None:
            pk = UUID(row.subject_id)
            self.rollout_state[pk] = after
            return Move(row, "rollout", row.subject_id, before, after, pk, after)
        if row.subject_kind == "wave" and after is not None:
            name, _, n = row.subject_id.partition("/")
            self.wave_state[UUID(name), int(n)] = after
            return Move(
                row, "wave", row.subject_id, before, after, UUID(name), self.rollout_state[UUID(name)]
            )
        if row.subject_kind == "job" and after is not None and before is not None:
            if row.verb in ("job.retry", "job.reassert"):
                return None
            pk = UUID(row.subject_id)
            job = now.jobs[pk]
            self.job_state[pk] = after
            live = [
                other
                for other, state in self.job_state.items()
                if state in JOB_IN_FLIGHT
                and now.jobs[other].rollout == job.rollout
                and now.jobs[other].kind == "install"
            ]
            return Move(
                row, "job", row.subject_id, before, after, job.rollout,
                self.rollout_state.get(job.rollout, ""), len(live), self._is_proven(job.rollout, now),
            )  # fmt: skip
        return None

    def _is_proven(self, rollout: UUID, now: Facts) -> bool:
        gated = any(wave.is_gated for key, wave in now.waves.items() if key[0] == rollout)
        return any(
            state in PASSED and now.waves[key].is_gated == gated
            for key, state in self.wave_state.items()
            if key[0] == rollout and key in now.waves
        )
