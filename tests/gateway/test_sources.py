"""Both sources keep order, bounds and acknowledgements, and resume a session."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import pytest

from fleet.gateway.lean_source import LeanSource
from fleet.gateway.paho_source import PahoSource
from fleet.gateway.source import Source
from fleet.mqtt.client import Arrived, BackendClient, take_named
from tests.stack.services import Broker
from tests.stack.services import wait_until as wait_until_within

wait_until = partial(wait_until_within, deadline_s=60)
USER = "svc.gateway-1"
FILTERS = ["f1/dev/+/telemetry"]
FEW = 20


class AnySource(Source, Protocol):
    """What both have besides."""

    @property
    def is_away(self) -> bool:
        """True without a connection."""


@pytest.fixture(params=["paho", "lean"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def opened(kind: str, *, is_few: bool = False, patience_s: float = 30.0) -> Iterator[AnySource]:
    """A source on the kept session. is_few: with bounds of FEW messages."""
    user = take_named(USER)
    found: Any
    if kind == "paho":
        more = {"most_records": FEW} if is_few else {}
        found = PahoSource("t", user, FILTERS, clean=False, patience_s=patience_s, **more)
    else:
        more = {"receive_most": FEW} if is_few else {}
        found = LeanSource("t", user, FILTERS, keepalive_s=max(1, int(2 * patience_s)), **more)
    found.start()
    try:
        yield found
    finally:
        found.close()
        user.release()


def ready(source: AnySource) -> list[Arrived]:
    """Let it connect and subscribe; what came meanwhile."""
    came: list[Arrived] = []

    def look() -> bool:
        came.extend(source.receive(5000, 0.05))
        return source.is_ready

    wait_until(look, what="the subscription")
    return came


def take(source: AnySource, count: int) -> list[Arrived]:
    """At least so many messages, un-acknowledged."""
    came: list[Arrived] = []

    def look() -> bool:
        came.extend(source.receive(5000, 0.1))
        return len(came) >= count

    wait_until(look, what=f"{count} messages")
    return came


@pytest.fixture
def publish(broker: Broker) -> Iterator[Callable[[int, int], None]]:
    """`publish(first, count)`: messages with their number as payload, acknowledged by the broker."""
    with BackendClient("test") as client:
        client.connect(30)

        def send(first: int, count: int) -> None:
            numbers = range(first, first + count)
            items = [(f"f1/dev/dev-{n % 3}/telemetry", b"%d" % n) for n in numbers]
            client.publish_all(items, retain=False, deadline_s=60)

        yield send


def numbers(messages: list[Arrived]) -> list[int]:
    return [int(one.payload) for one in messages]


def test_messages_come_in_order_and_once_when_acknowledged(kind: str, publish: Any) -> None:
    with opened(kind) as source:
        ready(source)
        publish(0, 500)
        came = []
        while len(came) < 500:
            batch = take(source, 1)
            source.ack(batch)
            came += numbers(batch)
        assert came == list(range(500))
        assert {one.is_again for one in batch} == {False}
    with opened(kind) as source:
        assert ready(source) == [] == source.receive(5000, 0.3)


def test_what_is_not_acknowledged_comes_again_before_the_subscription_is_granted(
    kind: str, publish: Any
) -> None:
    with opened(kind) as source:
        ready(source)
        publish(0, 300)
        held = take(source, 150)
        source.ack(held[:100])
        while len(held) < 300:  # the rest comes when the broker has seen the acknowledgements
            held += take(source, 1)
    publish(300, 50)  # while nobody is there
    with opened(kind) as source:
        came = ready(source)
        while len(came) < 250:
            came += source.receive(5000, 0.1)
            source.ack(came)
        assert numbers(came) == list(range(100, 350))
        assert came[0].is_again
        assert not came[-1].is_again


def test_a_batch_holds_about_as_many_records_as_asked_for(kind: str, publish: Any) -> None:
    with opened(kind) as source:
        ready(source)
        publish(0, 30)
        batches = []
        while sum(map(len, batches)) < 30:
            batches.append(source.receive(10, 5.0))
        assert max(map(len, batches)) <= 10
        assert [n for batch in batches for n in numbers(batch)] == list(range(30))


def test_no_more_than_the_bound_is_taken_un_acknowledged(kind: str, publish: Any) -> None:
    with opened(kind, is_few=True) as source:
        ready(source)
        publish(0, 10 * FEW)
        came = take(source, FEW)
        assert source.receive(5000, 0.5) == []
        assert numbers(came) == list(range(FEW))
        while len(came) < 10 * FEW:
            source.ack(came[-FEW:])
            came += take(source, FEW)
        assert numbers(came) == list(range(10 * FEW))


def test_a_pause_ends_the_connection_before_the_broker_does_and_keeps_the_batch(
    kind: str, publish: Any, broker: Broker
) -> None:
    with opened(kind, patience_s=0.5) as source:
        ready(source)
        publish(0, 10)
        held = take(source, 10)

        def paused() -> bool:
            source.pause()
            return source.is_away

        source.pause()
        publish(10, 10)  # paho's thread notices its pause by a message
        wait_until(paused, what="the connection to be ended")
        source.resume()
        source.ack(held)  # of a connection that is gone: they come again
        came = take(source, 20)
        assert numbers(came) == list(range(20))
        assert [one.is_again for one in came][:10] == [True] * 10
        source.ack(came)
    log = (broker.run.logs / "mosquitto.log").read_text()
    assert f"Client {USER} has exceeded timeout" not in log


def test_acknowledgements_of_an_earlier_connection_touch_nothing(kind: str, publish: Any) -> None:
    with opened(kind) as source:
        ready(source)
        publish(0, 20)
        old = take(source, 20)
        other = BackendClient(USER, "thief", clean=False, manual_ack=True)
        other.connect(30)  # the broker ends the older connection of one user
        other.close()
        came = take(source, 20)
        assert came[0].epoch > old[0].epoch
        source.ack(old)
    with opened(kind) as source:
        assert numbers(take(source, 20)) == list(range(20))


def test_a_killed_broker_is_come_back_to(kind: str, publish: Any, broker: Broker) -> None:
    with opened(kind) as source:
        ready(source)
        publish(0, 5)
        source.ack(take(source, 5))
        before = broker.supervisor.pid("mosquitto")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: broker.supervisor.pid("mosquitto") != before, what="a new broker")
        lost = []

        def look() -> bool:
            lost.extend(source.receive(5000, 0.1))
            return source.is_ready

        with suppress(AssertionError):
            wait_until_within(lambda: not source.is_ready, deadline_s=0.1)
        wait_until(look, what="to be back")
        publish(5, 5)
        assert numbers([*lost, *take(source, 5)])[-5:] == [5, 6, 7, 8, 9]
