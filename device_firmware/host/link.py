"""One TLS connection to the broker for a virtual device: paho-mqtt, driven from the device's own loop."""

import contextlib
import random
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from device_firmware.host.identity import Identity

OFFLINE = b"\xa1\x00\x00"
KEEPALIVE_S = 30
CONNECT_S = 3.0  # TCP and TLS may each take so long; both together stay below the supervisor's patience
PAUSE_MAX_S = 10.0


class LinkEvents(Protocol):
    """What a connection tells its owner, always from inside `Link.turn`."""

    def link_up(self, fresh: bool) -> None:
        """Connected; fresh when the broker held no session, or may have lost what it acknowledged."""

    def link_down(self, why: str) -> None:
        """The connection is lost, or the first of several tries to make one failed."""

    def link_message(self, topic: str, payload: bytes) -> None:
        """A message arrived."""

    def link_sent(self, token: int) -> None:
        """A QoS 1 publish was acknowledged."""


class Link:
    """MQTT 3.1.1 with a kept session: QoS 1 publishes that a lost connection left unacknowledged are sent
    again by paho.

    After a connection that broke the core also re-sends its telemetry ring: measured, a broker killed with
    everything saved on change still forgot one acknowledged batch in 8,000, and kept the session.

    paho may call back in the middle of a publish, when the core is busy making it; what it says is kept and
    told at the end of the turn, so that the core is never entered twice.
    """

    def __init__(self, identity: Identity, owner: LinkEvents, *, jitter: random.Random) -> None:
        self.is_up = False
        self._identity = identity
        self._owner = owner
        self._jitter = jitter
        self._base = f"f1/dev/{identity.device_id}"
        self._told: deque[Callable[[], None]] = deque()
        self._pause_s = 0.5
        self._connect_at = time.monotonic() + jitter.random() * 0.5
        self._has_failed = False
        self._has_radio = True
        self._is_dropping = False  # the next disconnection is our own wish
        self._has_broken = False  # the last connection ended otherwise
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=identity.device_id,
            clean_session=False,
            protocol=mqtt.MQTTv311,
        )
        client.username_pw_set(identity.broker_user, identity.broker_secret)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=identity.broker_ca)
        client.tls_set_context(context)
        client.will_set(f"{self._base}/online", OFFLINE, qos=1, retain=True)
        client.max_inflight_messages_set(20)
        client.max_queued_messages_set(64)
        client.connect_timeout = CONNECT_S
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_message = self._arrived
        self._client = client

    def turn(self, wait_s: float, control: socket.socket) -> bool:
        """Wait at most `wait_s` for the broker or for `control`, then send, receive and tell the owner.

        Connects when it is time to, which may take a few seconds. True when `control` can be read.
        """
        sock = self._client.socket()
        now = time.monotonic()
        if sock is None and now >= self._connect_at and self._has_radio:
            self._connect()
            sock, wait_s = self._client.socket(), 0.0
        if sock is None:
            if self._has_radio:
                wait_s = max(0.0, min(wait_s, self._connect_at - now))
            readable = bool(select.select([control], [], [], wait_s)[0])
        else:
            readable = self._exchange(cast(socket.socket, sock), wait_s, control)
        while self._told:
            self._told.popleft()()
        return readable

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        """Enqueue a publish; a token > 0, or None when 64 are queued or there is no connection."""
        if not self.is_up:
            return None
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        return int(info.mid) if info.rc == mqtt.MQTT_ERR_SUCCESS else None

    def watch(self, topic_filter: str, qos: int) -> None:
        """SUBSCRIBE: retained messages come (again)."""
        self._client.subscribe(topic_filter, qos)

    def unwatch(self, topic_filter: str) -> None:
        """UNSUBSCRIBE."""
        self._client.unsubscribe(topic_filter)

    def drop(self) -> None:
        """Close the connection in order; the session stays at the broker. A new one follows at once."""
        if self._client.socket() is None:
            return
        self._client.publish(f"{self._base}/online", OFFLINE, qos=1, retain=True)
        self._is_dropping = True
        self._client.disconnect()
        self._connect_at = time.monotonic()

    def radio(self, is_on: bool) -> bool:
        """Switch the radio. True when that changed anything; off breaks the connection without a word."""
        if is_on == self._has_radio:
            return False
        self._has_radio = is_on
        sock = self._client.socket()
        if not is_on and sock is not None:
            with contextlib.suppress(OSError):
                cast(socket.socket, sock).shutdown(socket.SHUT_RDWR)
        if is_on:
            self._connect_at = time.monotonic()
        return True

    def _connect(self) -> None:
        broker = self._identity
        try:
            self._client.connect(broker.broker_host, broker.broker_port, keepalive=KEEPALIVE_S)
        except OSError as error:
            self._fail(f"{type(error).__name__}: {error}")

    def _exchange(self, sock: socket.socket, wait_s: float, control: socket.socket) -> bool:
        client = self._client
        has_more = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        writing = [sock] if client.want_write() else []
        readable, writable, _ = select.select([sock, control], writing, [], 0 if has_more else wait_s)
        rc = mqtt.MQTT_ERR_SUCCESS
        if sock in readable or has_more:
            rc = client.loop_read()
        if writable and not rc:
            rc = client.loop_write()
        if not rc:
            client.loop_misc()
        return control in readable

    def _fail(self, why: str) -> None:
        """Plan the next try; the pause doubles until a connection is accepted."""
        self._connect_at = time.monotonic() + self._pause_s * (0.5 + self._jitter.random())
        self._pause_s = min(PAUSE_MAX_S, self._pause_s * 2)
        if not self._has_failed:
            self._has_failed = True
            self._told.append(lambda: self._owner.link_down(why))

    def _connected(
        self, _c: mqtt.Client, _u: object, flags: mqtt.ConnectFlags, reason: ReasonCode, _p: object
    ) -> None:
        if reason.is_failure:
            return  # the broker closes: `_disconnected` follows
        self.is_up, self._has_failed, self._pause_s = True, False, 0.5
        # A connection that broke may mean a broker that died with messages it had acknowledged and not saved.
        fresh = not flags.session_present or self._has_broken
        self._has_broken = False
        self._told.append(lambda: self._owner.link_up(fresh))

    def _disconnected(self, _c: mqtt.Client, _u: object, _f: object, reason: ReasonCode, _p: object) -> None:
        if self.is_up:
            self.is_up = False
            self._has_broken = self._has_broken or not self._is_dropping
            self._is_dropping = False
            self._connect_at = time.monotonic() + self._pause_s * (0.5 + self._jitter.random())
            self._told.append(lambda: self._owner.link_down(str(reason)))
        else:
            self._fail(str(reason))

    def _published(self, _c: mqtt.Client, _u: object, mid: int, _r: object, _p: object) -> None:
        self._told.append(lambda: self._owner.link_sent(mid))

    def _arrived(self, _c: mqtt.Client, _u: object, message: mqtt.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        self._told.append(lambda: self._owner.link_message(topic, payload))
