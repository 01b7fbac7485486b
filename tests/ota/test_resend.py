"""A device that is there is asked for what is missing: signed, once a try, twice at most."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices import inventory, timeline
from fleet.devices.models import Device
from fleet.mqtt import topics
from fleet.mqtt.access import MqttError
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import Clock, CommandVerb, EventKind, RefusalCode
from fleet.telemetry import gap_asking, gaps, ingest
from fleet.telemetry.gap_models import Gap
from fleet.telemetry.ingest import Delivery
from ota import keys, resend
from ota.desired import Command, next_counter, verify_command
from tests.stack.services import Broker, Client, wait_until
from tests.telemetry.batches import make_batch, ms

pytestmark = pytest.mark.django_db
LATER = timedelta(seconds=61)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def hole(make_device: Callable[..., Any], now: datetime) -> Device:
    """A device that is there and whose counters 0..1 and 4..5 of boot 3 are gaps since now."""
    device: Device = make_device("gap-1", presence="online", boot=3, last_seen_at=now)
    for first in (2, 3, 6):
        batch = make_batch(now - timedelta(hours=1), 1, boot=3, first=first)
        ingest.store([Delivery(device.pk, batch)], slot=0, now=now - LATER)
    return device


@pytest.fixture
def heard(broker: Broker, hole: Device) -> Any:
    """What arrives on the device's command topic."""
    broker.add_device(hole.pk, "a secret of the device")
    with Client(broker, hole.pk, "a secret of the device") as client:
        client.subscribe(topics.cmd(hole.pk))
        yield client


def read(message: bytes, installation: bytes, now: datetime, last: int = 0) -> Command:
    trust, _ = keys.current_trust()
    return verify_command(
        message,
        device_id="gap-1",
        installation_id=installation,
        trust=trust,
        last_counter=last,
        now_s=int(now.timestamp()),
    )


def commands(client: Client, n: int) -> list[bytes]:
    wait_until(lambda: len(client.messages) >= n, what=f"{n} commands, {len(client.messages)} so far")
    return [payload for _, payload in client.messages]


def test_one_signed_command_covers_all_gaps_of_a_device(
    heard: Client, installation: bytes, now: datetime
) -> None:
    assert resend.repair(now=now) == 1
    (message,) = commands(heard, 1)
    command = read(message, installation, now)
    assert (command.verb, command.args) == (CommandVerb.RESEND_TELEMETRY, (3, 0, 5))
    assert command.expires == int((now + gaps.RETRY).timestamp())
    assert set(Gap.objects.values_list("state", "tries", "command")) == {("asked", 1, command.counter)}
    event = AuditEvent.objects.get(verb="telemetry.resend")
    assert (event.subject_id, event.after) == ("gap-1", {"devices": 1, "gaps": 2})


def test_it_is_asked_twice_minutes_apart_and_then_given_up(
    heard: Client, installation: bytes, now: datetime
) -> None:
    assert [resend.repair(now=now + n * MINUTE) for n in range(7)] == [1, 0, 1, 0, 0, 0, 0]
    first, second = commands(heard, 2)
    last = read(first, installation, now).counter
    read(second, installation, now + 2 * MINUTE, last)
    assert set(Gap.objects.values_list("state", "cause", "tries")) == {("lost", "no_answer", 2)}


def test_records_that_come_are_repaired(heard: Client, now: datetime) -> None:
    resend.repair(now=now)
    for first, n in ((0, 2), (4, 2)):
        batch = make_batch(now - timedelta(hours=1), n, boot=3, first=first)
        ingest.store([Delivery("gap-1", batch)], slot=0, now=now)
    assert resend.repair(now=now + 2 * MINUTE) == 0
    assert set(Gap.objects.values_list("state", flat=True)) == {"repaired"}


def test_a_device_that_is_away_is_asked_when_it_is_back(heard: Client, hole: Device, now: datetime) -> None:
    Device.objects.update(presence="offline")
    assert resend.repair(now=now) == 0
    assert set(Gap.objects.values_list("state", "tries")) == {("open", 0)}
    inventory.set_presence(hole.pk, True, now + timedelta(hours=5))
    assert resend.repair(now=now + timedelta(hours=5)) == 1


def test_a_broker_that_is_away_uses_up_no_try(hole: Device, settings: Any, now: datetime) -> None:
    settings.MQTT = dict.fromkeys(("host", "port", "ca", "users_file", "password_file", "pid_file"), "")
    with pytest.raises(MqttError):
        resend.repair(now=now)
    assert set(Gap.objects.values_list("state", "tries")) == {("open", 0)}
    assert gap_asking.due(now + gaps.RETRY) != []


def test_a_device_that_refuses_the_command_holds_nothing(heard: Client, hole: Device, now: datetime) -> None:
    resend.repair(now=now)
    counter = Gap.objects.values_list("command", flat=True)[0]
    for n, (about, code) in enumerate([(counter - 1, RefusalCode.NOT_IN_BANK), (counter, RefusalCode.NONE)]):
        detail = (int(CommandVerb.RESEND_TELEMETRY), int(code), about)
        answer = Event(3, 1 + n, ms(now), Clock.SNTP, EventKind.COMMAND_RESULT, detail)
        timeline.record_event(hole.pk, answer, now=now)
    resend.repair(now=now + MINUTE)
    assert set(Gap.objects.values_list("state", flat=True)) == {"asked"}, "of another command, or no refusal"
    detail = (int(CommandVerb.RESEND_TELEMETRY), int(RefusalCode.NOT_IN_BANK), counter)
    timeline.record_event(
        hole.pk, Event(3, 9, ms(now), Clock.SNTP, EventKind.COMMAND_RESULT, detail), now=now
    )
    resend.repair(now=now + MINUTE)
    assert set(Gap.objects.values_list("state", "cause")) == {("lost", "not_held")}


@pytest.mark.parametrize("burned", ["reported", "stored"])
def test_the_counter_is_above_what_was_sent_and_what_was_reported(
    heard: Client, installation: bytes, now: datetime, burned: str
) -> None:
    ahead = next_counter(1, int((now + timedelta(days=1)).timestamp()))
    gaps.run(now, installation_id=installation)
    if burned == "reported":
        Device.objects.update(command_counter=ahead)
    else:
        Gap.objects.update(command=ahead, tries=1, asked_at=now - gaps.RETRY)
    assert resend.repair(now=now) == 1
    assert read(commands(heard, 1)[0], installation, now).counter == ahead + 1


def test_two_workers_ask_once(hole: Device, installation: bytes, now: datetime) -> None:
    gaps.run(now, installation_id=installation)
    questions = gap_asking.due(now)
    counters = {"gap-1": 1}
    assert gap_asking.claim(questions, counters, now=now) == questions
    assert gap_asking.claim(questions, counters, now=now) == []
