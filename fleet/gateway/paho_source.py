"""Uplinks by paho: its network thread fills a bounded queue, a pump empties it. See `source.Source`."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from fleet.gateway import metrics
from fleet.gateway.pace import Pace
from fleet.gateway.source import COMMIT_S, MOST_BYTES, MOST_RECORDS, QUIET_S, weight
from fleet.mqtt.broker_files import BackendUser
from fleet.mqtt.client import KEEPALIVE_S, Arrived, BackendClient

_WAIT_S = 0.2


class PahoSource:
    """Messages of some filters, in batches.

    Beyond MOST_RECORDS or MOST_BYTES un-acknowledged, and while paused, the network thread is blocked: the
    socket is not read and the broker keeps what is left. paho pings from that same thread, so after half its
    keep-alive the connection is ended on purpose; what is un-acknowledged stays here, and the next `ack` or
    `resume` connects again.
    """

    def __init__(
        self,
        name: str,
        user: BackendUser,
        filters: Sequence[str],
        *,
        clean: bool,
        leave: Sequence[str] = (),
        pace: Pace | None = None,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
        patience_s: float = KEEPALIVE_S / 2,
    ) -> None:
        """name: for logs and metrics. clean: False keeps session and queue at the broker while we are away.
        leave: filters that an earlier run may have left in the session. pace: what a device may send; what is
        beyond is marked here, once, because a batch may be handled several times. most_records, most_bytes:
        un-acknowledged at a time. patience_s: seconds without reading before the connection is ended.
        """
        self.name = name
        self._pace = pace
        self._most = most_records, most_bytes
        self._patience_s = patience_s
        self._change = threading.Condition()
        self._queue: deque[Arrived] = deque()
        self._records = self._bytes = 0  # queued or handed out, and not acknowledged
        self._is_closing = self._is_paused = self._is_away = False
        self._client = BackendClient(user, name, clean=clean, manual_ack=True, on_message=self._put)
        for topic_filter in leave:
            self._client.unsubscribe(topic_filter)
        for topic_filter in filters:
            self._client.subscribe(topic_filter)
        metrics.WAITING.labels(name).set_function(self._queue.__len__)

    def start(self) -> None:
        """See `Source`."""
        self._client.start()

    @property
    def is_ready(self) -> bool:
        """See `Source`."""
        return self._client.is_subscribed

    @property
    def is_away(self) -> bool:
        """True while the connection is ended on purpose, because nothing can be taken."""
        return self._is_away

    def receive(self, max_records: int, wait_s: float) -> list[Arrived]:
        """See `Source`."""
        batch: list[Arrived] = []
        records = 0
        until_s = time.monotonic() + wait_s
        with self._change:
            while records < max_records:
                if self._queue:
                    if not batch:
                        until_s = time.monotonic() + COMMIT_S
                    batch.append(self._queue.popleft())
                    records += weight(batch[-1].payload)
                    continue
                left_s = until_s - time.monotonic()
                if batch:
                    left_s = min(left_s, QUIET_S)
                if left_s <= 0 or (not self._change.wait_for(lambda: self._queue, left_s)):
                    break
        return batch

    def ack(self, done: Sequence[Arrived]) -> None:
        """See `Source`."""
        self._client.ack(*done)
        with self._change:
            self._records -= sum(weight(one.payload) for one in done)
            self._bytes -= sum(len(one.payload) for one in done)
            self._change.notify_all()
        self._come_back()

    def pause(self) -> None:
        """See `Source`."""
        self._is_paused = True

    def resume(self) -> None:
        """See `Source`."""
        with self._change:
            self._is_paused = False
            self._change.notify_all()
        self._come_back()

    def close(self) -> None:
        """See `Source`."""
        with self._change:
            self._is_closing = True
            self._change.notify_all()
        self._client.close()

    def _has_room(self) -> bool:
        most_records, most_bytes = self._most
        return not self._is_paused and self._records < most_records and self._bytes < most_bytes

    def _come_back(self) -> None:
        with self._change:
            is_due = self._is_away and self._has_room() and not self._is_closing
            if is_due:
                self._is_away = False
        if is_due:
            self._client.restart()

    def _put(self, message: Arrived) -> None:
        """On paho's thread."""
        # What comes again was within the pace when it came first; a device does not pay for our restarts.
        if self._pace is not None and not message.is_again:
            excess = self._pace.judge(message.topic, now_s=time.monotonic())
            if excess:
                message = message._replace(excess=excess)
        until_s = time.monotonic() + self._patience_s
        with self._change:
            while not self._has_room():
                if self._is_closing or self._is_away:
                    return  # un-acknowledged: it comes again
                if time.monotonic() > until_s:
                    self._is_away = True
                    self._client.leave()
                    return
                self._change.wait(_WAIT_S)
            if self._is_away:
                return
            self._queue.append(message)
            self._records += weight(message.payload)
            self._bytes += len(message.payload)
            self._change.notify_all()
