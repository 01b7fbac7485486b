"""Failures by code with their devices: newest attempts only, in one statement however many codes."""

from __future__ import annotations

from collections import defaultdict

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ota.failed_devices import FAILED, NAMED, failed_devices
from ota.models import Job, Rollout
from ota.offers import install_jobs
from tests.console import rows


@pytest.fixture
def failing(db: None) -> Rollout:
    """A rollout in which most devices failed, of several codes, and some were tried again since."""
    row = rows.fill(rows.present(), telemetry=False).rollouts["running"]
    jobs = list(install_jobs(row).order_by("device_id"))
    codes = [("failed", "flash_io"), ("rejected", "arena"), ("failed", "load_failed"), ("timed_out", "")]
    for index, job in enumerate(jobs[:60]):
        state, code = codes[0] if index < 30 else codes[index % 4]
        Job.objects.filter(pk=job.pk).update(state=state, code=code)
    for job in jobs[:5]:
        Job.objects.create(
            rollout=row, wave_id=job.wave_id, device_id=job.device_id, attempt=900, target=job.target,
            state="confirmed", created_at=row.created_at,
        )  # fmt: skip
    return row


def plainly(row: Rollout) -> dict[tuple[str, str], list[str]]:
    """By state and code, from every attempt read one by one."""
    newest = {job.device_id: job for job in install_jobs(row).order_by("attempt")}
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(newest):
        if newest[name].state in FAILED:
            found[(newest[name].state, newest[name].code)].append(name)
    return found


def test_each_code_has_its_devices_counted_once_by_their_newest_attempt(failing: Rollout) -> None:
    with CaptureQueriesContext(connection) as seen:
        told = failed_devices(failing)
    assert len(seen) == 1
    wanted = plainly(failing)
    assert {(one["state"], one["code"]): one["devices"] for one in told} == {
        kind: names[:NAMED] for kind, names in wanted.items()
    }
    assert [one["n"] for one in told] == sorted((len(names) for names in wanted.values()), reverse=True)
    assert told[0]["n"] > NAMED, "the first has more devices than are named"
    assert {one["class"] for one in told} > {"delivery"}


def test_a_rollout_without_failures_has_none(db: None) -> None:
    row = rows.fill(rows.present(), telemetry=False).rollouts["running"]
    install_jobs(row).update(state="confirmed", code="")
    assert failed_devices(row) == []
