"""The only way a rollout, a wave or a job changes state: one conditional UPDATE plus its audit row.

A transition names the state it starts from, so of two workers, two reports or a person and a worker exactly
one wins; the other reads the row count 0 and looks again. What is not an edge in `ota.choices` cannot be
made.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F

from fleet import hints
from fleet.accounts.audit import Actor, record
from fleet.accounts.models import AuditEvent
from fleet.ids import uuid7
from fleet.row_updates import update_rows
from ota import announcements
from ota.announcements import BadEnds
from ota.choices import (
    JOB_EDGES,
    JOB_TERMINAL,
    ROLLOUT_EDGES,
    ROLLOUT_TERMINAL,
    WAVE_EDGES,
    WAVE_TERMINAL,
    WaveState,
)
from ota.copying import copy_rows
from ota.errors import OtaError
from ota.models import Job, Rollout, Wave

BATCH = 5_000
"""Most rows one transaction changes."""
_TRAIL = (
    *("id", "at", "actor_kind", "actor", "verb", "subject_kind", "subject_id", "before", "after"),
    *("reason", "request_id", "source_ip"),
)
_HELD = (
    *("state", "state_at", "away", "away_since", "finished_at", "code", "detail", "is_reconciled"),
    *("have", "total", "exposed_at", "confirmed_at", "retry_at"),
)
"""What a report changes in a job."""

CONNECTED: Mapping[str, Any] = {"away": timedelta(0), "away_since": None}
"""What goes with every `state_at` of a job: its timer begins anew."""


class IllegalTransition(OtaError):
    """What was asked for is not possible in this state (HTTP 409 `illegal_transition`).

    state: where the object is now. allowed: what could be asked for instead, verbs or states.
    """

    def __init__(self, state: str, allowed: Iterable[str], *, asked: str = "") -> None:
        self.state = str(state)
        self.allowed = sorted(str(name) for name in allowed)
        options = ", ".join(self.allowed) or "nothing"
        what = f"{asked} is not possible" if asked else "that is not possible"
        super().__init__("illegal_transition", f"{what} in state {self.state}; allowed: {options}")


def move_rollout(
    rollout: Rollout, to: str, *, actor: Actor, now: datetime, reason: str = "", **fields: Any
) -> bool:
    """Move a rollout to another state. True for the one caller whose UPDATE found it as `rollout` shows it.

    reason: why, kept on the row too; "" clears it. fields: further columns to set in the same UPDATE. On
    success `rollout` is brought up to date. False: another worker or person was faster; re-read. Raises
    IllegalTransition when there is no such edge.
    """
    _check(rollout.state, to, ROLLOUT_EDGES)
    values: dict[str, Any] = {"state": to, "reason": reason, **fields}
    if to in ROLLOUT_TERMINAL:
        values.setdefault("finished_at", now)
    with transaction.atomic():
        found = Rollout.objects.filter(pk=rollout.pk, state=rollout.state, rev=rollout.rev)
        if found.update(rev=F("rev") + 1, **values) != 1:
            return False
        _record(actor, "rollout", str(rollout.pk), rollout.state, to, now, reason)
        halted_on = values.get("halted_on")
        announcements.rollout_changed(
            rollout, to, rev=rollout.rev + 1, actor=actor, now=now, reason=reason,
            halted_on=halted_on.pk if halted_on else None,
        )  # fmt: skip
    rollout.rev += 1
    return _apply(rollout, values)


def move_wave(
    wave: Wave,
    to: str,
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
    about: Mapping[str, Any] | None = None,
    **fields: Any,
) -> bool:
    """Move a wave to another state; rules and result as `move_rollout`. about: more for its audit row."""
    _check(wave.state, to, WAVE_EDGES)
    values: dict[str, Any] = {"state": to, **fields}
    if to in WAVE_TERMINAL or to == WaveState.FAILED:
        values.setdefault("finished_at", now)
    with transaction.atomic():
        if Wave.objects.filter(pk=wave.pk, state=wave.state).update(rev=F("rev") + 1, **values) != 1:
            return False
        _record(actor, "wave", f"{wave.rollout_id}/{wave.n}", wave.state, to, now, reason, about)
        announcements.wave_verdict(wave, to, actor=actor, now=now, reason=reason, values=values)
    return _apply(wave, values)


def move_job(
    job: Job,
    to: str,
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
    ends: BadEnds | None = None,
    **fields: Any,
) -> bool:
    """Move one job to another state; rules and result as `move_rollout`.

    The UPDATE also names the job's counter, so a report that was judged against an older offer finds nothing.
    ends: of a caller that moves many in a transaction and tells of their bad ends itself, once.
    """
    _check(job.state, to, JOB_EDGES)
    values = _job_values(to, now, fields)
    with transaction.atomic():
        found = Job.objects.filter(pk=job.pk, state=job.state, counter=job.counter)
        if found.update(**values) != 1:
            return False
        _record(actor, "job", str(job.pk), job.state, to, now, reason, _about(job, values))
        _hint([job])
        told = BadEnds(now) if ends is None else ends
        told.add(job, to, values)
        if ends is None:
            told.tell()
    return _apply(job, values)


def move_jobs(
    jobs: Sequence[Job],
    to: str,
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
    counters: Mapping[UUID, int] | None = None,
    **fields: Any,
) -> list[Job]:
    """Move many jobs (at most BATCH) in one transaction; returned are those that were still as shown.

    Each is judged by its own state and counter as `move_job` does, and each leaves its audit row; all of it
    is three statements, however many jobs there are. counters: each job's new counter, None leaves them.
    """
    if len(jobs) > BATCH:
        raise ValueError(f"{len(jobs)} jobs in one transaction, at most {BATCH}")
    for job in jobs:
        _check(job.state, to, JOB_EDGES)
    if not jobs:
        return []
    values = _job_values(to, now, fields)
    with transaction.atomic():
        won = _update_returning(jobs, values, counters)
        moved = [job for job in jobs if job.pk in won]
        trail = [_trail_row(job, to, values, actor=actor, now=now, reason=reason) for job in moved]
        copy_rows(AuditEvent, _TRAIL, trail)
        _hint(moved)
        ends = BadEnds(now)
        for job in moved:
            ends.add(job, to, values)
        ends.tell()
    for job in moved:
        _apply(job, values if counters is None else values | {"counter": counters[job.pk]})
    return moved


class HeldMoves:
    """Moves of single jobs whose rows the caller's transaction holds, written together by `save`, and told of
    by `finish`.

    The rows are what decides: they were read when they were taken, and nobody else can change them before the
    transaction ends.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._changed: dict[UUID, Job] = {}
        self._trail: list[Sequence[Any]] = []
        self._ends = BadEnds(now)

    def move(self, job: Job, to: str, *, actor: Actor, reason: str = "", **fields: Any) -> None:
        """Move a job as `move_job` does. Raises IllegalTransition when there is no such edge."""
        _check(job.state, to, JOB_EDGES)
        values = _job_values(to, self._now, fields)
        self._trail.append(_trail_row(job, to, values, actor=actor, now=self._now, reason=reason))
        self._ends.add(job, to, values)
        self.note(job, **values)

    def note(self, job: Job, **fields: Any) -> None:
        """Set columns of a job within its state; no audit row."""
        _apply(job, fields)
        self._changed[job.pk] = job

    def save(self) -> None:
        """Write what was moved and noted so far. Raises django.db.Error."""
        update_rows(list(self._changed.values()), _HELD)
        _hint(self._changed.values())
        if self._trail:
            copy_rows(AuditEvent, _TRAIL, self._trail)
        self._changed, self._trail = {}, []

    def finish(self) -> None:
        """Write the rest, and have the bad ends among all of it told. Raises django.db.Error."""
        self.save()
        self._ends.tell()


def _hint(jobs: Collection[Job]) -> None:
    """Have those who watch the rollouts and devices of some jobs told, by one message."""
    topics = dict.fromkeys(hints.rollout(job.rollout_id) for job in jobs)
    if topics:
        hints.changed(hints.ROLLOUTS, *topics, *(hints.device(job.device_id) for job in jobs))


def _trail_row(
    job: Job, to: str, values: Mapping[str, Any], *, actor: Actor, now: datetime, reason: str
) -> Sequence[Any]:
    """What `_record` would write for a job, for COPY: a quarter of the process time of `bulk_create`."""
    return (
        *(uuid7(), now, actor.kind, actor.name, f"job.{to}", "job", str(job.pk)),
        json.dumps({"state": str(job.state)}),
        json.dumps({"state": str(to), **_about(job, values)}),
        *(reason, actor.request_id, actor.source_ip),
    )


def _check(state: str, to: str, edges: Mapping[str, frozenset[str]]) -> None:
    if to not in edges[state]:
        raise IllegalTransition(state, edges[state], asked=str(to))


def _job_values(to: str, now: datetime, fields: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"state": str(to), "state_at": now, **CONNECTED, **fields}
    values.setdefault("finished_at", now if to in JOB_TERMINAL else None)
    return values


def _about(job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"device": job.device_id, "attempt": job.attempt, "code": values.get("code", job.code)}


def _update_returning(
    jobs: Sequence[Job], values: Mapping[str, Any], counters: Mapping[UUID, int] | None
) -> set[Any]:
    """Ids of the jobs whose state and counter were still as shown, after setting `values` on them."""
    columns = [field for field in Job._meta.concrete_fields if field.name in values]
    assignments = ", ".join(f'"{field.column}" = %s' for field in columns)
    prepared = [field.get_db_prep_save(values[field.name], connection) for field in columns]
    if counters is not None:
        assignments += ', "counter" = seen.next'
    table, ids = Job._meta.db_table, [job.pk for job in jobs]
    # In key order, as gateways do: two transactions then never wait for each other in a circle. An UPDATE of
    # many rows takes them in any order, so the rows are taken before it.
    lock = f'SELECT 1 FROM "{table}" WHERE id = ANY(%s::uuid[]) ORDER BY device_id FOR NO KEY UPDATE'  # noqa: S608
    sql = (
        f'UPDATE "{table}" AS j SET {assignments} '  # noqa: S608 - names from the model only
        "FROM unnest(%s::uuid[], %s::text[], %s::bigint[], %s::bigint[]) AS seen(id, state, counter, next) "
        "WHERE j.id = seen.id AND j.state = seen.state AND j.counter = seen.counter RETURNING j.id"
    )
    seen: list[Any] = [
        ids,
        [str(job.state) for job in jobs],
        [job.counter for job in jobs],
        [counters[job.pk] if counters is not None else 0 for job in jobs],
    ]
    with connection.cursor() as cursor:
        cursor.execute(lock, [ids])
        cursor.execute(sql, [*prepared, *seen])
        return {row[0] for row in cursor.fetchall()}


def _record(
    actor: Actor,
    kind: str,
    subject: str,
    before: str,
    to: str,
    now: datetime,
    reason: str,
    more: Mapping[str, Any] | None = None,
) -> None:
    record(
        actor=actor,
        verb=f"{kind}.{to}",
        subject_kind=kind,
        subject_id=subject,
        at=now,
        before={"state": str(before)},
        after={"state": str(to), **(more or {})},
        reason=reason,
    )


def _apply(row: Rollout | Wave | Job, values: Mapping[str, Any]) -> bool:
    for name, value in values.items():
        setattr(row, name, value)
    return True
