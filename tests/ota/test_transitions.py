"""Transitions: every edge, every absent edge, one winner, one audit row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from ota import transitions
from ota.choices import JOB_EDGES, ROLLOUT_EDGES, WAVE_EDGES, JobState, RolloutState, WaveState
from ota.models import Job, Manifest, Rollout, Wave
from ota.transitions import IllegalTransition, move_job, move_jobs, move_rollout, move_wave
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = pytest.mark.django_db

MACHINES: list[tuple[str, Any, dict[str, frozenset[str]], Callable[..., bool]]] = [
    ("rollout", RolloutState, ROLLOUT_EDGES, move_rollout),
    ("wave", WaveState, WAVE_EDGES, move_wave),
    ("job", JobState, JOB_EDGES, move_job),
]


@pytest.fixture
def rows(now: datetime, make_manifest: Callable[..., Manifest]) -> dict[str, Any]:
    """A rollout with one wave and one job, to be put into any state."""
    world = World(now, make_manifest)
    world.add(1)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    job = Job.objects.get(rollout=rollout)
    wave = rollout.waves.get()
    AuditEvent.objects.all().delete()
    return {"rollout": rollout, "wave": wave, "job": job, "world": world}


def put(row: Rollout | Wave | Job, state: str) -> None:
    type(row).objects.filter(pk=row.pk).update(state=state)  # type: ignore[attr-defined]
    row.refresh_from_db()


@pytest.mark.parametrize("machine", MACHINES, ids=[name for name, *_ in MACHINES])
def test_edges_can_be_made_once_and_others_are_refused(
    rows: dict[str, Any],
    now: datetime,
    machine: tuple[str, Any, dict[str, frozenset[str]], Callable[..., bool]],
) -> None:
    name, states, edges, move = machine
    row = rows[name]
    for state in states:
        for to in states:
            put(row, state)
            if to not in edges[state]:
                with pytest.raises(IllegalTransition) as refused:
                    move(row, to, actor=ACTOR, now=now)
                assert refused.value.allowed == sorted(edges[state])
                row.refresh_from_db()
                assert row.state == state
                continue
            stale = type(row).objects.get(pk=row.pk)
            assert move(row, to, actor=ACTOR, now=now, reason="why")
            assert not move(stale, to, actor=ACTOR, now=now)  # the second worker finds it gone
            again = type(row).objects.get(pk=row.pk)
            assert again.state == row.state == to
    made = sum(len(ends) for ends in edges.values())
    events = AuditEvent.objects.filter(subject_kind=name)
    assert events.count() == made
    assert set(events.values_list("actor", "reason")) == {("olga", "why")}


def test_an_audit_row_that_fails_undoes_the_transition(rows: dict[str, Any], now: datetime) -> None:
    rollout = rows["rollout"]
    with pytest.raises(Exception, match="value too long"):
        move_rollout(rollout, "paused", actor=transitions.Actor("user", "x" * 200), now=now)


def test_a_bulk_move_takes_only_what_is_still_as_shown(rows: dict[str, Any], now: datetime) -> None:
    job = rows["job"]
    put(job, "queued")
    stale = Job.objects.get(pk=job.pk)
    Job.objects.filter(pk=job.pk).update(counter=job.counter + 1)
    assert move_jobs([stale], "cancelled", actor=ACTOR, now=now) == []
    job.refresh_from_db()
    assert [row.pk for row in move_jobs([job], "cancelled", actor=ACTOR, now=now, code="x")] == [job.pk]
    job.refresh_from_db()
    assert (job.state, job.code, job.finished_at) == ("cancelled", "x", now)
    assert AuditEvent.objects.get(verb="job.cancelled").after == {
        "state": "cancelled",
        "device": job.device_id,
        "attempt": 1,
        "code": "x",
    }
    with pytest.raises(ValueError, match="in one transaction"):
        move_jobs([job] * (transitions.BATCH + 1), "removed", actor=ACTOR, now=now)


def test_a_bulk_move_leaves_the_audit_row_of_a_single_one(rows: dict[str, Any], now: datetime) -> None:
    job = rows["job"]
    actor = transitions.Actor("token", "olga/tfk_1", request_id="r-1", source_ip="::1")
    reason = 'tab\t, back\\slash, line\n, "quote", \\N, ünï'
    for bulk in (False, True):
        put(job, "queued")
        if bulk:
            assert move_jobs([job], "cancelled", actor=actor, now=now, reason=reason, code="x") == [job]
        else:
            assert move_job(job, "cancelled", actor=actor, now=now, reason=reason, code="x")
    first, second = AuditEvent.objects.filter(verb="job.cancelled").order_by("id").values()
    assert first.pop("id") < second.pop("id")
    assert first == second
    assert second["reason"] == reason


def test_a_bulk_move_whose_audit_rows_fail_does_not_happen(rows: dict[str, Any], now: datetime) -> None:
    from django.db import DataError

    job = rows["job"]
    put(job, "queued")
    with pytest.raises(DataError, match="value too long"):
        move_jobs([job], "cancelled", actor=transitions.Actor("user", "x" * 200), now=now)
    job.refresh_from_db()
    assert job.state == "queued"


def test_one_live_job_per_slot_is_the_databases_word(rows: dict[str, Any], now: datetime) -> None:
    from django.db import IntegrityError, transaction

    job = rows["job"]
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.create(
            rollout=job.rollout, wave=job.wave, device=job.device, attempt=9, target="x", created_at=now
        )
