"""E-mail reaches a real local server: one message in five minutes and recipient, again after a failure."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation, mailing, rules, silences
from fleet.alerts.models import Alert, Delivery, Mailbox
from tests.alerts.mail_server import MailServer, mail_server
from tests.alerts.planting import plant_devices, plant_events

pytestmark = pytest.mark.django_db
RNG = random.Random(7)
SECOND = timedelta(seconds=1)
ANNA, BO = "anna@example.org", "bo@example.org"


@pytest.fixture
def server(settings: Any) -> Iterator[MailServer]:
    with mail_server() as running:
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", running.port
        settings.ALERT_EMAILS = [ANNA]
        settings.PUBLIC_URL = "https://fleet.example.org"
        yield running


@pytest.fixture
def devices(server: MailServer, now: datetime) -> list[str]:
    """Devices of a fleet with one rule, none of which fires yet."""
    rules.create("loops", kind="crash_loop", actor=SYSTEM, now=now)
    return plant_devices(40, now)


def crash(name: str, now: datetime) -> None:
    plant_events(name, now - SECOND, "boot", 3, "panic")
    evaluation.evaluate(now)


def send(now: datetime) -> int:
    return mailing.send_due(now, rng=RNG)


def texts(server: MailServer) -> list[str]:
    return [message.get_content() for _, message in server.got]


def test_the_first_alert_goes_at_once_and_says_what_where_and_what_to_do(
    devices: list[str], server: MailServer, now: datetime
) -> None:
    crash(devices[0], now)
    assert send(now) == 1
    ((recipients, message),) = server.got
    assert recipients == [ANNA]
    assert message["subject"] == "TinyFleet: CRITICAL, alerts 1 opened"
    alert = Alert.objects.get()
    text = message.get_content()
    assert f"device {devices[0]} (rule loops," in text
    assert f"https://fleet.example.org/alerts/{alert.pk}" in text
    row = Delivery.objects.get()
    assert (row.state, row.attempts, row.finished_at) == ("delivered", 1, now)


def test_what_comes_within_five_minutes_is_one_message_for_each_recipient(
    devices: list[str], server: MailServer, now: datetime, settings: Any
) -> None:
    settings.ALERT_EMAILS = [ANNA, BO]
    crash(devices[0], now)
    assert send(now) == 2
    for n in range(1, 5):
        crash(devices[n], now + n * timedelta(minutes=1))
        assert send(now + n * timedelta(minutes=1)) == 0
    assert send(now + mailing.EVERY - SECOND) == 0
    assert send(now + mailing.EVERY) == 2
    assert sorted(to for (to,), _ in server.got) == [ANNA, ANNA, BO, BO]
    for text in texts(server)[2:]:
        assert [name in text for name in devices[:6]] == [False, True, True, True, True, False]
    assert not Delivery.objects.exclude(state="delivered").exists()


def test_a_server_that_is_away_gets_everything_later_under_one_message(
    devices: list[str], server: MailServer, now: datetime, settings: Any
) -> None:
    settings.EMAIL_PORT = 1  # nobody listens there
    crash(devices[0], now)
    assert send(now) == 0
    box = Mailbox.objects.get()
    assert (box.attempts, box.error.split(":")[0]) == (1, "ConnectionRefusedError")
    assert send(box.next_at - SECOND) == 0
    crash(devices[1], now + SECOND)
    settings.EMAIL_PORT = server.port
    assert send(box.next_at) == 1
    (text,) = texts(server)
    assert devices[0] in text
    assert devices[1] in text
    assert (Mailbox.objects.get().attempts, Mailbox.objects.get().error) == (0, "")


def test_a_recipient_who_is_refused_keeps_nobody_else_waiting(
    devices: list[str], server: MailServer, now: datetime, settings: Any
) -> None:
    settings.ALERT_EMAILS = [ANNA, BO]
    server.refusals = {ANNA: "451 later"}
    crash(devices[0], now)
    assert send(now) == 1
    assert [to for to, _ in server.got] == [[BO]]
    row = Delivery.objects.get(recipient=ANNA)
    assert (row.state, row.attempts) == ("pending", 1)
    assert "451" in row.error
    server.refusals = {}
    assert send(Mailbox.objects.get(pk=ANNA).next_at) == 1
    assert [to for to, _ in server.got] == [[BO], [ANNA]]


def test_what_nobody_took_for_a_day_has_failed_and_says_why(
    devices: list[str], server: MailServer, now: datetime
) -> None:
    server.refusals = {ANNA: "550 no such mailbox"}
    crash(devices[0], now)
    tries = 0
    while Delivery.objects.filter(state="pending").exists():
        send(Mailbox.objects.get().next_at if tries else now)
        tries += 1
    row = Delivery.objects.get()
    assert (row.state, "550" in row.error) == ("failed", True)
    assert timedelta(hours=24) <= row.finished_at - now <= timedelta(hours=26)
    assert 20 < tries < 60
    assert not server.got


def test_a_sender_that_was_killed_is_followed_by_another(
    devices: list[str], server: MailServer, now: datetime
) -> None:
    crash(devices[0], now)
    Mailbox.objects.create(recipient=ANNA, next_at=now + mailing.LEASE)  # claimed, then killed
    assert send(now + mailing.LEASE - SECOND) == 0
    assert send(now + mailing.LEASE) == 1


def test_the_same_alerts_sent_twice_are_one_message_to_a_mail_program(
    devices: list[str], server: MailServer, now: datetime
) -> None:
    crash(devices[0], now)
    assert send(now) == 1
    Delivery.objects.update(state="pending")  # taken by the server, and the sender died before it said so
    assert send(now + mailing.EVERY) == 1
    assert len({message["message-id"] for _, message in server.got}) == 1


def test_a_silence_and_an_address_that_was_removed_stop_messages(
    devices: list[str], server: MailServer, now: datetime, settings: Any
) -> None:
    until = now + timedelta(hours=1)
    silences.create(q=f"id=={devices[0]}", until=until, reason="bench", actor=SYSTEM, now=now)
    crash(devices[0], now)
    assert not Delivery.objects.exists()
    crash(devices[1], now + SECOND)
    settings.ALERT_EMAILS = []
    assert send(now + SECOND) == 0
    row = Delivery.objects.get()
    assert (row.state, row.error) == ("failed", mailing.NOT_ASKED_FOR)
    assert not server.got


def test_a_storm_is_told_in_parts(
    devices: list[str], server: MailServer, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailing, "MOST", 2)
    for n in range(3):
        crash(devices[n], now + n * SECOND)
    assert send(now + 3 * SECOND) == 1
    assert "1 more wait for the next message" in texts(server)[0]
    assert send(now + 3 * SECOND + mailing.EVERY) == 1
    assert devices[2] in texts(server)[1]
