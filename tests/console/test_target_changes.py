"""A target that reaches nobody, or other devices than were previewed, in the console."""

from __future__ import annotations

from html import unescape

import pytest
from django.test import Client

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device
from ota.models import Rollout
from tests.console import planning, rows
from tests.console.test_rollout_pages import AsRole, said
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db


def made(client: Client, filled: rows.Filled) -> Rollout:
    """A rollout as the form makes it."""
    return planning.made(planning.plan(client, said(filled)))


def test_a_form_that_reaches_nobody_says_so_before_and_after_it_is_saved(
    as_role: AsRole, quiet: rows.Filled
) -> None:
    Device.objects.update(quarantined_at="2026-01-01T00:00Z", quarantine_reason="a recall")
    client = as_role("operator")
    html = planning.preview(client, said(quiet, name="before")).content.decode()
    reason = html.split('data-test="preview-reason"')[1][:400]
    assert "empty_target" in reason
    assert "No device is eligible" in reason
    row = made(client, quiet)
    assert row.state == "preflight_failed"
    html = client.get(f"/rollouts/{row.pk}").content.decode()
    assert "no device is eligible" in html
    assert 'data-test="verb-start"' not in html
    assert client.post(f"/rollouts/{row.pk}/start").status_code == 409


def test_a_start_that_finds_nobody_left_is_refused_with_its_code(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("operator")
    row = made(client, quiet)
    assert row.state == "ready"
    Device.objects.update(quarantined_at="2026-01-01T00:00Z", quarantine_reason="a recall")
    answer = client.post(f"/rollouts/{row.pk}/start")
    html = unescape(answer.content.decode())
    assert answer.status_code == 409
    assert "target_changed" in html
    assert "Nothing was changed" not in html
    assert "the fleet changed since preflight" in html
    row.refresh_from_db()
    assert row.state == "draft"
    event = AuditEvent.objects.filter(verb="rollout.draft", subject_id=str(row.pk)).get()
    assert (event.actor, event.reason.split(":")[0]) == ("operator-of-test", "target_changed")
    html = unescape(client.get(f"/rollouts/{row.pk}").content.decode())
    assert 'data-test="verb-submit"' in html
    assert row.reason in html, "the draft says why"
