"""Counting by newest attempt: the same as sorting every attempt, whatever became of the earlier ones."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ota.choices import JobState, RolloutState
from ota.job_counts import KEPT_S, _kept_s, counts_of, counts_of_rollouts, newest_of
from ota.models import Job, Rollout
from ota.offers import install_jobs
from tests.console import rows

ENDED = (JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT, JobState.SELF_REVERTED, JobState.CANCELLED)


@pytest.fixture
def retried(db: None) -> Rollout:
    """A rollout in which many devices needed several attempts, and some ends were corrected afterwards."""
    now: datetime = rows.present()
    row = rows.fill(now, telemetry=False).rollouts["running"]
    dice, base = random.Random(3), 100
    for job in list(install_jobs(row)):
        ends = dice.randrange(4)
        state = job.state
        for attempt in range(ends):
            end = dice.choice(ENDED)
            fields = {"state": end, "attempt": base + attempt}
            if dice.random() < 0.2:  # the inventory said later that it had worked
                fields |= {"state": JobState.CONFIRMED, "is_reconciled": True}
            if attempt == 0:
                Job.objects.filter(pk=job.pk).update(**fields)
            else:
                Job.objects.create(rollout=row, wave_id=job.wave_id, device_id=job.device_id, created_at=now,
                                   target=job.target, **fields)  # fmt: skip
        if ends:
            Job.objects.create(
                rollout=row, wave_id=job.wave_id, device_id=job.device_id, created_at=now, target=job.target,
                attempt=base + ends, state=state,
            )  # fmt: skip
    return row


def sorted_out(row: Rollout) -> dict[int, dict[str, int]]:
    """The plain way: of each device the attempt with the highest number."""
    newest: dict[str, Job] = {}
    for job in install_jobs(row).order_by("attempt"):
        newest[job.device_id] = job
    found: dict[int, dict[str, int]] = {}
    for job in newest.values():
        wave = found.setdefault(job.wave_id, {})
        wave[job.state] = wave.get(job.state, 0) + 1
    return found


def test_it_counts_what_sorting_every_attempt_counts(retried: Rollout) -> None:
    devices = install_jobs(retried).values("device_id").distinct().count()
    assert install_jobs(retried).count() > 2 * devices
    waves = [wave.pk for wave in retried.waves.all()]
    assert counts_of(waves) == sorted_out(retried)
    newest = newest_of(install_jobs(retried)).values_list("device_id", flat=True)
    assert len(newest) == len(set(newest)) == devices


def test_states_are_counted_from_an_index_and_no_job_is_read_for_it(retried: Rollout) -> None:
    with CaptureQueriesContext(connection) as seen:
        counts_of([wave.pk for wave in retried.waves.all()])
    counted = next(one["sql"] for one in seen if "COUNT" in one["sql"])
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        # As after a vacuum; what autovacuum has seen of a table in a test is chance, and so is then the plan.
        cursor.execute(
            "UPDATE pg_class SET reltuples = 50000, relpages = 1000, relallvisible = 1000"
            " WHERE oid = 'ota_job'::regclass"
        )
        cursor.execute(f"EXPLAIN {counted}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Index Only Scan using job_wave_counts" in plan, plan


def test_what_one_list_counted_is_not_counted_again_at_one_time() -> None:
    kept = {_kept_s(f"job-counts:{n}:1") for n in range(40)}
    assert len(kept) > 20
    assert min(kept) >= KEPT_S / 2
    assert max(kept) <= KEPT_S


def test_what_has_ended_is_counted_once_and_what_runs_each_time(retried: Rollout) -> None:
    waves = list(retried.waves.all())
    Rollout.objects.filter(pk=retried.pk).update(state=RolloutState.COMPLETED)
    retried.refresh_from_db()
    first = counts_of_rollouts([retried], waves)
    with CaptureQueriesContext(connection) as seen:
        again = counts_of_rollouts([retried], waves)
    assert first == again == {**{wave.pk: {} for wave in waves}, **sorted_out(retried)}
    assert not [
        one for one in seen.captured_queries if "ota_job" in one["sql"] and "IN (NULL)" not in one["sql"]
    ]
    Rollout.objects.filter(pk=retried.pk).update(state=RolloutState.RUNNING)
    retried.refresh_from_db()
    Job.objects.filter(rollout=retried, state=JobState.TRIAL).update(state=JobState.CONFIRMED)
    assert counts_of_rollouts([retried], waves) == sorted_out(retried)


def test_a_cache_that_is_away_costs_time_only(retried: Rollout, settings: Any) -> None:
    waves = list(retried.waves.all())
    Rollout.objects.filter(pk=retried.pk).update(state=RolloutState.COMPLETED)
    retried.refresh_from_db()
    away = settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}
    settings.CACHES = settings.CACHES | {"default": away}
    found = counts_of_rollouts([retried], waves)
    assert {wave: counts for wave, counts in found.items() if counts} == sorted_out(retried)
