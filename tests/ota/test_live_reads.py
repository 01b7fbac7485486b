"""What the live page reads of a large rollout: its jobs to count them, and of everything else a few rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from ota import rollouts
from ota.models import Job, Membership, Rollout, Wave
from tests import plans
from tests.console import rows

SIZE = 1_500
pytestmark = pytest.mark.django_db


@pytest.fixture
def large() -> Rollout:
    """A rollout whose last wave has SIZE devices more under way; a few of them failed, a few were left out,
    and the audit trail has a row for each job.
    """
    now = rows.present()
    row = rows.fill(now, telemetry=False).rollouts["running"]
    wave = row.waves.order_by("-n")[0]
    names = [f"more-{n:05d}" for n in range(SIZE)]
    Device.objects.bulk_create(
        Device(id=name, device_class_id="host-a", enrolled_at=now, presence="online") for name in names
    )
    Membership.objects.bulk_create(
        Membership(
            rollout=row, device_id=name, arm="skipped" if n % 300 == 7 else "wave",
            skip_reason="quarantined" if n % 300 == 7 else "", wave=0 if n % 300 == 7 else wave.n,
            stratum="host-a/new", h=f"{n:016x}", rank=n,
        )
        for n, name in enumerate(names)
    )  # fmt: skip
    made = [
        Job(
            rollout=row, wave=wave, device_id=name, attempt=1, target=row.manifest_id, created_at=now,
            state="failed" if n % 200 == 3 else "confirmed", code="flash_io" if n % 200 == 3 else "",
            state_at=now, exposed_at=None if n % 200 == 3 else now, h=f"{n:016x}",
        )
        for n, name in enumerate(names)
        if n % 300 != 7
    ]  # fmt: skip
    Job.objects.bulk_create(made)
    Wave.objects.filter(pk=wave.pk).update(state="open", opened_at=now, size=wave.size + len(made))
    AuditEvent.objects.bulk_create(
        AuditEvent(
            at=now + timedelta(seconds=1), actor_kind="tick", actor="tick", verb="job.confirmed",
            subject_kind="job", subject_id=str(job.pk),
        )
        for job in made
    )  # fmt: skip
    plans.analyze("devices_device", "ota_job", "ota_membership", "accounts_auditevent")
    return row


def read(statements: list[dict[str, Any]]) -> dict[str, int]:
    """Statement to rows that it took from tables."""
    found = {}
    with connection.cursor() as cursor:
        for one in statements:
            if one["sql"].startswith("SELECT"):
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {one['sql']}")
                found[one["sql"]] = plans.read_by(cursor.fetchone()[0])
    return found


def test_only_what_counts_jobs_passes_all_of_them(large: Rollout) -> None:
    with CaptureQueriesContext(connection) as seen:
        told = rollouts.state(large, now=rows.present())
    assert told["counts"]["confirmed"] > SIZE * 0.9
    assert told["skipped"] == {"quarantined": 5}
    assert told["failures"][0]["n"] == 8
    costly = {sql: n for sql, n in read(seen.captured_queries).items() if n > SIZE / 3}
    assert costly, "jobs are counted"
    others = {sql[:300]: n for sql, n in costly.items() if 'FROM "ota_job"' not in sql}
    assert not others, others
    assert len(costly) <= 4, {sql[:200]: n for sql, n in costly.items()}
    reverts = [one["sql"] for one in seen if "'revert'" in one["sql"] and 'FROM "ota_job"' in one["sql"]]
    assert not reverts, "no rollback began: there is nothing to look for"
