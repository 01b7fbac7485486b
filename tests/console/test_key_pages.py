"""Signing keys in the console: the list, and the page that asks before one is revoked."""

from __future__ import annotations

from datetime import datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from ota import keys
from ota.models import Manifest, SigningKey, Trust
from tests.console import rows
from tests.console.test_rollout_pages import AsRole

pytestmark = pytest.mark.django_db


@pytest.fixture
def release(filled: rows.Filled, present: datetime) -> str:
    """The release key's id; the rollout under way rests on it."""
    keys.init(present)
    kid = SigningKey.objects.get(role="release").kid
    Manifest.objects.filter(pk=filled.rollouts["running"].manifest_id).update(kids=[kid])
    return kid


def test_an_administrator_revokes_a_key_after_a_look(
    as_role: AsRole, filled: rows.Filled, release: str
) -> None:
    client, path = as_role("admin"), f"/keys/{release}/revoke"
    assert 'href="/keys"' in client.get("/models").content.decode()
    page = client.get("/keys").content.decode()
    assert f'href="{path}"' in page
    root = SigningKey.objects.filter(role="root")[0].kid
    assert f"/keys/{root}/revoke" not in page
    assert f"<dt>Expires</dt><dd>{Trust.objects.get().expires_at:%Y-%m-%d}</dd>" in page
    assert "their files are on this machine" in page
    assert "not held here" not in page
    html = unescape(client.get(path).content.decode())
    row = filled.rollouts["running"]
    resting = html.split('data-test="resting"')[1].split("</p>")[0]
    assert f'It halts <a href="/rollouts/{row.pk}">{row.name}</a>' in resting
    assert "Trust document 2 tells the devices and names a new key" in html
    refused = client.post(path, {"reason": " "})
    assert refused.status_code == 422
    assert "validation: " in refused.content.decode().split('data-test="error-reason"')[1][:300]
    assert SigningKey.objects.get(pk=release).revoked_at is None
    done = client.post(path, {"reason": "stolen"}, follow=True)
    html = unescape(done.content.decode())
    assert done.redirect_chain == [("/keys", 303)]
    assert "Revoked. Trust document 2 tells the devices." in html
    assert "Revoked" in html.split(f'data-test="key-{release}"')[1].split("</tr>")[0]
    for answer in (client.get(path), client.post(path, {"reason": "twice"})):
        assert answer.status_code == 409
        assert "illegal_transition" in answer.content.decode()


def test_without_the_roots_the_page_says_that_devices_go_on_trusting_the_key(
    as_role: AsRole, release: str, settings: Any
) -> None:
    for path in (Path(settings.RUN_DIR) / "keys").glob("root-*.pem"):
        path.unlink()
    client = as_role("admin")
    assert "their files are elsewhere" in client.get("/keys").content.decode()
    assert "Devices go on trusting it" in client.get(f"/keys/{release}/revoke").content.decode()
    html = client.post(f"/keys/{release}/revoke", {"reason": "stolen"}, follow=True).content.decode()
    assert "Revoked here. Devices trust it until" in html
    assert "devices trust it until the roots say otherwise" in html


def test_nobody_else_may(as_role: AsRole, release: str) -> None:
    for role in ("viewer", "operator", "approver"):
        client = as_role(role)
        assert 'href="/keys"' not in client.get("/models").content.decode()
        assert client.get("/keys").status_code == 403
        assert client.post(f"/keys/{release}/revoke", {"reason": "x"}).status_code == 403
    assert SigningKey.objects.get(pk=release).revoked_at is None
    assert as_role("admin").get("/keys/none/revoke").status_code == 404
