"""One device's credentials against the real broker: it speaks as itself and as nobody else.

The attacker knows its own name and password and the broker's authority, and sends what it likes. After each
attempt a listener of the backend has seen nothing of it, and both devices still work.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.mqtt import broker_files
from fleet.stack import mosquitto
from fleet.stack.paths import RunDir
from fleet.stack.ports import LOOPBACK
from fleet.stack.tls import ensure_tls
from tests.stack.services import Broker, Client, private_mosquitto, wait_until
from tests.stack.wire import ACCEPTED, NOT_AUTHORISED, PUBACK, PUBLISH, Will, packet, text, wire

THIEF, VICTIM, TEST = "dev-thief", "dev-victim", "svc.test-0"
SECRET = {THIEF: "t" * 64, VICTIM: "v" * 64}
MID = "0123456789abcdef"
UPLINKS = ("reported", "telemetry", "event", "online")
FOREIGN = [
    *(f"f1/dev/{VICTIM}/{kind}" for kind in (*UPLINKS, "desired", "cmd")),
    f"f1/dev/{THIEF}/desired",
    f"f1/dev/{THIEF}/cmd",
    f"f1/dev/{THIEF}/reported/more",
    f"f1/dev/{THIEF}",
    f"f1/dev/{THIEF}x/event",
    f"f1/dev//{THIEF}/event",
    f"/f1/dev/{THIEF}/event",
    "f1/trust",
    "f1/trust/9",
    f"f1/model/{MID}/manifest",
    f"f1/model/{MID}/leaves",
    f"f1/model/{MID}/0/0",
    f"f1/model/{MID}/blob",
    "f1/svc/gateway",
    "$SYS/broker/uptime",
    f"$share/ingest/f1/dev/{THIEF}/event",
]
FILTERS = [
    "#",
    "+/#",
    "f1/#",
    "f1/dev/#",
    "f1/dev/+/desired",
    "f1/dev/+/reported",
    f"f1/dev/{VICTIM}/#",
    f"f1/dev/{VICTIM}/cmd",
    "+/+/+/+",
    "$SYS/#",
    f"$share/ingest/f1/dev/{VICTIM}/desired",
    "$share/ingest/f1/dev/+/telemetry",
    "$share/ingest/#",
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with the generated files, and two devices in it."""
    with private_mosquitto(tmp_path_factory.mktemp("broker")) as running:
        for device_id, secret in SECRET.items():
            running.add_device(device_id, secret)
        yield running


@pytest.fixture
def backend(broker: Broker) -> Iterator[Client]:
    """A listener that may read everything; what earlier tests left retained is cleared first."""
    with Client(broker, TEST, broker.secret(TEST)) as client:
        client.subscribe("f1/#")
        client.publish("f1/svc/first", b"x")
        wait_until(lambda: "f1/svc/first" in client.topics(), what="the end of what is retained")
        for topic in {topic for topic, payload in client.messages if payload}:
            client.publish(topic, b"", retain=True)
        client.publish("f1/svc/cleared", b"x")
        wait_until(lambda: "f1/svc/cleared" in client.topics(), what="the end of the clearing")
        client.messages.clear()
        yield client


@pytest.fixture(autouse=True)
def _both_devices_still_work(backend: Client, broker: Broker) -> Iterator[None]:
    yield
    for name in (VICTIM, THIEF):
        with Client(broker, name, SECRET[name]) as device:
            device.subscribe(f"f1/dev/{name}/desired")
            backend.publish(f"f1/dev/{name}/desired", b"still served")
            device.publish(f"f1/dev/{name}/event", b"still heard")
            heard, served = (
                (f"f1/dev/{name}/event", b"still heard"),
                (f"f1/dev/{name}/desired", b"still served"),
            )
            wait_until(lambda: heard in backend.messages, what=f"{name} to be heard")  # noqa: B023
            wait_until(lambda: served in device.messages, what=f"{name} to be served")  # noqa: B023


def thief(broker: Broker, **options: str) -> Client:
    """The attacker, connected by a common client library."""
    return Client(broker, THIEF, SECRET[THIEF], **options)


def victim(broker: Broker) -> Client:
    """The device that is attacked."""
    return Client(broker, VICTIM, SECRET[VICTIM])


def fence(client: Client, backend: Client) -> None:
    """Return once everything that `client` published before has come to the backend, or never will."""
    client.publish(f"f1/dev/{THIEF}/event", b"fence")
    wait_until(lambda: (f"f1/dev/{THIEF}/event", b"fence") in backend.messages, what="the fence")


@pytest.mark.parametrize("topic_filter", FILTERS)
def test_no_filter_delivers_what_belongs_to_others(
    broker: Broker, backend: Client, topic_filter: str
) -> None:
    with thief(broker) as attacker, victim(broker) as other:
        attacker.subscribe(topic_filter)
        attacker.subscribe(f"f1/dev/{THIEF}/desired")
        for kind in ("desired", "cmd"):
            backend.publish(f"f1/dev/{VICTIM}/{kind}", b"private", retain=True)
        for kind in UPLINKS:
            other.publish(f"f1/dev/{VICTIM}/{kind}", b"private", retain=kind == "reported")
        attacker.subscribe(topic_filter)  # once more: what is retained by now
        wait_until(
            lambda: (f"f1/dev/{VICTIM}/online", b"private") in backend.messages, what="the backend's copy"
        )
        backend.publish(f"f1/dev/{THIEF}/desired", b"fence")
        wait_until(lambda: (f"f1/dev/{THIEF}/desired", b"fence") in attacker.messages, what="the fence")
        assert {topic for topic in attacker.topics() if THIEF not in topic} == set()


def test_a_guessed_shared_group_takes_nothing_from_the_backend(broker: Broker, backend: Client) -> None:
    with Client(broker, "svc.test-1", broker.secret("svc.test-1")) as gateway, thief(broker) as attacker:
        gateway.subscribe("$share/00112233445566778899aabbccddeeff/f1/dev/+/telemetry")
        for group in ("ingest", "gateway", "telemetry", "0", "00112233445566778899aabbccddeefe"):
            attacker.subscribe(f"$share/{group}/f1/dev/+/telemetry")
        sent = [f"{i}".encode() for i in range(40)]
        with victim(broker) as other:
            for payload in sent:
                other.publish(f"f1/dev/{VICTIM}/telemetry", payload)
        wait_until(lambda: len(gateway.messages) >= len(sent), what="the gateway's share: all of it")
        assert [payload for _, payload in gateway.messages] == sent
        assert attacker.messages == []


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_nothing_it_writes_outside_its_four_topics_is_delivered_or_kept(
    broker: Broker, backend: Client, qos: int
) -> None:
    for topic in FOREIGN:
        with wire(broker) as raw:
            assert raw.connect(THIEF, SECRET[THIEF])[0] == ACCEPTED
            for retain in (False, True):
                raw.publish(topic, b"forged", qos=qos, retain=retain)
            raw.is_ended()  # everything before was dealt with
    with thief(broker) as attacker:
        fence(attacker, backend)
    assert backend.topics() == [f"f1/dev/{THIEF}/event"]
    with Client(broker, "svc.test-1", broker.secret("svc.test-1")) as late:
        late.subscribe("#")
        late.publish("f1/svc/end", b"x")
        wait_until(lambda: late.messages, what="the end of what is retained")
        assert late.topics() == ["f1/svc/end"]


@pytest.mark.parametrize(
    "topic", [b"f1/dev/+/event", b"f1/#", b"", b"f1/dev/\xff\xfe/event", b"f1/dev/a\0b/event"]
)
def test_a_topic_that_is_none_ends_the_connection(broker: Broker, backend: Client, topic: bytes) -> None:
    with wire(broker) as raw:
        assert raw.connect(THIEF, SECRET[THIEF])[0] == ACCEPTED
        raw.publish(topic, b"forged")
        assert raw.is_ended()
    assert backend.messages == []


def test_another_client_id_is_still_the_same_client(broker: Broker, backend: Client) -> None:
    with victim(broker) as other:
        for client_id in (VICTIM, "svc.gateway-0", "svc.test-0", "", "#", "x" * 1000):
            with wire(broker) as raw:
                assert raw.connect(THIEF, SECRET[THIEF], client_id=client_id) == (ACCEPTED, False)
                raw.publish(f"f1/dev/{VICTIM}/event", b"forged")
                assert not raw.is_ended()
        other.publish(f"f1/dev/{VICTIM}/event", b"own")
        assert other.is_connected
        assert backend.is_connected
        wait_until(lambda: backend.messages, what="the victim's own event")
    assert backend.messages == [(f"f1/dev/{VICTIM}/event", b"own")]


def test_the_session_of_another_device_cannot_be_taken_with_what_waits_in_it(
    broker: Broker, backend: Client
) -> None:
    desired = f"f1/dev/{VICTIM}/desired"
    with wire(broker) as own:
        assert own.connect(VICTIM, SECRET[VICTIM], client_id="own", clean=False)[0] == ACCEPTED
        own.send(packet(0x82, b"\0\2" + text(desired) + b"\1"))
        assert not own.is_ended()
    backend.publish(desired, b"for the victim")
    with wire(broker) as raw:
        code, is_present = raw.connect(THIEF, SECRET[THIEF], client_id=VICTIM, clean=False)
        assert (code, is_present) == (ACCEPTED, False)
        raw.send(b"\xc0\x00")
        answer = raw.receive()
        assert answer is not None
        assert answer[0] == 0xD0, "nothing was delivered before the answer to a ping"
    with wire(broker) as own:
        assert own.connect(VICTIM, SECRET[VICTIM], client_id="own", clean=False) == (ACCEPTED, True)
        answer = own.receive()
        assert answer is not None
        assert (answer[0], answer[1].endswith(b"for the victim")) == (PUBLISH, True)
        own.send(packet(PUBACK, answer[1][2 + len(desired) : 4 + len(desired)]))
    with wire(broker) as own:
        own.connect(VICTIM, SECRET[VICTIM])  # clean again


@pytest.mark.parametrize(
    ("user", "secret"),
    [
        (VICTIM, SECRET[THIEF]),
        (THIEF, SECRET[VICTIM]),
        (THIEF, ""),
        (TEST, SECRET[THIEF]),
        ("+", SECRET[THIEF]),
        ("#", SECRET[THIEF]),
        (f"{THIEF}/../{VICTIM}", SECRET[THIEF]),
        (THIEF.upper(), SECRET[THIEF]),
        (f"{THIEF}:", SECRET[THIEF]),
        ("", ""),
    ],
)
def test_a_name_that_is_not_its_own_is_refused(broker: Broker, user: str, secret: str) -> None:
    with victim(broker) as other:
        with wire(broker) as raw:
            assert raw.connect(user, secret, client_id=VICTIM)[0] in (NOT_AUTHORISED, 4, -1)
        other.publish(f"f1/dev/{VICTIM}/event", b"still connected")
        assert other.is_connected


def test_a_connection_without_a_name_is_refused(broker: Broker) -> None:
    with wire(broker) as raw:
        raw.send(packet(0x10, text("MQTT") + bytes([4, 2]) + b"\0\x3c" + text(VICTIM)))
        answer = raw.receive()
    assert answer is None or answer[1][1] == NOT_AUTHORISED


@pytest.mark.parametrize("topic", [*FOREIGN, "f1/dev/+/event"])
def test_a_will_on_a_topic_that_is_not_its_own_is_never_published(
    broker: Broker, backend: Client, topic: str
) -> None:
    with wire(broker, abrupt=True) as raw:
        raw.connect(THIEF, SECRET[THIEF], will=Will(topic, b"forged"))
    with wire(broker, abrupt=True) as raw:  # its own will is the fence: this connection died later
        assert raw.connect(THIEF, SECRET[THIEF], will=Will(f"f1/dev/{THIEF}/online", b"own"))[0] == ACCEPTED
    wait_until(lambda: (f"f1/dev/{THIEF}/online", b"own") in backend.messages, what="its own will")
    assert backend.topics() == [f"f1/dev/{THIEF}/online"]


def test_a_will_larger_than_a_message_may_be_is_never_published(broker: Broker, backend: Client) -> None:
    topic = f"f1/dev/{THIEF}/online"
    for size in (16_385, 60_000):
        with wire(broker, abrupt=True) as raw:
            raw.connect(THIEF, SECRET[THIEF], will=Will(topic, bytes(size)))
    with wire(broker, abrupt=True) as raw:
        assert raw.connect(THIEF, SECRET[THIEF], will=Will(topic, b"own"))[0] == ACCEPTED
    wait_until(lambda: backend.messages, what="its own will")
    assert [(topic, len(payload)) for topic, payload in backend.messages] == [(topic, 3)]


def test_a_flood_of_retained_messages_leaves_one_for_each_of_its_four_topics(
    broker: Broker, backend: Client
) -> None:
    with wire(broker) as raw:
        assert raw.connect(THIEF, SECRET[THIEF])[0] == ACCEPTED
        for i in range(300):
            raw.publish(f"f1/dev/{THIEF}/reported/{i}", bytes(1_000), qos=0, retain=True)
            raw.publish(f"f1/model/{i:016x}/0/0", bytes(1_000), qos=0, retain=True)
            for kind in UPLINKS:
                raw.publish(f"f1/dev/{THIEF}/{kind}", f"{i}".encode(), qos=0, retain=True)
        assert not raw.is_ended()
    with thief(broker) as attacker:
        fence(attacker, backend)
    with Client(broker, "svc.test-1", broker.secret("svc.test-1")) as late:
        late.subscribe("f1/#")
        late.publish("f1/svc/end", b"x")
        wait_until(lambda: "f1/svc/end" in late.topics(), what="the end of what is retained")
        assert sorted(late.messages[:-1]) == sorted((f"f1/dev/{THIEF}/{kind}", b"299") for kind in UPLINKS)


@pytest.mark.parametrize("claimed", [65_537, 1 << 20, (1 << 28) - 1])
def test_a_packet_over_the_limit_ends_the_connection_before_it_is_read(
    broker: Broker, backend: Client, claimed: int
) -> None:
    with wire(broker) as raw:
        assert raw.connect(THIEF, SECRET[THIEF])[0] == ACCEPTED
        body = text(f"f1/dev/{THIEF}/event") + b"\0\1" + bytes(1_000)
        raw.send(packet(PUBLISH | 2, body, claimed=claimed))
        assert raw.receive() is None
    assert backend.messages == []


@pytest.mark.parametrize(
    "raw_bytes", [b"\x30\xff\xff\xff\xff\xff", b"\x36\x05\x00\x03a/b", b"\xf0\x00", b"\x00\x00"]
)
def test_a_packet_that_is_none_ends_the_connection(broker: Broker, backend: Client, raw_bytes: bytes) -> None:
    with wire(broker) as raw:
        assert raw.connect(THIEF, SECRET[THIEF])[0] == ACCEPTED
        raw.send(raw_bytes)
        assert raw.is_ended()
    assert backend.messages == []


def test_a_rotated_password_ends_the_session_that_the_old_one_opened(broker: Broker, backend: Client) -> None:
    name, old, new = "dev-rotated", "o" * 64, "n" * 64
    broker.add_device(name, old)
    with Client(broker, name, old) as device:
        broker.add_device(name, new)
        wait_until(lambda: not device.is_connected, what="the session of the old password to end")
    with wire(broker) as raw:
        assert raw.connect(name, old)[0] == NOT_AUTHORISED
    with Client(broker, name, new) as device:
        device.publish(f"f1/dev/{name}/event", b"new")
        wait_until(lambda: backend.messages, what="the event under the new password")
    assert backend.messages == [(f"f1/dev/{name}/event", b"new")]


def test_a_revoked_device_is_gone_with_its_session(broker: Broker, backend: Client) -> None:
    name, secret = "dev-revoked", "r" * 64
    broker.add_device(name, secret)
    with wire(broker) as raw:
        assert raw.connect(name, secret, will=Will(f"f1/dev/{name}/online", b"gone"))[0] == ACCEPTED
        broker.remove_device(name)
        wait_until(raw.is_ended, what="the revoked session to end")
        raw.publish(f"f1/dev/{name}/event", b"too late")
    with wire(broker) as raw:
        assert raw.connect(name, secret)[0] == NOT_AUTHORISED
        raw.publish(f"f1/dev/{name}/event", b"too late")
    assert (f"f1/dev/{name}/event", b"too late") not in backend.messages


def test_an_authority_of_the_same_name_is_not_the_brokers(broker: Broker, tmp_path: Path) -> None:
    other = ensure_tls(RunDir(tmp_path).ensure())
    context = ssl.create_default_context(cafile=str(other.ca))
    with (
        socket.create_connection((LOOPBACK, broker.port), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname=LOOPBACK)


def test_there_is_no_listener_but_the_one_with_tls(broker: Broker) -> None:
    pid = mosquitto.pid_file(broker.run).read_text().strip()
    sockets = {path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    listening = {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}
    assert listening == {f"0100007F:{broker.port:04X}"}
    with socket.create_connection((LOOPBACK, broker.port), timeout=10) as plain:
        body = text("MQTT") + bytes([4, 0xC2]) + b"\0\x3c" + text("") + text(THIEF) + text(SECRET[THIEF])
        plain.sendall(packet(0x10, body))
        try:
            answer = plain.recv(16)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"\x20\x02")


def test_the_rules_name_no_device_and_grant_no_device_more_than_its_own() -> None:
    rules = broker_files.acl_text([]).split("\n\n")[0].splitlines()
    written = [line.split()[2] for line in rules if line.startswith("pattern write ")]
    assert written == [f"f1/dev/%u/{kind}" for kind in UPLINKS]
    assert all(line.startswith(("pattern read ", "pattern write ")) for line in rules)
