"""How a virtual device gets its identity: from the real endpoint, over HTTPS, once."""

from __future__ import annotations

import json
import socketserver
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.utils import timezone

from device_firmware.host.identity import (
    EnrolError,
    Identity,
    Ticket,
    claim,
    read_tickets,
    tls_context,
)
from fleet.accounts.audit import SYSTEM
from fleet.devices import enrolment
from fleet.mqtt import topics
from fleet.stack.ports import LOOPBACK
from tests.firmware.virtual import TEST_USER, running, until
from tests.ota.conftest import broker as broker
from tests.ota.conftest import installation as installation
from tests.ota.conftest import session_broker as session_broker
from tests.stack.services import Broker, Client

FLEET = 24


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = False
    request_queue_size = 64


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not news."""


@pytest.fixture
def url(transactional_db: None, broker: Broker, installation: bytes, settings: Any) -> Iterator[str]:
    """The whole web application behind TLS, which sends devices to the private broker."""
    settings.MQTT_PUBLIC = {**settings.MQTT_PUBLIC, "host": LOOPBACK, "port": broker.port}
    application = get_wsgi_application()

    def served(environ: Any, start_response: Any) -> list[bytes]:
        try:
            return list(application(environ, start_response))
        finally:
            connections.close_all()

    server = _Server((LOOPBACK, 0), _Handler)
    server.set_app(served)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(broker.tls.certificate, broker.tls.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://{LOOPBACK}:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def ticket(url: str, device_id: str, **changes: str) -> Ticket:
    """A fresh ticket of a class with operators of its own."""
    (token,) = enrolment.create_tokens("host-a", [device_id], actor=SYSTEM, now=timezone.now())
    return Ticket(**{"device_id": device_id, "token": token, "device_class": "host-a", "url": url} | changes)


def code_of(ticket: Ticket, tls: ssl.SSLContext) -> str:
    with pytest.raises(EnrolError) as caught:
        claim(ticket, tls=tls, attempts=1)
    return caught.value.code


def test_an_identity_is_claimed_once_and_kept_from_others(url: str, broker: Broker, tmp_path: Path) -> None:
    tls = tls_context(str(broker.tls.ca))
    mine = ticket(url, "claim-1")
    identity = claim(mine, tls=tls)
    assert (identity.device_id, identity.broker_user, identity.broker_port) == (
        "claim-1",
        "claim-1",
        broker.port,
    )
    assert len(identity.mac_key) == 32
    assert len(identity.installation_id) == len(identity.class_id) == 16
    assert len(identity.roots) >= identity.root_threshold >= 1
    assert {3, 9, 25} <= set(identity.operators)
    path = tmp_path / "identity.json"
    identity.save(path)
    assert Identity.load(path) == identity
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert claim(mine, tls=tls) == identity, "a lost answer is repeated"
    assert code_of(Ticket("claim-2", mine.token, "host-a", url), tls) == "token_used"
    assert code_of(Ticket("claim-2", "tfe_none", "host-a", url), tls) == "token_unknown"
    assert code_of(ticket(url.replace("https", "http"), "claim-3"), tls) == "insecure_url"
    assert code_of(ticket(url, "claim-4"), tls_context(None)) == "unreachable", "a stranger's certificate"
    with Client(broker, "claim-1", identity.broker_secret) as client:
        assert client.is_connected


def test_a_fleet_enrols_in_parallel_and_comes_online(url: str, broker: Broker, tmp_path: Path) -> None:
    names = [f"many-{i:02d}" for i in range(FLEET)]
    tokens = enrolment.create_tokens("host-a", names, actor=SYSTEM, now=timezone.now())
    lines = [
        {"device_id": name, "token": token, "class": "host-a", "url": url}
        for name, token in zip([*names, "many-late"], [*tokens, "tfe_unknown"], strict=True)
    ]
    tickets = tmp_path / "tickets.jsonl"
    tickets.write_text("\n".join(json.dumps(line) for line in lines))
    online = {topics.device(name, "online") for name in names}
    with Client(broker, TEST_USER, broker.secret(TEST_USER)) as backend:
        backend.subscribe(topics.uplink_filter("online"))
        with running(tmp_path / "devices", "--ca", str(broker.tls.ca)) as devices:
            assert devices.ask({"do": "add", "tickets": str(tickets)}) == {
                "refused": {"many-late": "token_unknown"}
            }
            until(
                lambda: online <= {topic for topic, payload in backend.messages if payload == topics.ONLINE},
                what="all online",
            )
            again = devices.ask({"do": "add", "tickets": str(tickets)})
            assert again == {"refused": {"many-late": "token_unknown"}}, "used tickets are no error"
            assert not any(one["restarts"] for one in devices.ask({"do": "status"})["devices"].values())
        gone = {topic for topic, payload in backend.messages if payload == topics.OFFLINE}
        until(
            lambda: online <= gone | {t for t, payload in backend.messages if payload == topics.OFFLINE},
            what="an orderly goodbye",
        )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "one JSON object"),
        ("{", "Expecting"),
        ('{"token": "t", "class": "c", "url": "u"}', "needs device_id"),
        ('{"device_id": "d", "token": 7, "class": "c", "url": "u"}', "needs token"),
        ('{"device_id": "../d", "token": "t", "class": "c", "url": "u"}', "no device id"),
    ],
)
def test_a_bad_ticket_is_named_by_its_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "tickets.jsonl"
    good = {"device_id": "d", "token": "t", "class": "c", "url": "https://x"}
    path.write_text(f"{json.dumps(good)}\n\n{line}\n")
    with pytest.raises(ValueError, match=f"tickets.jsonl:3: .*{words}"):
        read_tickets(path)
