"""What stands above and below lists: saved views, files of all rows, and actions on many devices."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from fleet.accounts.models import AuditEvent
from fleet.console import row_export
from fleet.console.models import SavedView
from fleet.devices import groups
from fleet.devices.models import Device, GroupMember
from ota.models import Job
from tests.console import rows

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db


def table(answer: object) -> list[dict[str, str]]:
    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    return list(csv.DictReader(io.StringIO(text)))


def test_a_file_has_every_row_of_the_filter_and_runs_no_formula(
    as_role: AsRole, filled: rows.Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_export, "BATCH", 7)
    Device.objects.filter(pk="dev-003").update(firmware_version="=1+1", tags=["@now"])
    client = as_role("viewer")
    html = client.get("/devices?class=host-a&after=dev-010").content.decode()
    assert 'href="/devices?class=host-a&amp;format=csv"' in html
    answer = client.get("/devices?class=host-a&format=csv")
    assert 'filename="devices.csv"' in answer["Content-Disposition"]
    found = table(answer)
    assert [row["id"] for row in found] == [f"dev-{n:03d}" for n in range(53)]
    assert (found[3]["firmware"], found[3]["tags"]) == ("'=1+1", "'@now")
    assert found[0]["model"] == "activity"
    whole = json.loads(b"".join(client.get("/devices?class=host-a&format=json").streaming_content))
    assert [one["id"] for one in whole] == [row["id"] for row in found]
    assert whole[3]["firmware"] == "=1+1", "JSON is no spreadsheet"
    assert whole[0]["update_code"] in ("", None)


def test_empty_and_wrong_filters_give_an_empty_file_and_no_file(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    assert json.loads(b"".join(client.get("/devices?find=nobody&format=json").streaming_content)) == []
    assert table(client.get("/devices?find=nobody&format=csv")) == []
    wrong = client.get("/devices?q=tagg==a&format=csv")
    assert (wrong.status_code, wrong.streaming) == (422, False)
    assert client.get("/devices?format=xml").status_code == 200


def test_rollouts_and_alerts_have_files_too(as_role: AsRole, filled: rows.Filled) -> None:
    client, running = as_role("viewer"), filled.rollouts["running"]
    found = {row["id"]: row for row in table(client.get("/rollouts?format=csv"))}
    assert len(found) == 3
    assert found[str(running.pk)]["confirmed"] == "29"
    assert len(table(client.get("/rollouts?state=running&format=csv"))) == 1
    assert table(client.get("/alerts?format=csv")) == []


@pytest.mark.django_db(transaction=True)
def test_the_file_streams_over_an_event_loop_as_well(
    filled: rows.Filled, viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_export, "BATCH", 30)
    client = AsyncClient()
    client.force_login(viewer)

    async def ask() -> list[bytes]:
        answer = await client.get("/devices?format=csv")
        return [part async for part in answer.streaming_content]

    parts = async_to_sync(ask)()
    assert len(parts) == 3
    assert b"".join(parts).count(b"\r\n") == 81


def test_a_view_keeps_a_filter_under_a_name_for_its_owner_alone(as_role: AsRole, filled: rows.Filled) -> None:
    client, other = as_role("viewer"), as_role("operator")
    asked = "class=host-b&presence=online&after=dev-070"
    assert 'data-test="save-view"' not in client.get("/devices").content.decode(), "nothing to keep"
    assert 'data-test="save-view"' in client.get(f"/devices?{asked}").content.decode()
    said = {"page": "devices", "name": "late shift", "query": asked}
    saved = client.post("/views", said)
    assert (saved.status_code, saved["Location"]) == (303, "/devices?class=host-b&presence=online")
    html = client.get(saved["Location"]).content.decode()
    assert re.search(
        r'href="/devices\?class=host-b&amp;presence=online" aria-current="true"[^>]*>late shift', html
    )
    assert "late shift" not in client.get("/rollouts").content.decode()
    assert "late shift" not in other.get("/devices").content.decode()
    row = SavedView.objects.get()
    assert other.post(f"/views/{row.pk}/forget").status_code == 404
    client.post("/views", said)
    assert "duplicate: " in client.get("/devices").content.decode()
    for wrong in ({"name": " "}, {"query": "after=dev-3"}, {"name": "x" * 49}):
        client.post("/views", said | wrong)
        assert "validation: " in client.get("/devices").content.decode()
    assert client.post("/views", said | {"page": "users"}).status_code == 404
    assert SavedView.objects.count() == 1
    assert client.post(f"/views/{row.pk}/forget").status_code == 303
    assert "late shift" not in client.get("/devices").content.decode().split('data-test="message"')[0]
    assert not SavedView.objects.exists()


def digest(html: str) -> dict[str, str]:
    return dict(re.findall(r'name="(shown|count)" value="(\w+)"', html))


def test_a_filter_is_added_to_a_group_and_others_in_it_stay(
    as_role: AsRole, filled: rows.Filled, present: datetime
) -> None:
    pilot = groups.create("pilot", kind="static", actor=rows.ADMIN, now=present)
    groups.set_members(pilot, ["dev-000", "dev-061"], actor=rows.ADMIN, now=present)
    client, path = as_role("operator"), "/bulk/devices?of=all&class=host-b"
    assert (
        'data-test="bulk-all">Act on all 27 that match'
        in client.get("/devices?class=host-b").content.decode()
    )
    html = client.get(path).content.decode()
    assert "27 devices selected" in html
    done = client.post(path, digest(html) | {"verb": "group", "group": "pilot"})
    assert (done.status_code, done["Location"]) == (303, "/devices?class=host-b")
    assert GroupMember.objects.filter(group="pilot").count() == 28
    assert AuditEvent.objects.get(verb="group.add").after["added"] == 26  # type: ignore[index]
    assert "26 joined pilot" in client.get("/devices").content.decode()


def test_a_selection_that_changed_is_refused_with_both_counts_and_kept(
    as_role: AsRole, filled: rows.Filled
) -> None:
    client, path = as_role("operator"), "/bulk/devices?of=all&class=host-b"
    shown = digest(client.get(path).content.decode())
    Device.objects.filter(pk="dev-000").update(device_class="host-b")
    said = {"verb": "quarantine", "reason": "a bad batch"}
    moved = client.post(path, shown | said)
    assert moved.status_code == 409
    html = moved.content.decode()
    assert "target_changed" in html
    assert "You were shown 27, now it is 28." in html
    assert 'value="quarantine" id="v-quarantine" checked' in html
    assert 'value="a bad batch"' in html
    assert not Device.objects.filter(quarantined_at__isnull=False).exists()
    assert client.post(path, digest(html) | said).status_code == 303
    assert Device.objects.filter(quarantined_at__isnull=False, quarantine_reason="a bad batch").count() == 28
    assert AuditEvent.objects.filter(verb="device.quarantine", actor="operator-of-test").count() == 28
    Device.objects.filter(pk="dev-000").update(device_class="host-a")
    Device.objects.filter(pk="dev-001").update(device_class="host-b")
    assert client.post(path, digest(html) | said).status_code == 409, "as many, but others"


def test_the_ticked_are_quarantined_and_released_and_what_is_wrong_does_nothing(
    as_role: AsRole, filled: rows.Filled
) -> None:
    client = as_role("operator")
    path = "/bulk/devices?of=ticked&id=dev-001&id=dev-002&id=nobody"
    html = client.get(path).content.decode()
    assert "2 devices selected" in html
    for wrong in ({"verb": "quarantine"}, {"verb": "dance"}, {"verb": "group", "group": "none"}):
        assert client.post(path, digest(html) | wrong).status_code == 422
    assert not Device.objects.filter(quarantined_at__isnull=False).exists()
    client.post(path, digest(html) | {"verb": "quarantine", "reason": "smoke"})
    assert Device.objects.filter(quarantined_at__isnull=False).count() == 2
    client.post(path, digest(html) | {"verb": "release"})
    assert not Device.objects.filter(quarantined_at__isnull=False).exists()
    assert client.get("/bulk/devices?of=ticked").status_code == 422
    assert client.get("/bulk/devices?of=all&q=tagg==a").status_code == 422
    viewer = as_role("viewer")
    assert viewer.get(path).status_code == 403
    assert 'name="id"' not in viewer.get("/devices").content.decode()


def test_failed_devices_are_tried_again_and_no_others(as_role: AsRole, filled: rows.Filled) -> None:
    running = filled.rollouts["running"]
    ids = sorted(Job.objects.filter(rollout=running, state="confirmed").values_list("device_id", flat=True))[
        :3
    ]
    Job.objects.filter(rollout=running, device__in=ids).update(state="failed", code="timeout", retry_at=None)
    client, path = as_role("operator"), f"/bulk/devices?of=ticked&id={ids[0]}&id=dev-000"
    html = client.get(path).content.decode()
    assert "1 in <a" in html.split('data-test="retried"')[1][:80]
    assert client.post(path, digest(html) | {"verb": "retry"}).status_code == 303
    assert set(Job.objects.filter(retry_at__isnull=False).values_list("device_id", flat=True)) == {ids[0]}
    event = AuditEvent.objects.get(verb="rollout.retry_failed")
    assert (event.subject_id, event.actor) == (str(running.pk), "operator-of-test")
