"""Uplinks by a reader of our own: one thread, no queue, no callback. See `source.Source`.

The pump's thread reads the socket itself, so back-pressure needs no code: while a batch is stored nothing is
read, and beyond Receive Maximum the broker sends nothing. What is taken and un-acknowledged is one batch and
what one read brought besides. PUBACKs of a batch leave together, in order, after its COMMIT.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from django.conf import settings

from fleet.gateway import frames, metrics
from fleet.gateway.frames import Answer, FrameError, FrameReader, Publish
from fleet.gateway.pace import Pace
from fleet.gateway.source import COMMIT_S, KEEPALIVE_S, MOST_BYTES, QUIET_S, weight
from fleet.gateway.wire import Wire
from fleet.mqtt.access import MqttError, diagnose, tls_context
from fleet.mqtt.broker_files import BackendUser
from fleet.mqtt.client import Arrived

logger = logging.getLogger(__name__)

RECEIVE_MOST: Final = 40_000
"""Messages on their way to us un-acknowledged: two full batches of one record a message, so that the next one
is there when a batch is committed."""
EXPIRY_S: Final = 7 * 86_400
STEP_S: Final = 10.0
GOODBYE_S: Final = 2.0
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 5.0
_BAD_LOGIN: Final = (0x86, 0x87)


class LeanSource:
    """Messages of some filters, in batches, over MQTT 5 and TLS. All methods but `start`, `is_ready` and
    `close` belong to the pump's thread.
    """

    def __init__(
        self,
        name: str,
        user: BackendUser,
        filters: Sequence[str],
        *,
        leave: Sequence[str] = (),
        pace: Pace | None = None,
        receive_most: int = RECEIVE_MOST,
        keepalive_s: int = KEEPALIVE_S,
    ) -> None:
        """As `paho_source.PahoSource`; the session is always kept. receive_most: 1..65,535 messages that the
        broker may have on their way to us. keepalive_s: half of it without reading ends the connection.
        """
        self.name = name
        self._user = user
        self._filters, self._leave = tuple(filters), tuple(leave)
        self._pace = pace
        self._receive_most, self._keepalive_s = receive_most, keepalive_s
        self._wire: Wire | None = None
        self._frames = FrameReader()
        self._arrived: deque[Arrived] = deque()
        self._closing = threading.Event()
        self._is_ready = False
        self._epoch = 0
        self.had_session = False  # as the broker told on the last connect
        self._told = ""
        self._retry_s, self._retry_at_s = BACKOFF_FIRST_S, 0.0
        self._read_at_s = self._sent_at_s = 0.0
        self._ping_at_s: float | None = None
        metrics.WAITING.labels(name).set_function(self._arrived.__len__)

    def start(self) -> None:
        """See `Source`; connecting is the first thing that `receive` does."""

    @property
    def is_ready(self) -> bool:
        """See `Source`."""
        return self._is_ready

    @property
    def is_away(self) -> bool:
        """True while there is no connection, ended on purpose or lost."""
        return self._wire is None

    def receive(self, max_records: int, wait_s: float) -> list[Arrived]:
        """See `Source`. A batch holds at most MOST_BYTES."""
        batch: list[Arrived] = []
        records = size = 0
        until_s = time.monotonic() + wait_s
        while True:
            is_first = not batch
            while self._arrived and records < max_records and size < MOST_BYTES:
                message = self._arrived.popleft()
                batch.append(message)
                records += weight(message.payload)
                size += len(message.payload)
            now_s = time.monotonic()
            if batch and is_first:
                until_s = now_s + COMMIT_S
            left_s = min(until_s - now_s, QUIET_S) if batch else until_s - now_s
            if records >= max_records or size >= MOST_BYTES or left_s <= 0 or self._closing.is_set():
                return batch
            # A batch in hand is handed over before a lost connection is replaced: it comes again on the next.
            is_more = self._read(left_s) if self._wire is not None else not batch and self._connect(left_s)
            if batch and not is_more:
                return batch

    def ack(self, done: Sequence[Arrived]) -> None:
        """See `Source`. All of them leave in one write."""
        mids = [one.mid for one in done if one.mid and one.epoch == self._epoch]
        if mids and self._wire is not None:
            self._send(frames.acknowledge(mids))

    def pause(self) -> None:
        """See `Source`."""
        if self._wire is not None and time.monotonic() > self._read_at_s + self._keepalive_s / 2:
            logger.info("%s leaves the broker until the database answers", self.name)
            self._end(goodbye=True)

    def resume(self) -> None:
        """See `Source`: the next `receive` reads, on a new connection when it must."""

    def close(self) -> None:
        """See `Source`. Call it when the pump has ended."""
        self._closing.set()
        self._end(goodbye=True)

    def is_empty(self, wait_s: float) -> bool:
        """True when the broker has nothing more for us: all that came is acknowledged, and it answers a ping
        without sending a message before. Call it after `receive` found nothing; waits up to `wait_s` seconds.
        """
        until_s = time.monotonic() + wait_s
        if self._wire is None or not self._is_ready:
            return False
        self._ping()
        while self._wire is not None and self._ping_at_s is not None and not self._arrived:
            if time.monotonic() > until_s:
                return False
            self._read(until_s - time.monotonic())
        return self._wire is not None and self._ping_at_s is None and not self._arrived

    def _read(self, wait_s: float) -> bool:
        """Take what comes within `wait_s` seconds; False when nothing does, or the connection is lost."""
        assert self._wire is not None
        try:
            data = self._wire.receive(wait_s)
            self._read_at_s = time.monotonic()
            if not data:
                self._keep_alive()
                return False
            self._take(self._frames.feed(data))
        except (OSError, FrameError) as error:
            self._lose(str(error))
            return False
        return True

    def _take(self, found: Iterable[Publish | Answer]) -> None:
        now_s, epoch, arrived = self._read_at_s, self._epoch, self._arrived
        judge = None if self._pace is None else self._pace.judge
        for frame in found:
            if type(frame) is Publish:
                topic, payload, mid, is_again, is_retained = frame
                # What comes again was within the pace when it came first; no device pays for our restarts.
                excess = "" if is_again or judge is None else judge(topic, now_s=now_s)
                arrived.append(Arrived(topic, payload, is_retained, mid, epoch, excess, is_again))
            elif isinstance(frame, Answer):
                self._heed(frame)

    def _heed(self, answer: Answer) -> None:
        if answer.kind == frames.PINGRESP:
            self._ping_at_s = None
        elif answer.kind == frames.CONNACK:
            if answer.code:
                code = "broker_auth" if answer.code in _BAD_LOGIN else "broker_unreachable"
                raise FrameError(f"the broker refuses {self._user.name}, reason {answer.code} ({code})")
            self.had_session = answer.is_session_present
            self._greet()
        elif answer.kind == frames.SUBACK:
            if answer.code > 2:
                logger.error("the broker refused a subscription of %s", self.name)
            self._is_ready = answer.code <= 2
        elif answer.kind == frames.DISCONNECT:
            raise FrameError(f"the broker ended the connection (reason {answer.code})")

    def _greet(self) -> None:
        if self._told or self._epoch > 1:
            logger.info("%s is connected to the broker again", self.name)
        self._told, self._retry_s = "", BACKOFF_FIRST_S
        if self._leave:
            self._send(frames.unsubscribe(1, self._leave))
        if self._filters:
            self._send(frames.subscribe(2, self._filters))
        else:
            self._is_ready = True

    def _connect(self, wait_s: float) -> bool:
        """Connect and say hello; the broker's answer is read like any frame: messages may come with it."""
        now_s = time.monotonic()
        if now_s < self._retry_at_s:
            self._closing.wait(min(wait_s, self._retry_at_s - now_s))
            return False
        self._retry_at_s = now_s + self._retry_s
        self._retry_s = min(BACKOFF_MAX_S, self._retry_s * 2)
        host, port = str(settings.MQTT["host"]), int(settings.MQTT["port"])
        try:
            self._wire = Wire(host, port, tls_context(), timeout_s=STEP_S)
        except (OSError, MqttError):
            code, text = diagnose()
            if self._told != code:
                self._told = code
                logger.warning("%s: %s (%s); trying again every few seconds", self.name, text, code)
            return False
        self._epoch += 1
        self._frames, self._ping_at_s = FrameReader(), None
        self._read_at_s = time.monotonic()
        self._send(
            frames.connect(
                self._user.name,
                self._user.secret,
                keepalive_s=self._keepalive_s,
                receive_most=self._receive_most,
                expiry_s=EXPIRY_S,
            )
        )
        return self._wire is not None

    def _keep_alive(self) -> None:
        now_s = time.monotonic()
        if self._ping_at_s is None and now_s > self._sent_at_s + self._keepalive_s / 2:
            self._ping()
        elif self._ping_at_s is not None and now_s > self._ping_at_s + self._keepalive_s / 2:
            raise ConnectionError("the broker does not answer a ping")

    def _ping(self) -> None:
        self._send(frames.PING)
        self._ping_at_s = time.monotonic()

    def _send(self, data: bytes) -> None:
        assert self._wire is not None
        try:
            self._wire.send(data)
            self._sent_at_s = time.monotonic()
        except OSError as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        if self._wire is not None:
            was_up = self._is_ready
            self._end()
            if was_up:
                logger.warning("%s lost its connection to the broker (%s); it tries again", self.name, why)
            elif self._told != why:
                self._told = why
                logger.warning("%s: %s; trying again every few seconds", self.name, why)

    def _end(self, *, goodbye: bool = False) -> None:
        """Forget the connection and what came on it un-acknowledged: it comes again on the next."""
        wire, self._wire, self._is_ready = self._wire, None, False
        self._arrived.clear()
        if wire is not None:
            try:
                if goodbye:
                    wire.send(frames.GOODBYE)
                    wire.finish(GOODBYE_S)  # else the last acknowledgements might be lost
            except OSError:
                pass
            wire.close()
