"""A page of a rollout's jobs: every job of it, and little else is read, whichever index is taken."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

import pytest
from django.db import connection

from ota.job_lists import jobs_of
from ota.models import Job, Rollout, Wave
from tests import plans
from tests.console import rows


@pytest.fixture
def newest(db: None) -> Rollout:
    """The newest of two rollouts; the other one is a day older and has some forty times the jobs."""
    filled = rows.fill(rows.present(), telemetry=False)
    row = filled.rollouts["running"]
    old = Rollout.objects.create(
        id=_id_before(row.pk, timedelta(days=1)), name="old", manifest=row.manifest, plan=row.plan,
        salt=b"0" * 16, state="completed", created_by="admin", created_at=row.created_at - timedelta(days=1),
    )  # fmt: skip
    wave = Wave.objects.create(rollout=old, n=1, is_gated=False, size=1500)
    Job.objects.bulk_create(
        Job(
            id=_id_before(row.pk, timedelta(days=1) - timedelta(seconds=n)), rollout=old, wave=wave,
            device_id=f"dev-{n % 80:03d}", attempt=1000 + n, target=old.manifest_id, state="failed",
            code="digest", created_at=old.created_at,
        )
        for n in range(1500)
    )  # fmt: skip
    plans.analyze("ota_job")
    return row


def _id_before(of: uuid.UUID, by: timedelta) -> uuid.UUID:
    return uuid.UUID(int=of.int - (int(by.total_seconds() * 1000) << 80))


def test_a_list_has_every_job_of_its_rollout_and_no_other(newest: Rollout) -> None:
    found = {job.pk for job in jobs_of(newest)}
    assert found == set(Job.objects.filter(rollout=newest).values_list("pk", flat=True))
    assert len(found) >= 40


def test_a_page_passes_no_job_of_an_older_rollout(newest: Rollout) -> None:
    page = jobs_of(newest).order_by("id")[:51]
    assert plans.rows_read(page) < 200
    with connection.cursor() as cursor:  # as statistics fall on a large table, the other index is taken
        cursor.execute("DROP INDEX job_rollout_page, job_rollout_state, job_offers, job_codes")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        cursor.execute("SET LOCAL enable_sort = off")
    assert "ota_job_pkey" in plans.plan_of(page)
    assert plans.rows_read(page) < 200


def test_a_list_of_one_code_is_read_from_an_index_of_failures(newest: Rollout) -> None:
    Job.objects.filter(rollout=newest, state="confirmed").update(code="")
    some = jobs_of(newest).filter(code="flash_io").order_by("id")[:51]
    Job.objects.filter(pk__in=list(jobs_of(newest).values_list("pk", flat=True)[:3])).update(code="flash_io")
    plans.analyze("ota_job")
    assert "job_codes" in plans.plan_of(some)
    assert len(some) == 3


def test_what_was_made_before_its_rollout_by_another_clock_is_listed(newest: Rollout, now: datetime) -> None:
    first = jobs_of(newest).order_by("id")[0]
    Job.objects.filter(pk=first.pk).update(id=_id_before(newest.pk, timedelta(minutes=5)))
    assert jobs_of(newest).order_by("id")[0].device_id == first.device_id
