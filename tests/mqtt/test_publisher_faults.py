"""The bulk publisher and a broker that misbehaves: nothing counts that was not answered."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.mqtt.client import MqttError
from fleet.mqtt.publisher import BulkPublisher
from fleet.stack.paths import RunDir
from fleet.stack.tls import ensure_tls
from tests.mqtt.scripted_broker import CONNACK, ScriptedBroker, Session

Start = Callable[[Callable[[Session], None]], ScriptedBroker]


@pytest.fixture
def start(tmp_path: Path, settings: Any) -> Iterator[Start]:
    """Start a broker with a script; the settings lead to it."""
    tls = ensure_tls(RunDir(tmp_path).ensure())
    users = tmp_path / "users.json"
    users.write_text('{"svc.test-0": "secret"}')
    running: list[ScriptedBroker] = []

    def begin(script: Callable[[Session], None]) -> ScriptedBroker:
        running.append(ScriptedBroker(tls, script))
        settings.MQTT = {
            "host": "127.0.0.1",
            "port": running[-1].port,
            "ca": str(tls.ca),
            "users_file": str(users),
        }
        return running[-1]

    yield begin
    for broker in running:
        broker.close()
        assert broker.faults == []


def items(count: int) -> list[tuple[str, bytes]]:
    return [(f"f1/svc/{n}", b"%d" % n) for n in range(count)]


def refused(publisher: BulkPublisher, count: int, **given: Any) -> MqttError:
    """The error of publishing so many items."""
    with pytest.raises(MqttError) as caught:
        publisher.publish_all(items(count), **{"deadline_s": 5.0, **given})
    return caught.value


def test_acknowledgements_may_come_in_any_order_and_byte_by_byte(start: Start) -> None:
    seen: list[str] = []

    def script(session: Session) -> None:
        session.welcome()
        held: list[int] = []
        for mid, topic, _ in session.publishes():
            seen.append(topic)
            held.append(mid)
            if len(held) == 10:
                late = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in reversed(held))
                for n in range(len(late)):
                    session.send(late[n : n + 1])
                held.clear()

    start(script)
    with BulkPublisher("test") as publisher:
        assert publisher.publish_all(items(40), deadline_s=10, window=10) == 40
    assert seen == [topic for topic, _ in items(40)]


def test_what_was_not_acknowledged_before_a_hang_up_is_sent_again_in_order(start: Start) -> None:
    seen: list[list[str]] = []

    def script(session: Session) -> None:
        session.welcome()
        seen.append([])
        for mid, topic, _ in session.publishes():
            seen[-1].append(topic)
            if session.number == 0 and len(seen[0]) == 8:
                session.acknowledge(mid)  # of eight, only the last
                return
            if session.number:
                session.acknowledge(mid)

    start(script)
    with BulkPublisher("test") as publisher:
        assert publisher.publish_all(items(20), deadline_s=10, window=8) == 20
    names = [topic for topic, _ in items(20)]
    assert seen == [names[:8], names[:7] + names[8:]]


def test_a_timeout_counts_the_acknowledged_from_the_first_and_the_next_call_starts_clean(
    start: Start,
) -> None:
    def script(session: Session) -> None:
        session.welcome()
        for mid, topic, _ in session.publishes():
            if session.number or topic != "f1/svc/3":
                session.acknowledge(mid)

    broker = start(script)
    with BulkPublisher("test") as publisher:
        problem = refused(publisher, 10, deadline_s=0.5)
        assert (problem.code, problem.acknowledged) == ("publish_timeout", 3)
        assert publisher.publish_all(items(10), deadline_s=5) == 10
    assert broker.sessions == 2


def test_a_packet_id_still_in_flight_is_not_given_away_when_ids_begin_again(start: Start) -> None:
    taken: list[int] = []

    def script(session: Session) -> None:
        session.welcome()
        held = 0
        for mid, topic, _ in session.publishes():
            taken.append(mid)
            if topic == "f1/svc/0":
                held = mid  # the first is answered last
            else:
                session.acknowledge(mid)
            if topic == "f1/svc/59":
                session.acknowledge(held)

    start(script)

    def wrapping(publisher: BulkPublisher) -> Iterator[tuple[str, bytes]]:
        for n, item in enumerate(items(60)):
            if n == 30 and publisher._link is not None:
                publisher._link._mid = 65_530
            yield item

    with BulkPublisher("test") as publisher:
        assert publisher.publish_all(wrapping(publisher), deadline_s=10, window=8) == 60
    assert taken[0] == 1
    assert taken[30:38] == [65_531, 65_532, 65_533, 65_534, 65_535, 2, 3, 4]


def test_no_more_are_in_flight_than_the_broker_takes(start: Start) -> None:
    most = 0

    def script(session: Session) -> None:
        nonlocal most
        session.welcome(bytes.fromhex("20 06 00 00 03 21 00 05"))
        held: list[int] = []
        for mid, topic, _ in session.publishes():
            held.append(mid)
            most = max(most, len(held) + session.ahead())
            if len(held) == 5 or topic == "f1/svc/32":
                session.send(b"".join(b"\x40\x02" + one.to_bytes(2, "big") for one in held))
                held.clear()

    start(script)
    with BulkPublisher("test") as publisher:
        assert publisher.publish_all(items(33), deadline_s=5, window=200) == 33
    assert most == 5


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("40 02 12 34", "which it was not sent"),
        ("40 01 00", "PUBACK is too short"),
        ("40 ff ff ff ff", "more than four bytes"),
        ("30 03 00 01 61", "packet 0x30 unasked"),
        ("48 54 54 50 2f 31 2e 31", "unasked|not MQTT"),
    ],
)
def test_what_is_not_an_answer_ends_the_call_by_name(start: Start, answer: str, said: str) -> None:
    def script(session: Session) -> None:
        session.welcome()
        for _ in session.publishes():
            session.send(bytes.fromhex(answer + "00" * 80 if answer.startswith("48") else answer))

    start(script)
    with BulkPublisher("test") as publisher:
        problem = refused(publisher, 3)
    assert (problem.code, problem.acknowledged) == ("broker_protocol", 0)
    assert re.search(said, problem.text), problem.text


@pytest.mark.parametrize(
    ("connack", "code"),
    [
        ("20 03 00 86 00", "broker_auth"),
        ("20 03 00 87 00", "broker_auth"),
        ("20 05 00 00 02 25 00", "broker_protocol"),
        ("20 02 00 00", "broker_protocol"),  # of MQTT 3.1.1
        ("d0 00", "broker_protocol"),
        ("20 03 00 89 00", "broker_unreachable"),  # busy: asked again until the time is up
    ],
)
def test_a_broker_that_does_not_let_us_publish_is_told_apart(start: Start, connack: str, code: str) -> None:
    start(lambda session: session.welcome(bytes.fromhex(connack)))
    with pytest.raises(MqttError) as caught:
        BulkPublisher("test").connect(timeout_s=0.6)
    assert caught.value.code == code


def test_a_broker_that_hangs_up_each_time_is_not_asked_in_a_tight_loop(start: Start) -> None:
    def script(session: Session) -> None:
        session.welcome()
        for _ in session.publishes():
            session.send(bytes.fromhex("e0 01 95"))
            return

    broker = start(script)
    with BulkPublisher("test") as publisher:
        problem = refused(publisher, 3, deadline_s=1.0)
    assert (problem.code, problem.acknowledged) == ("publish_timeout", 0)
    assert 2 <= broker.sessions <= 6


def test_an_item_that_cannot_be_made_leaves_no_answer_for_the_next_call(start: Start) -> None:
    def script(session: Session) -> None:
        session.welcome()
        for mid, _, _ in session.publishes():
            session.acknowledge(mid)

    def broken() -> Iterator[tuple[str, bytes]]:
        yield from items(10)
        raise LookupError("no such device")

    broker = start(script)
    with BulkPublisher("test") as publisher:
        with pytest.raises(LookupError):
            publisher.publish_all(broken(), deadline_s=5, window=4)
        assert publisher.publish_all(items(5), deadline_s=5) == 5
    assert broker.sessions == 2


def test_a_welcome_may_come_in_pieces(start: Start) -> None:
    def script(session: Session) -> None:
        assert session.read()[0] == 0x10
        for n in range(len(CONNACK)):
            session.send(CONNACK[n : n + 1])
        for mid, _, _ in session.publishes():
            session.acknowledge(mid, 0x10)  # nobody subscribed: no failure

    start(script)
    with BulkPublisher("test").connect(timeout_s=5) as publisher:
        assert publisher.publish_all(items(3), deadline_s=5) == 3
