"""The hub of settings and its pages: classes, storage, broker, dead letters, licences, keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from email.message import Message
from typing import Any

import celery
import pytest
from django.test import Client
from kombu.exceptions import OperationalError

from fleet.accounts.models import AuditEvent
from fleet.console.views.settings.about import licence_of
from fleet.devices.classes import ensure_default_classes
from fleet.devices.models import DeviceClass
from fleet.telemetry import dead, partitions, retention
from fleet.telemetry.dead import Quota, Refused
from tests.console import rows
from tests.devices.makers import make_board
from tests.telemetry.batches import make_batch

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db
EVERYBODY = {"account", "tokens", "keyboard", "classes", "dead-letters", "broker", "retention", "about"}


def linked(html: str) -> set[str]:
    return set(re.findall(r'data-test="settings-([\w-]+)"', html))


@pytest.mark.parametrize(
    ("role", "more"), [("viewer", set()), ("operator", set()), ("admin", {"keys", "users", "webhooks"})]
)
def test_the_hub_links_what_a_person_may_open_and_all_of_it_opens(
    as_role: AsRole, filled: rows.Filled, role: str, more: set[str]
) -> None:
    client = as_role(role)
    html = client.get("/settings").content.decode()
    assert linked(html) == EVERYBODY | more
    for path in re.findall(r'<a href="([^"]+)" data-test="settings-', html):
        assert client.get(path).status_code == 200, path


def test_a_class_that_changes_what_devices_are_asks_again_first(as_role: AsRole, filled: rows.Filled) -> None:
    client, path = as_role("admin"), "/settings/classes/host-a"
    row = DeviceClass.objects.get(pk="host-a")
    said: dict[str, Any] = {
        "arena_bytes": row.arena_bytes,
        "slot_bytes": "385024",
        "operators": "CONV_2D SOFTMAX 'MyOp'".replace("'", '"'),
        "firmware_version": "1.4.0",
        "esp_nn_version": "",
        "description": "as before",
        "rev": 1,
    }
    html = client.get(path).content.decode()
    assert f'value="{row.arena_bytes}"' in html
    assert "CONV_2D" in html
    asked = client.post(path, said)
    assert asked.status_code == 200
    resting = asked.content.decode().split('data-test="resting"')[1]
    assert "53 devices in service" in resting
    assert filled.rollouts["running"].name in resting
    assert DeviceClass.objects.get(pk="host-a").rev == 1, "nothing is saved yet"
    assert client.post(path, said | {"understood": "yes"}).status_code == 303
    after = DeviceClass.objects.get(pk="host-a")
    assert (after.operators, after.custom_operators, after.firmware_version) == ([3, 25], ["MyOp"], "1.4.0")
    assert after.class_id != row.class_id
    event = AuditEvent.objects.get(verb="class.change")
    assert (event.actor, set(event.after)) == (  # type: ignore[arg-type]
        "admin-of-test", {"operators", "custom_operators", "firmware_version", "description", "class_id"},
    )  # fmt: skip
    stale = client.post(path, said | {"understood": "yes", "firmware_version": "1.5.0"})
    assert stale.status_code == 409
    assert "stale: " in stale.content.decode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slot_bytes": "5000"}, "whole chunks"),
        ({"slot_bytes": "1e3"}, "not whole numbers"),
        ({"slot_bytes": "4096 4096 4096 4096 4096"}, "validation"),
        ({"operators": "CONV_3D"}, "no operator of TFLite Micro"),
        ({"firmware_version": "one"}, "three numbers"),
        ({"arena_bytes": "0"}, "error-arena_bytes"),
        ({"arena_bytes": "99999999999"}, "error-arena_bytes"),
        ({"name": "Nope!"}, "1..32 of a-z"),
        ({"name": "host-a"}, "duplicate"),
        ({"chip": "z80"}, "error-chip"),
    ],
)
def test_a_class_that_cannot_be_is_refused_beside_its_field(
    as_role: AsRole, present: datetime, changes: dict[str, str], said: str
) -> None:
    ensure_default_classes(present)
    given = {
        "name": "mine", "chip": "esp32", "arena_bytes": "65536", "slot_bytes": "8192 4096",
        "operators": "CONV_2D", "firmware_version": "1.0.0",
    }  # fmt: skip
    client, n = as_role("admin"), DeviceClass.objects.count()
    refused = client.post("/settings/new-class", given | changes)
    assert refused.status_code == (409 if said == "duplicate" else 422)
    assert said in refused.content.decode()
    assert DeviceClass.objects.count() == n
    assert as_role("operator").post("/settings/new-class", given).status_code == 403
    assert client.post("/settings/new-class", given).status_code == 303
    assert DeviceClass.objects.get(pk="mine").slot_bytes == [8192, 4096]


def test_the_next_drop_that_is_announced_is_the_one_that_happens(as_role: AsRole, present: datetime) -> None:
    old = partitions.day_of(present) - timedelta(days=20)
    partitions.ensure([old], tables=["tele_dead"])
    html = as_role("viewer").get("/settings/retention").content.decode()
    row = html.split('data-table="tele_dead"')[1].split("</tr>")[0]
    leaves = old + timedelta(days=15)
    assert f">{old}<" in row
    assert f">{leaves}<" in row
    name = f"tele_dead_{old:%Y%m%d}"
    at = datetime.combine(leaves, present.timetz())
    assert name in [partition for _, partition, _ in retention._expired(at)]
    before = datetime.combine(leaves - timedelta(days=1), present.timetz())
    assert name not in [partition for _, partition, _ in retention._expired(before)]


def test_a_broker_that_is_away_is_said_and_the_page_still_answers(as_role: AsRole, settings: Any) -> None:
    settings.MQTT = settings.MQTT | {"users_file": str(settings.RUN_DIR / "users.json")}
    html = as_role("viewer").get("/settings/broker").content.decode()
    assert 'data-test="broker-state" data-code="users_missing"' in html
    assert re.search(r'data-limit="max_queued_messages".*?Loses messages', html, re.S)
    assert "not on this machine" in html


def refuse(present: datetime) -> None:
    """A telemetry batch of a device that nobody enrolled, an odd one, and one with markup for a topic."""
    board = make_board("dev-x", present)
    message = board.telemetry(make_batch(present - timedelta(hours=1), 2))
    letters = [
        Refused("dev-x", message.topic, "unknown_device", "no device of this id", message.payload),
        Refused("", "<script>alert(1)</script>", "topic_bad", "odd", b"\xff\x00<b>"),
        Refused("dev-y", "f1/dev/dev-y/event", "mac_missing", "plain", b"\xa2\x00\x01\x01\x43abc"),
    ]
    dead.record(letters, slot=0, now=present, quota=Quota())


def test_dead_letters_are_counted_narrowed_and_read_as_far_as_they_can_be(
    as_role: AsRole, present: datetime
) -> None:
    client = as_role("viewer")
    assert 'data-test="empty"' in client.get("/settings/dead-letters").content.decode()
    refuse(present)
    html = client.get("/settings/dead-letters").content.decode()
    assert "3 messages were refused" in html
    assert "<script>alert" not in html
    assert "unknown_device (1)" in html
    assert "COSE_Mac0, " in html
    assert "CBOR without a MAC" in html
    assert "{0: 1, 1: 3 bytes 616263}" in html
    assert "no CBOR: " in html
    narrowed = client.get("/settings/dead-letters?code=mac_missing").content.decode()
    assert "1 match" in narrowed
    assert "dev-x" not in narrowed
    assert 'data-test="replay"' not in narrowed, "a viewer may not"
    assert client.post("/settings/dead-letters/replay", {"code": "unknown_device"}).status_code == 403


def test_an_operator_asks_for_a_replay_and_its_end_is_shown(as_role: AsRole, present: datetime) -> None:
    refuse(present)
    client = as_role("operator")
    assert 'data-test="replay"' in client.get("/settings/dead-letters?code=unknown_device").content.decode()
    answer = client.post("/settings/dead-letters/replay", {"code": "unknown_device"})
    assert (answer.status_code, answer["Location"]) == (303, "/settings/dead-letters?code=unknown_device")
    assert AuditEvent.objects.get(verb="telemetry.ask_replay").actor == "operator-of-test"
    with celery.current_app.connection() as broker, broker.SimpleQueue("default") as queue:
        message = queue.get(timeout=5)
        message.ack()
    args, _, _ = message.payload
    celery.current_app.loader.import_default_modules()  # as a worker does when it starts
    celery.current_app.tasks[message.headers["task"]](*args)
    html = client.get("/settings/dead-letters").content.decode()
    assert "unknown_device (" not in html, "the device is enrolled by now: it was stored and has left"
    assert re.search(r'data-test="replays">.*1 of <code>unknown_device</code> stored: 2 windows', html, re.S)
    assert client.post("/settings/dead-letters/replay", {"code": "tea"}).status_code == 422


def test_a_queue_that_is_away_refuses_the_replay_and_leaves_no_trace(
    as_role: AsRole, present: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(present)

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(celery.Celery, "send_task", away)
    answer = as_role("operator").post("/settings/dead-letters/replay", {"code": "unknown_device"})
    assert answer.status_code == 503
    assert "unavailable" in answer.content.decode()
    assert not AuditEvent.objects.filter(verb="telemetry.ask_replay").exists()


def test_licences_are_what_packages_say_of_themselves(as_role: AsRole) -> None:
    html = as_role("viewer").get("/settings/about").content.decode()
    row = next(part for part in html.split("<tr>") if '"main">Django<' in part)
    assert "BSD" in row
    said = Message()
    said["License"] = "a whole text\nof many lines"
    said["Classifier"] = "License :: OSI Approved :: MIT License"
    assert licence_of(said) == "MIT License"  # type: ignore[arg-type]
    assert licence_of(Message()) == ""  # type: ignore[arg-type]


def test_shortcuts_are_switched_off_by_a_cookie_that_the_server_renders(as_role: AsRole) -> None:
    client = as_role("viewer")
    assert "data-shortcuts" in client.get("/settings/keyboard").content.decode()
    assert client.post("/settings/keyboard", {"shortcuts": "off"}).status_code == 303
    html = client.get("/devices").content.decode()
    assert "data-shortcuts" not in html
    assert "<dialog" not in html
    client.post("/settings/keyboard", {"shortcuts": "on"})
    assert "data-shortcuts" in client.get("/devices").content.decode()
