"""The backend's MQTT connections: paho over TLS, with bounded publishing, reading of retained messages and
manual acknowledgement.

The broker replaces every client id by the user name (`use_username_as_clientid`), so two processes with one
name would evict each other for ever: `take_user` leases a name that no other process on this machine holds.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import paho.mqtt.client as paho
from django.conf import settings
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fleet.mqtt import broker_files
from fleet.mqtt.access import (
    MqttError,
    connect_error,
    diagnose,
    secret_of,
    take_named,
    take_user,
    tls_context,
)
from fleet.mqtt.broker_files import BackendUser

__all__ = ["Arrived", "BackendClient", "MqttError", "take_named", "take_user"]

logger = logging.getLogger(__name__)

KEEPALIVE_S: Final = 30
RECONNECT_MAX_S: Final = 5
MAX_WINDOW: Final = 1000
_ACK_BYTES: Final = 4096  # 1,024 acknowledgements in one TLS record
_BAD_LOGIN: Final = ("Bad user name or password", "Not authorized")


class Arrived(NamedTuple):
    """A received message; a tuple, because a gateway makes thousands a second.

    epoch: number of the connection it came on; only on that one may it be acknowledged. excess: "" unless its
    sender sent more than it may (`fleet.gateway.pace`). is_again: the broker sent it before and was not
    answered.
    """

    topic: str
    payload: bytes
    is_retained: bool
    mid: int
    epoch: int
    excess: str = ""
    is_again: bool = False


Handler = Callable[[Arrived], None]


class BackendClient:
    """One connection to the broker as a backend user.

    Reconnects by itself; subscriptions are renewed on every connect.

    A context manager: leaving it closes the connection and gives back a name it leased itself.
    """

    def __init__(
        self,
        user: str | BackendUser,
        client_id: str = "",
        *,
        clean: bool = True,
        manual_ack: bool = False,
        on_message: Handler | None = None,
    ) -> None:
        """user: a leased name, a full name of the users file (`svc.gateway-0`; its owner sees to it that
        nobody else uses it), or a
        role, of which a free name is leased now. client_id: for logs only; the broker knows us by name.
        clean: False keeps the session, with its queue, while we are away. manual_ack: QoS 1 messages are
        acknowledged by `ack` alone. on_message: called on the network thread for every message; it must
        return quickly and never raise.

        Raises MqttError `users_missing`, `no_free_user`.
        """
        self._lease: BackendUser | None = None
        if isinstance(user, str) and not broker_files.is_service(user):
            user = self._lease = take_user(user)
        name, secret = (user, secret_of(user)) if isinstance(user, str) else (user.name, user.secret)
        self.name = name
        self._label = client_id or name
        self._handler = on_message
        self._filters: dict[str, int] = {}
        self._left: set[str] = set()
        self._renewal: int | None = None
        self._is_subscribed = False
        self._state = threading.Condition()
        self._is_up = False
        self._epoch = 0
        self._refusal = ""
        self._failure_logged = ""
        self._acked: set[int] = set()
        self._awaited = 0
        self._granted: dict[int, bool] = {}
        self._collected: dict[str, bytes] | None = None
        self._sentinel = b""
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=clean,
            protocol=paho.MQTTv311,
            manual_ack=manual_ack,
        )
        self._client.username_pw_set(name, secret)
        self._client.tls_set_context(tls_context())
        self._client.reconnect_delay_set(min_delay=1, max_delay=RECONNECT_MAX_S)
        self._client.max_inflight_messages_set(MAX_WINDOW)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe

    def __enter__(self) -> BackendClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_connected(self) -> bool:
        """True between CONNACK and the loss of the connection."""
        return self._is_up

    @property
    def is_subscribed(self) -> bool:
        """True once the broker has granted, on this connection, what was subscribed to before it."""
        return self._is_up and self._is_subscribed

    @property
    def epoch(self) -> int:
        """Counts connections; 0 before the first."""
        return self._epoch

    def start(self) -> None:
        """Connect in the background and try for ever; each new reason for a failure is logged once."""
        self._client.connect_async(settings.MQTT["host"], int(settings.MQTT["port"]), keepalive=KEEPALIVE_S)
        self._client.loop_start()

    def connect(self, timeout_s: float = 10.0) -> BackendClient:
        """Connect, retrying with back-off for `timeout_s`.

        Raises MqttError `broker_unreachable`, `broker_auth` or `broker_tls`, the last two at once, since
        waiting mends neither; the client is then closed.
        """
        self.start()
        deadline_s = time.monotonic() + timeout_s
        with self._state:
            while not self._is_up:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._refusal in ("broker_auth", "broker_tls"):
                    break
                self._state.wait(left_s)
            is_up, refusal = self._is_up, self._refusal
        if is_up:
            return self
        self.close()
        code = refusal if refusal in ("broker_auth", "broker_tls") else "broker_unreachable"
        raise connect_error(code, self.name, timeout_s=timeout_s)

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Subscribe now and after every reconnect; messages go to `on_message`."""
        with self._state:
            self._filters[topic_filter] = qos
            self._left.discard(topic_filter)
            is_up = self._is_up
        if is_up:
            self._client.subscribe(topic_filter, qos)

    def unsubscribe(self, topic_filter: str) -> None:
        """End a subscription, also one that a kept session still has from an earlier run."""
        with self._state:
            self._filters.pop(topic_filter, None)
            self._left.add(topic_filter)
            is_up = self._is_up
        if is_up:
            self._client.unsubscribe(topic_filter)

    def ack(self, *messages: Arrived) -> None:
        """Acknowledge QoS 1 messages of the present connection, in this order.

        Those of an earlier connection are left alone: the broker sends them again, and on a new session their
        numbers may name other messages. All acknowledgements leave in one write: Mosquitto reads one TLS
        record of a client at a time and saves its state after each, so one by one they take seconds.
        """
        if not self._is_up:
            return
        packets = b"".join(
            bytes((paho.PUBACK, 2)) + message.mid.to_bytes(2, "big")
            for message in messages
            if message.mid and message.epoch == self._epoch
        )
        for start in range(0, len(packets), _ACK_BYTES):
            self._client._packet_queue(paho.PUBACK, packets[start : start + _ACK_BYTES], 0, 1)

    def publish_all(
        self,
        items: Iterable[tuple[str, bytes]],
        *,
        retain: bool = True,
        qos: int = 1,
        deadline_s: float,
        window: int = 200,
    ) -> int:
        """Publish in order with at most `window` unacknowledged, and wait for the last acknowledgement;
        returns their number.

        A reconnect in between sends again what was not acknowledged. deadline_s: seconds from now for all of
        it. Raises MqttError `publish_timeout`, whose `acknowledged` counts the items, from the first, that
        are safe. One caller at a time.
        """
        until_s = time.monotonic() + deadline_s
        done = 0
        most = min(window, MAX_WINDOW)
        pending: deque[int] = deque()
        with self._state:
            self._acked.clear()
        for topic, payload in items:
            if len(pending) >= most:  # half of them at once: each wait costs two changes of thread
                done = self._await_acks(pending, max(1, most // 2), until_s, done, topic)
            info = self._client.publish(topic, payload, qos=qos, retain=retain)
            pending.append(info.mid)
        return self._await_acks(pending, len(pending), until_s, done, "the last topics")

    def _await_acks(self, pending: deque[int], count: int, until_s: float, done: int, what: str) -> int:
        """Wait for the first `count` of `pending`, the last of them first, and take them out; returns `done`
        and them.
        """
        first = [pending[n] for n in range(count)]
        with self._state:
            for mid in reversed(first):
                self._awaited = mid
                while mid not in self._acked:
                    left_s = until_s - time.monotonic()
                    if left_s <= 0:
                        safe = done + next(n for n, one in enumerate(first) if one not in self._acked)
                        raise MqttError(
                            "publish_timeout",
                            f"the broker acknowledged {safe:,} publishes in time, none further before {what}",
                            acknowledged=safe,
                        )
                    self._state.wait(left_s)
            self._acked.difference_update(first)
        for _ in first:
            pending.popleft()
        return done + count

    def read_retained(self, topic_filter: str, *, expect: int | None, timeout_s: float) -> dict[str, bytes]:
        """The retained messages below `topic_filter`, by topic.

        expect: return as soon as that many came; None: everything the broker holds now. Fewer than expected
        is no error: the caller sees what is missing. A message of our own, sent behind the subscription,
        comes back behind the last retained one and ends the reading. Raises MqttError `read_timeout` when
        that does not happen in `timeout_s`. One caller at a time.
        """
        until_s = time.monotonic() + timeout_s
        echo = f"f1/svc/{self.name}/echo"
        nonce = secrets.token_bytes(16)
        with self._state:
            self._collected, self._sentinel = {}, nonce
        try:
            self._subscribe_and_wait([(echo, 0), (topic_filter, 0)], until_s)
            self._client.publish(echo, nonce, qos=0, retain=False)
            with self._state:
                while self._sentinel and not (expect is not None and len(self._collected) >= expect):
                    left_s = until_s - time.monotonic()
                    if left_s <= 0 or not self._is_up:
                        raise MqttError(
                            "read_timeout",
                            f"the broker sent {len(self._collected):,} retained messages of {topic_filter} "
                            f"in {timeout_s:.0f} s and no end of them",
                        )
                    self._state.wait(left_s)
                return self._collected
        finally:
            with self._state:
                self._collected, self._sentinel = None, b""
            self._client.unsubscribe([topic_filter, echo])

    def _subscribe_and_wait(self, filters: Sequence[tuple[str, int]], until_s: float) -> None:
        result, mid = self._client.subscribe(list(filters))
        with self._state:
            while result == paho.MQTT_ERR_SUCCESS and mid is not None and mid not in self._granted:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not self._is_up:
                    raise MqttError("read_timeout", "the broker did not answer a subscription in time")
                self._state.wait(left_s)
            if mid is None or not self._granted.pop(mid, False):
                raise MqttError("broker_unreachable", "not connected, or the broker refused a subscription")

    def leave(self) -> None:
        """End the connection on purpose and stay away until `restart`. May be called on the network thread;
        messages that it still brings are not to be acknowledged any more.
        """
        logger.info("%s leaves the broker until it can take messages again", self._label)
        self._client.disconnect()

    def restart(self) -> None:
        """Connect again after `leave`."""
        self._client.loop_stop()
        self.start()

    def close(self) -> None:
        """Say goodbye to the broker, end the network thread, give a leased name back. Safe to call twice."""
        self._client.disconnect()
        self._client.loop_stop()
        self._is_up = False
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    # Callbacks run on paho's network thread.

    def _on_connect(
        self, client: paho.Client, _data: Any, flags: Any, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            text = str(reason)
            code = "broker_auth" if text in _BAD_LOGIN else "broker_unreachable"
            self._failed(code, f"the broker refuses {self.name}: {text}")
            return
        with self._state:
            self._is_up = True
            self._epoch += 1
            self._refusal = ""
            filters, left = list(self._filters.items()), list(self._left)
            self._state.notify_all()
        if self._failure_logged or self._epoch > 1:
            logger.info("%s is connected to the broker again", self._label)
        self._failure_logged = ""
        if left:
            client.unsubscribe(left)
        if filters:
            self._renewal = client.subscribe(filters)[1]
        else:
            self._is_subscribed = True

    def _on_connect_fail(self, _client: paho.Client, _data: Any) -> None:
        # paho reports that connecting failed and not why: look once more, by hand.
        code, text = diagnose()
        self._failed(code, text)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _data: Any,
        _flags: Any,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        with self._state:
            was_up, self._is_up = self._is_up, False
            self._renewal, self._is_subscribed = None, False
            self._state.notify_all()
        if was_up and reason.is_failure:
            logger.warning("%s lost its connection to the broker (%s); it tries again", self._label, reason)

    def _failed(self, code: str, text: str) -> None:
        with self._state:
            self._refusal = code
            self._state.notify_all()
        if self._failure_logged != code:
            self._failure_logged = code
            logger.warning("%s: %s (%s); trying again every few seconds", self._label, text, code)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        with self._state:
            if self._sentinel and message.payload == self._sentinel:
                self._sentinel = b""
                self._state.notify_all()
                return
            if self._collected is not None and message.retain:
                self._collected[message.topic] = bytes(message.payload)
                self._state.notify_all()
                if self._handler is None:
                    return
        if self._handler is not None:
            mid = message.mid if message.qos else 0
            self._handler(
                Arrived(
                    message.topic,
                    bytes(message.payload),
                    bool(message.retain),
                    mid,
                    self._epoch,
                    is_again=bool(message.dup),
                )
            )

    def _on_publish(
        self, _client: paho.Client, _data: Any, mid: int, _reason: ReasonCode, _properties: Properties
    ) -> None:
        with self._state:
            self._acked.add(mid)
            if mid == self._awaited:
                self._state.notify_all()

    def _on_subscribe(
        self,
        _client: paho.Client,
        _data: Any,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        is_granted = not any(reason.is_failure for reason in reasons)
        if not is_granted:
            logger.error("the broker refused a subscription of %s", self._label)
        with self._state:
            if mid == self._renewal:
                self._is_subscribed = is_granted
            else:
                self._granted[mid] = is_granted
            self._state.notify_all()
