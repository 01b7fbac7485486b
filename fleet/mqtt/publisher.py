"""A connection to the broker that only publishes, in bulk: many messages in one write, many answers in one
read, no thread.

`BackendClient` (paho) hands every message and every acknowledgement from one thread to another, which costs
more than signing what is sent. Here the caller's thread does all of it. It speaks MQTT 5, because there a
broker that refuses a publish says so; in 3.1.1 it acknowledges what its access rules made it drop.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from django.conf import settings

from fleet.mqtt import packets
from fleet.mqtt.access import MqttError, connect_error, take_user, tls_context
from fleet.mqtt.codec.errors import CodecError

logger = logging.getLogger(__name__)

KEEPALIVE_S: Final = 60
MAX_WINDOW: Final = 1000
_FIRST_DELAY_S, _MAX_DELAY_S = 0.05, 2.0
_READ_BYTES: Final = 16_384  # one TLS record
_BAD_LOGIN: Final = (0x86, 0x87)

Item = tuple[int, str, bytes]
"""Position in the caller's order, topic, payload."""


class BulkPublisher:
    """One connection that publishes at QoS 1; it connects when it has something to publish, and again when it
    lost the broker.

    It belongs to one thread. A context manager: leaving it closes the connection and gives the name back.
    """

    def __init__(self, role: str) -> None:
        """role: of which a free broker user is leased until `close`.

        Raises MqttError `users_missing`, `no_free_user`.
        """
        self._user = take_user(role)
        self._is_leased = True
        self._link: _Link | None = None

    def __enter__(self) -> BulkPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The broker user."""
        return self._user.name

    def connect(self, timeout_s: float = 10.0) -> BulkPublisher:
        """Connect, retrying with back-off for `timeout_s`.

        Raises MqttError `broker_unreachable`, and at once, since waiting mends none of them, `broker_auth`,
        `broker_tls` and `broker_protocol`; the publisher is then closed.
        """
        try:
            self._connect(time.monotonic() + timeout_s)
        except MqttError as problem:
            self.close()
            if problem.code == "broker_unreachable":
                raise connect_error(problem.code, self.name, timeout_s=timeout_s) from problem
            raise
        return self

    def publish_all(
        self,
        items: Iterable[tuple[str, bytes]],
        *,
        retain: bool = True,
        deadline_s: float,
        window: int = 200,
    ) -> int:
        """Publish in order with at most `window` unacknowledged, and wait for the last acknowledgement;
        returns their number.

        When the connection is lost, what was not acknowledged is sent again, in order, on a new one.
        deadline_s: seconds from now for all of it. Raises MqttError: `publish_refused` once all are answered
        and the broker refused some (`refused` names them by position), `publish_timeout`, `broker_auth`,
        `broker_tls`, `broker_protocol`; `acknowledged` counts the items, from the first, that are answered.
        Raises CodecError as `packets.publish`. After any error the next call begins on a new connection.
        """
        until_s = time.monotonic() + deadline_s
        batch = _Batch(items, retain=retain)
        lost_at, delay_s = -1, _FIRST_DELAY_S
        try:
            while not batch.is_done():
                link = self._link or self._connect(until_s)
                try:
                    _exchange(link, batch, min(window, MAX_WINDOW), until_s)
                except TimeoutError:
                    raise
                except OSError as problem:
                    logger.warning("%s lost its connection to the broker (%s)", self.name, problem)
                    self._drop()
                    batch.begin_again()
                    # one that takes nothing and hangs up each time must not be asked in a tight loop
                    delay_s = min(2 * delay_s, _MAX_DELAY_S) if batch.answered == lost_at else _FIRST_DELAY_S
                    lost_at = batch.answered
                    time.sleep(min(delay_s, _left(until_s)))
        except TimeoutError:
            self._drop()
            raise batch.error("publish_timeout", "the broker did not answer in time") from None
        except MqttError as problem:
            self._drop()
            code = "publish_timeout" if problem.code == "broker_unreachable" else problem.code
            raise batch.error(code, problem.text) from problem
        except BaseException:
            self._drop()  # answers are still under way, which no later call may take for its own
            raise
        if batch.refused:
            raise batch.error("publish_refused", batch.refusal)
        return batch.taken

    def close(self) -> None:
        """Say goodbye to the broker and give the name back. Safe to call twice."""
        self._drop()
        if self._is_leased:
            self._is_leased = False
            self._user.release()

    def _connect(self, until_s: float) -> _Link:
        """A new connection. Raises MqttError as `connect`."""
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                self._link = _Link(self._user.name, self._user.secret, until_s)
                return self._link
            except ssl.SSLCertVerificationError as problem:
                raise connect_error("broker_tls", self.name) from problem
            except OSError as problem:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise MqttError("broker_unreachable", f"no broker answered: {problem}") from problem
                time.sleep(min(delay_s, left_s))
                delay_s = min(2 * delay_s, _MAX_DELAY_S)

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


class _Batch:
    """The items of one call: those to come, those in flight by packet id, those to be sent once more.

    taken: items read from the caller. answered: how many of them the broker answered. refused: positions that
    it refused, refusal: the first in words.
    """

    def __init__(self, items: Iterable[tuple[str, bytes]], *, retain: bool) -> None:
        self._source: Iterator[tuple[str, bytes]] = iter(items)
        self._again: deque[Item] = deque()
        self._in_flight: dict[int, Item] = {}
        self._is_retained = retain
        self._is_empty = False
        self.taken = 0
        self.answered = 0
        self.refused: set[int] = set()
        self.refusal = ""

    def is_done(self) -> bool:
        """True once every item is answered."""
        return self._is_empty and not self._in_flight and not self._again

    def in_flight(self) -> int:
        """How many are sent and not answered."""
        return len(self._in_flight)

    def pack(self, room: int, link: _Link) -> bytes:
        """The packets of the next items, at most `room`, which are in flight from now on."""
        found = []
        for item in self._next(room):
            mid = link.next_mid(self._in_flight)
            packet = packets.publish(item[1], item[2], mid, retain=self._is_retained)
            if len(packet) > link.connack.max_packet_bytes:
                self._refuse(item, packets.TOO_LARGE)
                continue
            self._in_flight[mid] = item
            found.append(packet)
        return b"".join(found)

    def answer(self, mid: int, reason: int) -> None:
        """Take in a PUBACK. Raises MqttError `broker_protocol` for an id that is not in flight."""
        item = self._in_flight.pop(mid, None)
        if item is None:
            raise MqttError("broker_protocol", f"the broker acknowledged packet {mid}, which it was not sent")
        self.answered += 1
        if reason >= packets.REFUSED:
            self._refuse(item, reason)

    def begin_again(self) -> None:
        """Have what is in flight sent once more, before anything else and in its order."""
        self._again.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()

    def error(self, code: str, text: str) -> MqttError:
        """The error that says how far the call came."""
        waiting = [*self._in_flight.values(), *self._again]
        done = min((position for position, _, _ in waiting), default=self.taken)
        about = f"{text}; {done:,} publishes are answered" if done else text
        return MqttError(code, about, acknowledged=done, refused=frozenset(self.refused))

    def _next(self, room: int) -> Iterator[Item]:
        while room > 0 and self._again:
            yield self._again.popleft()
            room -= 1
        for topic, payload in islice(self._source, max(room, 0)):
            self.taken += 1
            room -= 1
            yield self.taken - 1, topic, payload
        self._is_empty = self._is_empty or room > 0

    def _refuse(self, item: Item, reason: int) -> None:
        self.refused.add(item[0])
        self.refusal = self.refusal or f"the broker refuses to take {item[1]}: reason {reason:#04x}"


def _exchange(link: _Link, batch: _Batch, window: int, until_s: float) -> None:
    """Fill the window, then read answers until half of it is free, or all of it when nothing is left to send.

    Raises TimeoutError at `until_s`, another OSError when the connection is lost, and MqttError
    `broker_protocol`.
    """
    most = min(window, link.connack.receive_maximum)
    data = batch.pack(most - batch.in_flight(), link)
    if data:
        link.send(data, until_s)
    goal = most // 2 if data else 0
    while batch.in_flight() > goal:
        for mid, reason in link.answers(until_s):
            batch.answer(mid, reason)


class _Link:
    """A TLS connection on which the broker has taken our CONNECT. connack: its answer."""

    def __init__(self, name: str, secret: str, until_s: float) -> None:
        """Raises OSError when there is no connection by `until_s`, MqttError `broker_auth`, `broker_tls` and
        `broker_protocol`.
        """
        host, port = str(settings.MQTT["host"]), int(settings.MQTT["port"])
        context = tls_context()
        self._reader = packets.PacketReader()
        self._mid = 0
        plain = socket.create_connection((host, port), timeout=_left(until_s))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        try:
            self.send(packets.connect(name, secret, keepalive_s=KEEPALIVE_S), until_s)
            self.connack = self._read_connack(name, until_s)
        except BaseException:
            self._socket.close()
            raise

    def next_mid(self, taken: dict[int, Item]) -> int:
        """A packet id that is not among `taken`; they rise from 1 and begin again behind 65,535."""
        self._mid = self._mid % packets.MAX_MID + 1
        while self._mid in taken:
            self._mid = self._mid % packets.MAX_MID + 1
        return self._mid

    def send(self, data: bytes, until_s: float) -> None:
        """Send all of it. Raises OSError, of these TimeoutError at `until_s`."""
        left = memoryview(data)
        while left:
            self._socket.settimeout(_left(until_s))
            left = left[self._socket.send(left) :]

    def answers(self, until_s: float) -> Iterator[tuple[int, int]]:
        """(packet id, reason) of the next acknowledgements, at least the bytes of one read.

        Raises as `_exchange`.
        """
        for first, body in self._read(until_s):
            if first == packets.DISCONNECT:
                raise ConnectionError(f"it said goodbye, reason {body[0] if body else 0:#04x}")
            if first != packets.PUBACK:
                raise MqttError("broker_protocol", f"the broker sent packet {first:#04x} unasked")
            with _as_mqtt_error():
                answer = packets.read_puback(body)
            yield answer

    def close(self) -> None:
        """Say goodbye, if that is still possible, and close."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(1.0)
            self._socket.send(packets.GOODBYE)
        self._socket.close()

    def _read(self, until_s: float) -> list[tuple[int, bytes]]:
        self._socket.settimeout(_left(until_s))
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("it closed the connection")
        with _as_mqtt_error():
            return self._reader.feed(data)

    def _read_connack(self, name: str, until_s: float) -> packets.Connack:
        found: list[tuple[int, bytes]] = []
        while not found:
            found = self._read(until_s)
        if len(found) > 1 or found[0][0] != packets.CONNACK:
            raise MqttError("broker_protocol", f"the broker answered CONNECT with packet {found[0][0]:#04x}")
        with _as_mqtt_error():
            connack = packets.read_connack(found[0][1])
        if connack.reason in _BAD_LOGIN:
            raise connect_error("broker_auth", name)
        if connack.reason:
            raise ConnectionError(f"the broker refuses the connection, reason {connack.reason:#04x}")
        if not connack.is_fit:
            raise MqttError("broker_protocol", "the broker takes no retained messages at QoS 1")
        return connack


@contextlib.contextmanager
def _as_mqtt_error() -> Iterator[None]:
    try:
        yield
    except CodecError as problem:
        raise MqttError("broker_protocol", f"the broker sent what is not MQTT: {problem.text}") from problem


def _left(until_s: float) -> float:
    """Seconds until then. Raises TimeoutError when that is past: a socket takes 0 for "do not wait"."""
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the time is up")
    return left_s
