"""Enrolling from the console: tickets shown once, and simulated devices where somebody runs them."""

from __future__ import annotations

import fcntl
import html
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from device_firmware.host import attendant
from fleet.accounts.models import AuditEvent, User
from fleet.console import simulated
from fleet.devices.models import Device, DeviceClass, EnrolmentToken
from tests.console.conftest import show_again
from tests.console.test_models_and_uploads import installation as installation

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.usefixtures("installation")


@pytest.fixture
def attended(settings: Any) -> Iterator[Path]:
    """The folder of simulated devices while somebody holds it, as the attendant does."""
    folder = Path(settings.RUN_DIR) / "simulate" / "console"
    folder.mkdir(parents=True)
    with (folder / attendant.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def test_tickets_are_shown_once_and_kept_only_as_digests(as_role: AsRole) -> None:
    client = as_role("admin")
    answer = client.post("/new-devices", {"class": "host-a", "count": "3"})
    page = answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    found = re.search(r'<code id="tickets">(.*?)</code>', page, re.DOTALL)
    assert found
    tickets = [json.loads(line) for line in html.unescape(found[1]).splitlines()]
    assert [sorted(ticket) for ticket in tickets] == [["class", "token", "url"]] * 3
    assert EnrolmentToken.objects.count() == 3
    assert tickets[0]["token"] not in client.get("/new-devices").content.decode()
    assert AuditEvent.objects.filter(actor="admin-of-test", verb="enrolment_token.create").exists()


def test_tickets_ask_for_the_password_again_and_keep_what_was_typed(as_role: AsRole) -> None:
    client = as_role("admin")
    show_again(client, ago_s=700)
    answer = client.post("/new-devices", {"class": "host-b", "count": "7"})
    assert (answer.status_code, answer["Location"]) == (303, "/reauth?next=%2Fnew-devices")
    assert not EnrolmentToken.objects.exists()
    assert 'value="7"' in client.get("/new-devices").content.decode()


@pytest.mark.parametrize("count", ["0", "201", "-1", "x", "", "1e3", "٣"])
def test_a_number_that_is_none_makes_no_ticket_and_says_so(as_role: AsRole, count: str) -> None:
    answer = as_role("admin").post("/new-devices", {"class": "host-a", "count": count})
    assert answer.status_code == 422
    assert 'data-test="error-tickets"' in answer.content.decode()
    assert not EnrolmentToken.objects.exists()


def test_simulated_devices_are_offered_only_where_somebody_runs_them(
    as_role: AsRole, settings: Any, attended: Path
) -> None:
    client = as_role("admin")
    assert 'data-test="simulate-form"' in client.get("/new-devices").content.decode()
    User.objects.update(second_factor="one")  # which production asks administrators for
    session = client.session
    session["second_factor"] = "one"
    session.save()
    settings.PRODUCTION = True
    assert 'data-test="simulate-form"' not in client.get("/new-devices").content.decode()
    refused = client.post("/new-devices/simulate", {"class": "host-a", "count": "2"})
    assert refused.status_code == 422
    assert "manage.py dev" in refused.content.decode()
    assert not EnrolmentToken.objects.exists()


def test_the_tickets_of_simulated_devices_go_to_their_attendant_whole(
    as_role: AsRole, attended: Path, present: datetime
) -> None:
    client = as_role("admin")
    done = client.post("/new-devices/simulate", {"class": "host-a", "count": "2"})
    assert (done.status_code, done["Location"]) == (303, "/new-devices")
    (path,) = (attended / attendant.INBOX).iterdir()
    assert path.suffix == ".jsonl"
    assert path.stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["device_id"], line["class"]) for line in lines] == [
        ("sim-0000", "host-a"),
        ("sim-0001", "host-a"),
    ]
    there = simulated.now_there(present)
    assert (there.asked, there.enrolled, there.online, there.is_moving) == (2, 0, 0, True)
    page = client.get("/new-devices").content.decode()
    assert "data-poll-s" in page
    more = client.post("/new-devices/simulate", {"class": "host-b", "count": "1"})
    assert more.status_code == 303
    assert EnrolmentToken.objects.filter(device_id="sim-0002").exists()
    many = client.post("/new-devices/simulate", {"class": "host-a", "count": str(simulated.MOST)})
    assert many.status_code == 422


def test_what_went_wrong_is_told_and_ends_the_waiting(as_role: AsRole, attended: Path) -> None:
    client = as_role("admin")
    client.post("/new-devices/simulate", {"class": "host-a", "count": "1"})
    (attended / attendant.PROBLEM).write_text("no_supervisor: it ended with 2\n")
    page = client.get("/new-devices/live").content.decode()
    assert "no_supervisor: it ended with 2" in page
    assert "data-poll-s" not in page


def test_a_class_of_real_boards_is_not_simulated(as_role: AsRole, attended: Path) -> None:
    client, board = as_role("admin"), DeviceClass.objects.exclude(chip="host")[0]
    for name in (board.name, "none"):
        answer = client.post("/new-devices/simulate", {"class": name, "count": "1"})
        assert answer.status_code == 422
    assert not EnrolmentToken.objects.exists()


def test_only_who_may_enrol_sees_the_page(as_role: AsRole) -> None:
    client = as_role("operator")
    assert client.get("/new-devices").status_code == 403
    assert client.post("/new-devices/simulate", {"class": "host-a", "count": "1"}).status_code == 403
    assert "new-devices" not in client.get("/devices").content.decode()
    assert not Device.objects.exists()
