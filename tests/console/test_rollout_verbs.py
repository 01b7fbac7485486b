"""Pages of what a person does about failures: retry, override, revert, quarantine, supersede."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

import pytest
from django.test import Client

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from ota.backoff import retryable
from ota.models import Job, Rollout, Wave
from tests.console import rows

pytestmark = pytest.mark.django_db
AsRole = Callable[[str], Client]


def test_failed_devices_are_counted_and_tried_again(as_role: AsRole, filled: rows.Filled) -> None:
    row = filled.rollouts["running"]
    job = Job.objects.filter(rollout=row, state="confirmed").earliest("device_id")
    Job.objects.filter(pk=job.pk).update(state="failed", code="digest", confirmed_at=None)
    client, path = as_role("operator"), f"/rollouts/{row.pk}/retry-failed"
    page = client.get(f"/rollouts/{row.pk}").content.decode()
    assert 'data-test="verb-retry-failed"' in page
    html = unescape(client.get(path).content.decode())
    assert f'data-test="dry-retried">{retryable(row).count()}<' in html
    assert "<code>digest</code>" in html
    shown = re.search(r'name="shown" value="([^"]+)"', html)
    assert shown
    assert client.post(path, {"reason": "power is back", "shown": shown[1]}).status_code == 303
    job.refresh_from_db()
    assert job.retry_at is not None
    assert "Failed devices tried again" in client.get(f"/rollouts/{row.pk}").content.decode()
    assert as_role("viewer").get(path).status_code == 403


def test_an_override_shows_its_evidence_and_stays_in_red(as_role: AsRole, filled: rows.Filled) -> None:
    row = filled.rollouts["halted"]
    Rollout.objects.filter(pk=filled.rollouts["running"].pk).update(state="completed")
    Rollout.objects.filter(pk=row.pk).update(state="halted", rollback_started_at=None, finished_at=None)
    client, path = as_role("admin"), f"/rollouts/{row.pk}/override"
    html = client.get(path).content.decode()
    assert f'href="/rollouts/{row.pk}/evidence/{row.halted_on_id}"' in html
    evidence = html.split('data-test="evidence-rows"')[1].split("</ul>")[0]
    assert "Accuracy" in evidence, "what did not pass is printed"
    given = {"reason": "labels were swapped", "evidence": str(row.halted_on_id)}
    assert client.post(path, given).status_code == 303
    wave = Wave.objects.get(rollout=row, n=1)
    assert wave.state == "overridden"
    page = client.get(f"/rollouts/{row.pk}").content.decode()
    mark = page.split('data-test="overridden"')[1].split("</p>")[0]
    assert "admin-of-test: labels were swapped" in mark
    assert f"/evidence/{row.halted_on_id}" in mark


def test_a_completed_rollout_is_taken_back_by_a_draft_of_its_own(
    as_role: AsRole, filled: rows.Filled
) -> None:
    row = filled.rollouts["completed"]
    row.members.update(baseline_run=filled.manifests["1.0.0"].id16)
    client, path = as_role("operator"), f"/rollouts/{row.pk}/create-revert"
    assert "stays completed" in client.get(path).content.decode()
    done = client.post(path, {"reason": "it drifts"})
    made = Rollout.objects.get(kind="revert")
    assert (done.status_code, done["Location"]) == (303, f"/rollouts/{made.pk}")
    assert f'data-test="reverts">Takes back <a href="/rollouts/{row.pk}"' in client.get(
        f"/rollouts/{made.pk}"
    ).content.decode().replace("\n", "")
    assert f'href="/rollouts/{made.pk}"' in client.get(f"/rollouts/{row.pk}").content.decode()


def test_a_superseded_rollout_links_its_successor(as_role: AsRole, filled: rows.Filled) -> None:
    older, newer = filled.rollouts["completed"], filled.rollouts["running"]
    Rollout.objects.filter(pk=older.pk).update(state="superseded", superseded_by=newer)
    Rollout.objects.filter(pk=newer.pk).update(plan=newer.plan | {"supersede": True})
    client = as_role("viewer")
    page = client.get(f"/rollouts/{older.pk}").content.decode()
    assert f'<a href="/rollouts/{newer.pk}">{newer.name}</a>' in page.split('data-test="superseded-by"')[1]
    page = client.get(f"/rollouts/{newer.pk}").content.decode()
    assert f'<a href="/rollouts/{older.pk}">{older.name}</a>' in page.split('data-test="supersedes"')[1]


def test_a_device_is_put_into_quarantine_found_and_released(as_role: AsRole, filled: rows.Filled) -> None:
    device, client = filled.devices[0], as_role("operator")
    path = f"/devices/{device.pk}/quarantine"
    assert as_role("viewer").post(path, {"verb": "quarantine", "reason": "x"}).status_code == 403
    assert client.post(path, {"verb": "quarantine", "reason": ""}).status_code == 422
    assert client.post(path, {"verb": "lunch", "reason": "x"}).status_code == 404
    assert client.post(path, {"verb": "quarantine", "reason": "smells burnt"}).status_code == 303
    page = client.get(f"/devices/{device.pk}").content.decode()
    assert "smells burnt" in page.split('data-test="quarantine"')[1].split("</div>")[0]
    found = client.get("/devices?presence=quarantined").content.decode()
    assert re.findall(r'href="/devices/([a-z0-9-]+)">', found) == [device.pk]
    assert client.post(path, {"verb": "quarantine", "reason": "again"}).status_code == 409
    assert client.post(path, {"verb": "release", "reason": ""}).status_code == 303
    device.refresh_from_db()
    assert device.quarantined_at is None
    verbs = AuditEvent.objects.filter(subject_id=device.pk).order_by("id").values_list("verb", flat=True)
    assert list(verbs)[-2:] == ["device.quarantine", "device.release"]
    assert not Device.objects.filter(quarantined_at__isnull=False).exists()
