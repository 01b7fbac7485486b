"""Retirement: out of service for good; keys and broker access go, history stays."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from fleet.accounts.models import AuditEvent
from fleet.devices import broker as password_file
from fleet.devices import enrolment, quarantine, retirement
from fleet.devices.errors import EnrolmentError, QuarantineError, RetirementError
from fleet.devices.keys import Keyring
from fleet.devices.models import Device, DeviceCredential, DeviceEvent
from fleet.mqtt import broker_files
from fleet.mqtt.codec.cose import mac_kid
from tests.devices.makers import ANCHOR, CONSOLE, make_board, request
from tests.ota.conftest import broker as broker
from tests.ota.conftest import session_broker as session_broker
from tests.stack.services import Broker, Client, wait_until

pytestmark = pytest.mark.django_db(transaction=True)  # the access goes when a retirement is committed


def retire(name: str, now: datetime, reason: str = "it fell into the sea") -> Device:
    return retirement.retire(name, reason=reason, actor=CONSOLE, now=now)


@pytest.fixture
def passwords(tmp_path: Path, settings: Any) -> Path:
    """A password file of our own, without a broker."""
    path = tmp_path / "passwords"
    settings.MQTT = {**settings.MQTT, "password_file": str(path), "pid_file": ""}
    return path


def test_a_retired_device_loses_its_keys_and_its_line_and_keeps_its_history(
    passwords: Path, now: datetime
) -> None:
    board, other = make_board("dev-1", now), make_board("dev-2", now)
    later = now + timedelta(days=1)
    row = retire("dev-1", later)
    assert (row.retired_at, row.presence) == (later, "offline")
    assert list(broker_files.read_passwords(passwords)) == ["dev-2"]
    assert DeviceCredential.objects.get(device="dev-1").revoked_at == later
    ring = Keyring()
    assert ring.mac_key("dev-1", mac_kid(board.mac_key)) is None
    assert ring.mac_key("dev-2", mac_kid(other.mac_key)) == other.mac_key
    known = ring.device("dev-1")
    assert known is not None
    assert known.is_retired
    told = list(DeviceEvent.objects.filter(device="dev-1").order_by("at").values_list("kind", "text"))
    assert told[-1] == ("retired", "retired: it fell into the sea")
    event = AuditEvent.objects.get(verb="device.retire")
    assert (event.actor, event.reason) == ("admin", "it fell into the sea")
    assert event.after == {"revoked": [mac_kid(board.mac_key).hex()]}


def test_the_broker_is_told_what_was_committed(passwords: Path, now: datetime) -> None:
    make_board("dev-1", now)
    with transaction.atomic():
        retire("dev-1", now)
        assert list(broker_files.read_passwords(passwords)) == ["dev-1"], "it may still be rolled back"
    assert list(broker_files.read_passwords(passwords)) == []


def test_a_retirement_that_is_rolled_back_takes_no_access(passwords: Path, now: datetime) -> None:
    make_board("dev-1", now)
    with transaction.atomic():
        retire("dev-1", now)
        transaction.set_rollback(True)
    assert Device.objects.get().retired_at is None
    assert list(broker_files.read_passwords(passwords)) == ["dev-1"]


def test_it_is_for_good(passwords: Path, now: datetime) -> None:
    make_board("dev-1", now)
    retire("dev-1", now)
    with pytest.raises(RetirementError) as again:
        retire("dev-1", now + timedelta(days=1))
    assert (again.value.code, again.value.state, again.value.allowed) == ("illegal_transition", "retired", [])
    assert Device.objects.get().retired_at == now
    assert AuditEvent.objects.filter(verb="device.retire").count() == 1
    with pytest.raises(QuarantineError) as held:
        quarantine.change(Device.objects.get(), "quarantine", reason="x", actor=CONSOLE, now=now)
    assert (held.value.state, held.value.allowed) == ("retired", [])
    (token,) = enrolment.create_tokens("host-a", 1, actor=CONSOLE, now=now)
    with pytest.raises(EnrolmentError, match="device_exists"):
        enrolment.enrol(request(token), anchor=ANCHOR, now=now)


def test_the_answer_of_an_enrolment_is_not_repeated_to_a_retired_device(
    passwords: Path, now: datetime
) -> None:
    make_board("dev-0", now)
    (token,) = enrolment.create_tokens("host-a", 1, actor=CONSOLE, now=now)
    enrolment.enrol(request(token), anchor=ANCHOR, now=now)
    retire("dev-1", now)
    with pytest.raises(EnrolmentError, match="token_used"):
        enrolment.enrol(request(token), anchor=ANCHOR, now=now)
    assert "dev-1" not in broker_files.read_passwords(passwords)


@pytest.mark.parametrize(
    ("name", "reason", "code"),
    [("dev-1", " ", "validation"), ("dev-1", "x" * 129, "validation"), ("none", "x", "not_found")],
)
def test_what_is_refused_changes_nothing(
    passwords: Path, now: datetime, name: str, reason: str, code: str
) -> None:
    make_board("dev-1", now)
    with pytest.raises(RetirementError) as refused:
        retire(name, now, reason)
    assert refused.value.code == code
    assert Device.objects.get().retired_at is None
    assert DeviceCredential.objects.get().revoked_at is None
    assert not AuditEvent.objects.filter(verb="device.retire").exists()
    assert "dev-1" in broker_files.read_passwords(passwords)


def test_a_password_file_that_cannot_be_written_is_said_and_asking_again_ends_the_access(
    passwords: Path, now: datetime, settings: Any
) -> None:
    make_board("dev-1", now)
    right = settings.MQTT
    settings.MQTT = {**right, "password_file": str(passwords / "no" / "folder")}
    with pytest.raises(RetirementError) as refused:
        retire("dev-1", now)
    assert refused.value.code == "unavailable"
    assert Device.objects.get().retired_at == now
    settings.MQTT = right
    assert "dev-1" in broker_files.read_passwords(passwords)
    with pytest.raises(RetirementError, match="illegal_transition"):
        retire("dev-1", now)
    assert "dev-1" not in broker_files.read_passwords(passwords)


def test_a_session_ends_with_its_device_and_no_new_one_begins(broker: Broker, now: datetime) -> None:
    boards = [make_board(name, now) for name in ("gone-1", "stays-1")]
    password_file.sync()
    with (
        Client(broker, "gone-1", boards[0].secret) as gone,
        Client(broker, "stays-1", boards[1].secret) as stays,
    ):
        assert (gone.is_connected, stays.is_connected) == (True, True)
        retire("gone-1", now)
        wait_until(lambda: not gone.is_connected, what="the broker to end the session")
        assert stays.is_connected
    with Client(broker, "gone-1", boards[0].secret) as again:
        assert not again.is_connected
        assert "authori" in again.reason.lower()
