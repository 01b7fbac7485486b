"""`manage.py devices`: tickets in bulk, and a list."""

import json
import stat
from datetime import datetime
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from fleet.accounts.models import AuditEvent
from fleet.devices import classes, enrolment
from fleet.devices.installation import ensure_installation
from fleet.devices.models import Device
from tests.devices.makers import ANCHOR, make_board, request

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _installed(now: datetime) -> None:
    classes.ensure_default_classes(now)
    ensure_installation(now)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("devices", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_tickets_are_lines_that_really_enrol(tmp_path: Path, settings: object) -> None:
    settings.PUBLIC_URL = "https://fleet.example"  # type: ignore[attr-defined]
    out = tmp_path / "tickets.jsonl"
    run("enrol", "--class", "host-a", "--count", "3", "--out", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    tickets = [json.loads(line) for line in out.read_text().splitlines()]
    assert [ticket["device_id"] for ticket in tickets] == ["dev-0000", "dev-0001", "dev-0002"]
    from django.utils import timezone

    for ticket in tickets:
        assert ticket["class"] == "host-a"
        asked = request(ticket["token"], ticket["device_id"])
        answer = enrolment.enrol(asked, anchor=ANCHOR, now=timezone.now())
        assert answer["device_id"] == ticket["device_id"]


def test_made_up_ids_go_on_where_devices_and_tickets_end(now: datetime) -> None:
    make_board("dev-0041", now)
    run("enrol", "--class", "host-a", "dev-0050")
    lines = run("enrol", "--class", "host-a", "--count", "1").splitlines()
    assert json.loads(lines[0])["device_id"] == "dev-0051"
    named = run("enrol", "--class", "host-b", "--count", "1", "--prefix", "pump-").splitlines()
    assert json.loads(named[0])["device_id"] == "pump-0000"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--class", "nothing", "dev-1"), "unknown_class"),
        (("--class", "host-a", "Dev 1"), "validation"),
        (("--class", "host-a", "dev-1", "--ttl", "0"), "validation"),
        (("--class", "host-a"), "--count"),
    ],
)
def test_wrong_arguments_are_told(arguments: tuple[str, ...], code: str) -> None:
    with pytest.raises(CommandError, match=code):
        run("enrol", *arguments)


def test_an_enrolled_device_gets_no_second_ticket(now: datetime) -> None:
    make_board("dev-1", now)
    with pytest.raises(CommandError, match="device_exists"):
        run("enrol", "--class", "host-a", "dev-1")


def test_the_list_shows_every_device(now: datetime) -> None:
    make_board("dev-1", now)
    line = json.loads(run("list", "--json"))
    assert (line["device_id"], line["class"], line["presence"]) == ("dev-1", "host-a", "never_seen")
    assert "dev-1" in run("list")
    assert run("list", "--class", "host-b") == ""


def test_devices_are_retired_and_what_is_refused_keeps_no_other_one(now: datetime) -> None:
    for name in ("dev-1", "dev-2"):
        make_board(name, now)
    with pytest.raises(CommandError, match="not_found: no device none"):
        run("retire", "dev-1", "none", "dev-2", "--reason", "scrapped")
    assert Device.objects.filter(retired_at=None).count() == 0
    assert set(AuditEvent.objects.filter(verb="device.retire").values_list("reason", flat=True)) == {
        "scrapped"
    }
    with pytest.raises(CommandError, match="illegal_transition"):
        run("retire", "dev-1", "--reason", "twice")
