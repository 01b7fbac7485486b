"""Where uplinks come from:

a broker session whose messages stay un-acknowledged until their transaction has committed.
"""

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fleet.gateway import metrics
from fleet.gateway.pace import Pace
from fleet.mqtt.broker_files import BackendUser
from fleet.mqtt.client import Arrived, BackendClient

CAPACITY: Final = 8192
GATHER_S: Final = 0.1
QUIET_S: Final = 0.01
"""A batch also ends when nothing has come for this long. The broker has at most `max_inflight_messages` (200)
un-acknowledged with us: waiting out GATHER_S for more than those capped a gateway at 2,000 messages/s."""


class Source:
    """Messages of some filters, in batches.

    A full queue blocks the network thread: the socket is not read, the broker keeps what is left, and if that
    lasts longer than its keep-alive it ends the connection and sends everything un-acknowledged again.
    """

    def __init__(
        self,
        name: str,
        user: BackendUser,
        filters: Sequence[str],
        *,
        clean: bool,
        leave: Sequence[str] = (),
        capacity: int = CAPACITY,
        pace: Pace | None = None,
    ) -> None:
        """name:

        for logs and metrics. clean: False keeps session and queue at the broker while we are away. pace: what
        a device may send; what is beyond is marked here, once, because a batch may be handled several times.
        """
        self.name = name
        self._pace = pace
        self._queue: queue.Queue[Arrived] = queue.Queue(capacity)
        self._is_closing = threading.Event()
        self._client = BackendClient(user, name, clean=clean, manual_ack=True, on_message=self._put)
        for topic_filter in leave:
            self._client.unsubscribe(topic_filter)
        for topic_filter in filters:
            self._client.subscribe(topic_filter)
        metrics.WAITING.labels(name).set_function(self._queue.qsize)

    def start(self) -> None:
        """Connect in the background, now and whenever the connection is lost."""
        self._client.start()

    @property
    def is_ready(self) -> bool:
        """True while the broker has us and our subscriptions."""
        return self._client.is_subscribed

    def receive(self, most: int, *, wait_s: float) -> list[Arrived]:
        """The next batch:

        up to `most` messages that come within GATHER_S of the first and QUIET_S of one another; empty after
        `wait_s`.
        """
        try:
            batch = [self._queue.get(timeout=wait_s)]
        except queue.Empty:
            return []
        until_s = time.monotonic() + GATHER_S
        while len(batch) < most:
            try:
                left_s = until_s - time.monotonic()
                batch.append(self._queue.get(timeout=max(0.0, min(QUIET_S, left_s))))
            except queue.Empty:
                break
        return batch

    def ack(self, done: Sequence[Arrived]) -> None:
        """Acknowledge committed messages, in the order they came."""
        self._client.ack(*done)

    def close(self) -> None:
        """Disconnect. What was not acknowledged comes again to the next holder of this session."""
        self._is_closing.set()
        self._client.close()

    def _put(self, message: Arrived) -> None:
        # What comes again was within the pace when it came first; a device does not pay for our restarts.
        if self._pace is not None and not message.is_again:
            excess = self._pace.judge(message.topic, now_s=time.monotonic())
            if excess:
                message = replace(message, excess=excess)
        while not self._is_closing.is_set():
            try:
                self._queue.put(message, timeout=0.2)
                return
            except queue.Full:
                continue
