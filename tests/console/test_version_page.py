"""What a version's page tells beside its verdict: origin, memory, difference, aliases, and a check of one's
own that works without asking the installation.
"""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from fleet.accounts.models import AuditEvent
from fleet.cli import exits
from fleet.cli.main import main
from fleet.console.memory_map import memory_maps
from fleet.devices.models import DeviceClass
from ota import registry
from ota.models import Manifest, ModelAlias, ModelVersion
from tests.console import rows
from tests.console.test_models_and_uploads import MODEL, send
from tests.console.test_models_and_uploads import installation as installation

AsRole = Callable[[str], Client]
PAGE = "/models/activity/1.0.0"


@pytest.fixture
def released(as_role: AsRole, installation: None, present: datetime) -> Client:
    """An administrator who has uploaded, acknowledged and signed activity 1.0.0."""
    client = as_role("admin")
    send(client)
    registry.inspect_version(ModelVersion.objects.get().pk, now=present)
    client.post(f"{PAGE}/acknowledge", {"class": "host-a", "reason": "measured elsewhere"})
    assert client.post(f"{PAGE}/release").status_code == 303
    return client


def shown(page: str, test: str) -> str:
    """Text of the element with this `data-test`, entities resolved."""
    found = re.search(rf'data-test="{test}"[^>]*>(.*?)</(?:pre|dl|table)>', page, re.DOTALL)
    assert found, f"no {test}"
    return html.unescape(re.sub(r"<[^>]+>", "", found[1]))


def test_the_command_on_the_page_verifies_the_files_beside_it_and_nothing_else(
    released: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = released.get(PAGE).content.decode()
    for path in re.findall(r'href="(/files/[^"]+)"', page):
        answer = released.get(path)
        name = answer["Content-Disposition"].split('"')[1]
        (tmp_path / name).write_bytes(answer.content)
    words = shlex.split(shown(page, "verify"))
    assert words[0] == "tinyfleet"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLEET_URL", raising=False)
    assert main(words[1:]) == exits.OK
    told = capsys.readouterr().out
    manifest = Manifest.objects.get()
    assert manifest.id in told
    assert "has exactly these bytes" in told
    model = tmp_path / f"{manifest.mid}.tflite"
    assert model.read_bytes() == MODEL
    model.write_bytes(MODEL[:-1] + b"\x99")
    assert main(words[1:]) == exits.ENDED_BADLY
    assert "sha-256" in capsys.readouterr().err
    model.write_bytes(MODEL)
    strange = [word if len(word) != 64 else f"{int(word, 16) ^ 1:064x}" for word in words[1:]]
    assert main(strange) == exits.ENDED_BADLY
    assert "trust" in capsys.readouterr().err
    signed = tmp_path / f"{manifest.mid}.manifest"
    signed.write_bytes(signed.read_bytes()[:-1] + b"\x00")
    assert main(words[1:]) == exits.ENDED_BADLY
    assert main([*words[1:], "--threshold", "9"]) == exits.USAGE


def test_files_are_for_those_who_may_read_models_and_only_of_manifests(released: Client) -> None:
    mid = Manifest.objects.get().mid
    assert Client().get(f"/files/{mid}.manifest").status_code == 302
    assert released.get("/files/0000000000000000.tflite").status_code == 404
    answer = released.get(f"/files/{mid}.tflite")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Type"] == "application/octet-stream"


def test_the_page_tells_where_a_version_came_from_and_what_was_signed(released: Client) -> None:
    page = released.get(PAGE).content.decode()
    origin = shown(page, "provenance")
    assert "by admin-of-test" in origin
    assert "127.0.0.1" in origin
    assert ModelVersion.objects.get().artifact_id in origin
    assert "measured elsewhere" in page
    text = shown(page, "manifest-text")
    manifest = Manifest.objects.get()
    for line in (f"manifest: {manifest.id}", "name: activity", "version: 1.0.0", "operators: "):
        assert line in text
    assert f"signed by: {manifest.kids[0]}" in text


def test_memory_is_drawn_for_each_class_that_may_have_it(released: Client) -> None:
    page = released.get(PAGE).content.decode()
    memory = shown(page, "memory")
    row = ModelVersion.objects.get()
    judged = row.verdicts.exclude(kind="refuse")
    assert judged.exists()
    for verdict in judged:
        assert verdict.device_class_id in memory
    assert "golden vectors" in memory
    assert "activations" in memory
    assert "Difference from" not in page, "it is the first of its line"


def test_a_memory_map_adds_up_and_says_when_there_is_too_much() -> None:
    row = DeviceClass(name="x", chip="esp32s3", arena_bytes=30_000, slot_bytes=[10_000, 64_000])
    probe = {"arena_head_bytes": 9_000}
    (small,) = memory_maps(5_000, 300, probe, {"x": 24_000}, [row])
    flash, arena = small.rows
    assert [part.size for part in flash["parts"]] == [5_000, 3_192, 300]
    assert (flash["used"], flash["free"], flash["is_over"]) == (8_492, 1_508, False)
    assert [part.size for part in arena["parts"]] == [9_000, 15_000]
    assert (arena["free"], arena["of"]) == (6_000, 30_000)
    (large,) = memory_maps(9_000, 3_000, probe, {}, [row])
    assert [one["is_over"] for one in large.rows] == [True], "no arena figure, no bar"
    (other,) = memory_maps(9_000, 3_000, probe, {}, [row], slot=1)
    assert not other.rows[0]["is_over"]


def test_a_later_version_is_told_against_the_one_before(as_role: AsRole, filled: rows.Filled) -> None:
    page = as_role("viewer").get("/models/activity/2.0.0").content.decode()
    told = shown(page, "difference")
    assert "the version before" in page
    assert "Size" in told
    assert "Operators" in told
    assert "versions=1.0.0&amp;versions=2.0.0" in page


def test_an_alias_is_pointed_from_the_page_and_only_as_it_was_seen(
    as_role: AsRole, filled: rows.Filled
) -> None:
    client, first, second = as_role("operator"), "/models/activity/1.0.0", "/models/activity/2.0.0"
    assert 'data-test="no-aliases"' in client.get(first).content.decode()
    made = client.post(f"{first}/alias", {"alias": "stable", "reason": "weeks of quiet", "revs": ""})
    assert (made.status_code, made["Location"]) == (303, f"{first}#aliases")
    page = client.get(second).content.decode()
    assert 'data-test="alias-stable"' in page
    assert "weeks of quiet" in page
    assert 'name="revs" value="stable=1"' in page
    unseen = client.post(f"{second}/alias", {"alias": "stable", "revs": ""})
    assert unseen.status_code == 409
    assert "1.0.0" in unseen.content.decode()
    assert client.post(f"{second}/alias", {"alias": "stable", "revs": "stable=1"}).status_code == 303
    assert ModelAlias.objects.get().version.version == "2.0.0"
    assert client.post(f"{second}/alias", {"alias": "No Name", "revs": ""}).status_code == 422
    assert client.post("/models/activity/0.9.0/alias", {"alias": "x", "revs": ""}).status_code == 409
    assert as_role("viewer").post(f"{first}/alias", {"alias": "x"}).status_code == 403
    assert AuditEvent.objects.filter(verb="alias.set", source_ip="127.0.0.1").count() == 2
    assert (
        ">2.0.0</a>" in client.get("/models/activity").content.decode().split('data-test="aliases"')[1][:400]
    )


def test_report_and_provenance_over_rest(filled: rows.Filled, client: Client, make_user: Any) -> None:
    from tests.api.conftest import Caller

    call = Caller(client, make_user, "admin")
    report = call("GET", "/models/activity/versions/2.0.0/report").json()
    assert (report["state"], report["inspection"]["sha256"]) == (
        "staged",
        filled.versions["2.0.0"].artifact_id,
    )
    origin = call("GET", "/models/activity/versions/2.0.0/provenance").json()
    assert [deed["verb"] for deed in origin["deeds"]] == ["version.release", "version.upload"]
    assert origin["created_by"] == "admin"
    assert call("GET", "/models/activity/versions/9/report").status_code == 404
