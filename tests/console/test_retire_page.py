"""Retiring a device in the console: a page that says what it means, a reason, and what is left afterwards."""

from __future__ import annotations

from html import unescape

import pytest

from fleet.devices.models import Device
from tests.console import rows
from tests.console.test_rollout_pages import AsRole

pytestmark = pytest.mark.django_db
PATH = "/devices/dev-001/retire"


def test_an_administrator_retires_a_device_after_a_look(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("admin")
    assert f'href="{PATH}"' in client.get("/devices/dev-001").content.decode()
    html = unescape(client.get(PATH).content.decode())
    assert "for good" in html
    assert 'data-test="live-jobs">No rollout has it under way.' in html
    refused = client.post(PATH, {"reason": " "})
    assert refused.status_code == 422
    assert "validation: " in refused.content.decode().split('data-test="error-reason"')[1][:300]
    assert Device.objects.get(pk="dev-001").retired_at is None
    done = client.post(PATH, {"reason": "it fell into the sea"})
    assert (done.status_code, done["Location"]) == (303, "/devices/dev-001")
    assert Device.objects.get(pk="dev-001").retired_at is not None
    html = client.get("/devices/dev-001").content.decode()
    assert 'data-test="retired"' in html
    assert "it fell into the sea" in html, "its timeline says why"
    assert 'data-test="retire"' not in html
    assert 'data-test="quarantine-form"' not in html
    assert "dev-001<" not in client.get("/devices?find=dev-001").content.decode()
    again = client.post(PATH, {"reason": "twice"})
    assert again.status_code == 409
    assert "illegal_transition" in again.content.decode()


def test_the_page_names_the_rollouts_that_have_the_device_under_way(
    as_role: AsRole, filled: rows.Filled
) -> None:
    row = filled.rollouts["running"]
    name = row.jobs.filter(state="downloading").values_list("device_id", flat=True)[0]
    html = as_role("admin").get(f"/devices/{name}/retire").content.decode()
    told = html.split('data-test="live-jobs"')[1].split("</p>")[0]
    assert f'<a href="/rollouts/{row.pk}">{row.name}</a> (downloading)' in told


def test_nobody_else_may(as_role: AsRole, filled: rows.Filled) -> None:
    for role in ("viewer", "operator", "approver"):
        client = as_role(role)
        assert 'data-test="retire"' not in client.get("/devices/dev-001").content.decode()
        assert client.get(PATH).status_code == 403
        assert client.post(PATH, {"reason": "x"}).status_code == 403
    assert Device.objects.get(pk="dev-001").retired_at is None
    assert as_role("admin").get("/devices/none/retire").status_code == 404
