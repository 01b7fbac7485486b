"""Uploading through the form, and what can be done on a version's page."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from fleet.accounts.models import AuditEvent
from fleet.devices.classes import ensure_default_classes
from fleet.devices.installation import ensure_installation
from ota import keys, registry
from ota.models import Manifest, ModelVersion
from tests.console import rows

AsRole = Callable[[str], Client]
MODEL = (rows.MODELS / "activity-v1.tflite").read_bytes()


@pytest.fixture
def installation(db: None, present: datetime) -> None:
    """Keys, trust document and device classes."""
    keys.init(present)
    ensure_default_classes(present)
    ensure_installation(present)


def send(client: Client, data: bytes = MODEL, **fields: Any) -> Any:
    said = {"model": "activity", "version": "1.0.0", **fields}
    file = SimpleUploadedFile("activity.tflite", data, "application/octet-stream")
    return client.post("/upload", {**said, "file": file})


def test_an_upload_becomes_a_row_and_leads_to_its_page(as_role: AsRole, installation: None) -> None:
    client = as_role("operator")
    answer = send(client, declared_accuracy="92.5", notes="first try")
    assert (answer.status_code, answer["Location"]) == (303, "/models/activity/1.0.0")
    row = ModelVersion.objects.get()
    assert (row.state, row.declared_accuracy, row.notes) == ("uploaded", 0.925, "first try")
    html = client.get("/models/activity/1.0.0").content.decode()
    assert "Waiting for a worker" in html
    assert "data-poll-s" in html


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"version": ""}, "version", "required"),
        ({"version": "1 0"}, "version", "validation"),
        ({"model": "Not A Name"}, "model", "validation"),
        ({"declared_accuracy": "120"}, "declared_accuracy", "less than or equal"),
        ({"parent": "0.9.0"}, "parent", "not_found"),
        ({"parent": "x" * 25}, "parent", "at most 24"),
        ({"declared_accuracy": "nan"}, "declared_accuracy", "number"),
        ({"data": b"short"}, "file", "media_type"),
        ({"data": b""}, "file", "empty"),
        ({"data": b"0" * (16 * 1024 * 1024 + 1)}, "file", "too_large"),
    ],
)
def test_a_refused_form_keeps_its_values_and_says_why_beside_the_field(
    fields: dict[str, Any], field: str, words: str, as_role: AsRole, installation: None
) -> None:
    answer = send(as_role("operator"), **{"notes": "kept words", **fields})
    html = answer.content.decode()
    assert answer.status_code == 422
    assert f'data-test="error-{field}"' in html
    assert words in html.split(f'data-test="error-{field}"')[1][:400]
    assert "kept words" in html
    assert not ModelVersion.objects.exists()


def test_a_version_says_which_one_it_was_made_from(as_role: AsRole, installation: None) -> None:
    client = as_role("operator")
    send(client)
    link = "/upload?model=activity&amp;parent=1.0.0"
    assert link in client.get("/models/activity/1.0.0").content.decode()
    form = client.get(link.replace("&amp;", "&")).content.decode()
    assert 'name="parent" value="1.0.0"' in form
    other = (rows.MODELS / "activity-v2.tflite").read_bytes()
    assert send(client, data=other, version="2.0.0", parent="1.0.0").status_code == 303
    row = ModelVersion.objects.get(version="2.0.0")
    assert row.parent is not None
    assert row.parent.version == "1.0.0"
    event = AuditEvent.objects.get(verb="version.upload", subject_id=str(row.pk))
    assert event.after is not None
    assert event.after["parent"] == "1.0.0"
    html = client.get("/models/activity/2.0.0").content.decode()
    assert re.search(r"<dt>Made from</dt><dd><a [^>]*>1\.0\.0</a>", html)
    foreign = send(client, data=other[:-1] + b"x", model="other", version="1", parent="1.0.0")
    assert "not_found" in foreign.content.decode().split('data-test="error-parent"')[1][:300]


def test_an_evaluation_set_that_is_none_is_refused_beside_its_field(
    as_role: AsRole, installation: None
) -> None:
    answer = send(as_role("operator"), evaluation=SimpleUploadedFile("x.npz", b"no archive"))
    assert answer.status_code == 422
    assert 'data-test="error-evaluation"' in answer.content.decode()


def test_the_same_bytes_again_lead_to_the_version_that_has_them(as_role: AsRole, installation: None) -> None:
    client = as_role("operator")
    send(client)
    answer = send(client, version="1.0.1")
    html = answer.content.decode()
    assert answer.status_code == 409
    assert 'data-test="duplicate"' in html
    assert 'href="/models/activity/1.0.0"' in html
    assert send(client, data=MODEL + b"\0" * 8).status_code == 409
    assert ModelVersion.objects.count() == 1


def test_the_way_from_a_file_to_a_signature(as_role: AsRole, installation: None, present: datetime) -> None:
    client, page = as_role("admin"), "/models/activity/1.0.0"
    send(client)
    early = client.post(f"{page}/release")
    assert early.status_code == 409
    assert "illegal_transition" in early.content.decode()
    registry.inspect_version(ModelVersion.objects.get().pk, now=present)
    html = client.get(page).content.decode()
    assert 'data-state="unproven"' in html
    assert "no evaluation set" in html.lower()
    assert "golden" in html.lower()
    assert "CONV_2D" in html
    refused = client.post(f"{page}/acknowledge", {"class": "host-a", "reason": " "})
    assert refused.status_code == 422
    assert client.post(f"{page}/acknowledge", {"class": "nope", "reason": "trust me"}).status_code == 422
    done = client.post(f"{page}/acknowledge", {"class": "host-a", "reason": "measured elsewhere"})
    assert (done.status_code, done["Location"]) == (303, page)
    assert "measured elsewhere" in client.get(page).content.decode()
    again = client.post(f"{page}/acknowledge", {"class": "host-a", "reason": "measured elsewhere"})
    assert again.status_code == 409
    assert client.post(f"{page}/release").status_code == 303
    manifest = Manifest.objects.get()
    html = client.get(page).content.decode()
    assert manifest.id in html
    assert 'data-test="staging"' in html
    assert 'data-test="roll-out"' in html
    assert client.post(f"{page}/release").status_code == 409
    assert AuditEvent.objects.filter(verb="version.release", actor="admin-of-test").count() == 1


def test_a_fragment_is_silent_until_something_changed(
    as_role: AsRole, installation: None, present: datetime
) -> None:
    client, path = as_role("viewer"), "/models/activity/1.0.0/live"
    send(as_role("operator"))
    html = client.get(path).content.decode()
    seen = html.split("?seen=")[1][:16]
    assert client.get(f"{path}?seen={seen}").status_code == 204
    registry.inspect_version(ModelVersion.objects.get().pk, now=present)
    assert client.get(f"{path}?seen={seen}").status_code == 200


def test_a_refused_file_shows_its_code_its_text_and_what_to_do(
    as_role: AsRole, installation: None, present: datetime
) -> None:
    client = as_role("operator")
    send(client, data=MODEL[:2000])
    registry.inspect_version(ModelVersion.objects.get().pk, now=present)
    html = client.get("/models/activity/1.0.0").content.decode()
    assert 'data-state="refused"' in html
    assert '<code data-test="code">schema</code>' in html
    assert "export it again" in html
    assert 'data-test="release"' not in html


def test_taking_a_version_back_needs_the_right_role_and_ends_its_rollouts_choice(
    as_role: AsRole, filled: rows.Filled
) -> None:
    page = "/models/activity/3.0.0"
    assert as_role("operator").post(f"{page}/yank", {"reason": "worse"}).status_code == 403
    client = as_role("admin")
    assert client.post("/models/activity/3.1.0/yank", {"reason": "worse"}).status_code in (409, 422)
    assert client.post(f"{page}/yank", {"reason": "worse in use"}).status_code == 303
    assert ModelVersion.objects.get(version="3.0.0").state == "yanked"
    choice = client.get("/rollouts/new").content.decode()
    assert "activity 2.0.0 (sequence" in choice
    assert "activity 3.0.0 (sequence" not in choice
