"""What is sent, in which order, how often, and to whom never."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from fleet.accounts.audit import SYSTEM
from fleet.alerts import addresses, calling, sending, webhooks
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Delivery
from tests.alerts.test_slow_receivers import peer as peer
from tests.alerts.test_slow_receivers import waiting
from tests.alerts.test_webhooks import Receiver
from tests.alerts.test_webhooks import receiver as receiver

pytestmark = pytest.mark.django_db
RNG = random.Random(7)


def sent_ids(receiver: Receiver) -> list[str]:
    return [headers["webhook-id"] for headers, _ in receiver.got]


def test_what_waits_longest_goes_first_and_a_turn_has_its_measure(receiver: Receiver, now: datetime) -> None:
    waiting(receiver.server_port, now, n=sending.BATCH + 2)
    rows = list(Delivery.objects.order_by("id"))
    for age, row in enumerate(rows):  # the last one made has waited longest
        Delivery.objects.filter(pk=row.pk).update(next_at=now - timedelta(seconds=age))
    assert sending.send_due(now, rng=RNG) == sending.BATCH
    assert sent_ids(receiver) == [str(row.pk) for row in rows[: -sending.BATCH - 1 : -1]]
    assert sending.send_due(now, rng=RNG) == 2


def test_a_webhook_that_is_off_gets_what_waited_when_it_is_on_again(
    receiver: Receiver, now: datetime
) -> None:
    hook = waiting(receiver.server_port, now)
    webhooks.change(hook, is_enabled=False, actor=SYSTEM, now=now)
    assert sending.send_due(now, rng=RNG) == 0
    assert not receiver.got
    webhooks.change(hook, is_enabled=True, actor=SYSTEM, now=now)
    assert sending.send_due(now, rng=RNG) == 1


def test_a_message_is_not_tried_before_its_time_nor_after_its_end(receiver: Receiver, now: datetime) -> None:
    waiting(receiver.server_port, now)
    (row,) = Delivery.objects.all()
    assert not sending.send(str(row.pk), now=now - timedelta(seconds=1), rng=RNG)
    receiver.status = 300
    assert not sending.send(str(row.pk), now=now, rng=RNG)
    assert not sending.send(str(row.pk), now=now, rng=RNG), "it waits for its next try"
    assert len(receiver.got) == 1
    receiver.status = 299
    assert sending.send(str(row.pk), now=now + timedelta(minutes=1), rng=RNG)
    assert not sending.send(str(row.pk), now=now + timedelta(days=1), rng=RNG)
    assert len(receiver.got) == 2
    row.refresh_from_db()
    assert (row.status, row.error, row.finished_at) == (299, "", now + timedelta(minutes=1))


def test_a_message_that_is_sent_again_begins_anew(receiver: Receiver, now: datetime) -> None:
    waiting(receiver.server_port, now)
    receiver.status = 500
    Delivery.objects.update(attempts=sending.TRIES - 1)
    with capture_logs() as said:
        sending.send_due(now, rng=RNG)
    (row,) = Delivery.objects.all()
    assert (row.state, row.finished_at) == ("failed", now)
    assert [(one["event"], one["delivery"]) for one in said] == [("webhook_delivery_failed", str(row.pk))]
    later = now + timedelta(days=1)
    again = sending.redeliver(row, actor=SYSTEM, now=later)
    assert (again.attempts, again.next_at, again.finished_at) == (0, later, None)
    with capture_logs() as said:
        sending.send_due(later, rng=RNG)
    row.refresh_from_db()
    assert (row.state, row.attempts, said) == ("pending", 1, [])


def test_waits_differ_so_that_what_failed_together_is_not_tried_together() -> None:
    for attempts, seconds in ((1, 30), (2, 120), (3, 480), (7, 43_200), (8, 43_200)):
        waits = [sending.backoff(attempts, rng=RNG).total_seconds() for _ in range(200)]
        assert seconds * 0.8 <= min(waits) < seconds * 0.85
        assert seconds * 1.15 < max(waits) <= seconds * 1.2


def test_old_messages_are_forgotten_some_at_a_time(
    receiver: Receiver, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FORGOTTEN", 2)
    waiting(receiver.server_port, now, n=3)
    assert sending.send_due(now, rng=RNG) == 3
    later = datetime.now(UTC) + sending.KEPT + timedelta(minutes=1)  # ids are of the present
    assert [sending.forget(later) for _ in range(3)] == [2, 1, 0]


def test_nonsense_is_told_in_short_and_silence_is_not_waited_out(
    peer: Any, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(peer(lambda taken: taken.sendall(b"x" * 4_000 + b"\r\n\r\n")).port, now)
    assert sending.send_due(now, rng=RNG) == 0
    error = Delivery.objects.get().error
    assert error.startswith("unreachable: RemoteProtocolError: ")
    assert len(error) == 256
    Delivery.objects.all().delete()
    monkeypatch.setattr(calling, "SILENCE_S", 0.2)
    waiting(peer(lambda taken: taken.recv(1)).port, now)  # until the sender closes
    assert sending.send_due(now, rng=RNG) == 0
    assert Delivery.objects.get().error.startswith("unreachable: ReadTimeout: ")


def test_a_message_goes_to_the_path_that_the_url_names(receiver: Receiver, now: datetime) -> None:
    hook = waiting(receiver.server_port, now)
    type(hook).objects.update(url=f"{hook.url}hook/a%20b?token=x&y=\u00fc#part")
    assert sending.send_due(now, rng=RNG) == 1
    assert receiver.paths == ["/hook/a%20b?token=x&y=%C3%BC"]


def test_no_proxy_of_the_environment_is_asked(
    receiver: Receiver, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    waiting(receiver.server_port, now)
    assert sending.send_due(now, rng=RNG) == 1


def test_a_name_that_leads_to_a_private_address_later_is_not_called(
    receiver: Receiver, now: datetime, settings: Any
) -> None:
    waiting(receiver.server_port, now)
    settings.WEBHOOK_ALLOW_PRIVATE = False
    assert sending.send_due(now, rng=RNG) == 0
    assert Delivery.objects.get().error == (
        "address_refused: 127.0.0.1 is at 127.0.0.1, which is not a public address"
    )
    assert not receiver.got


def test_an_address_of_the_old_kind_in_the_new_one_is_what_it_stands_for() -> None:
    place = addresses.resolve("https://[::ffff:8.8.8.8]:8443/a?b=c", allow_private=False)
    assert (place.host, place.netloc) == ("::ffff:8.8.8.8", "[::ffff:8.8.8.8]:8443")
    assert place.url.raw_path == b"/a?b=c"


@pytest.mark.parametrize("places", [["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"]])
def test_every_address_of_a_name_must_be_public(places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def resolver(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in places]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with pytest.raises(AlertError, match=r"address_refused: x\.example is at 10\.0\.0\.1"):
        addresses.resolve("https://x.example/", allow_private=False)
    monkeypatch.undo()


@pytest.mark.parametrize(
    "url", ["https://x.example/\x07", "https://x.example/\u202e", "https://x.example/" + "a" * 495]
)
def test_a_url_is_one_line_of_at_most_512_characters(url: str) -> None:
    assert len(addresses.check_url("https://x.example/" + "a" * 494)) == 512
    with pytest.raises(AlertError, match="validation"):
        addresses.check_url(url)


def certificate(where: Path) -> str:
    """Path of a key and a certificate of `localhost` that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, datetime(2020, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = where / "peer.pem"
    path.write_bytes(pem + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return str(path)


def test_tls_asks_for_the_name_and_trusts_no_unknown_certificate(
    now: datetime, tmp_path: Path, settings: Any
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    asked: list[str] = []
    context.sni_callback = lambda _, name, __: asked.append(name)

    def serve(listening: socket.socket) -> None:
        taken, _ = listening.accept()
        with taken:
            taken.settimeout(10)
            try:
                context.wrap_socket(taken, server_side=True).recv(1)
            except OSError as error:
                asked.append(type(error).__name__)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        hook = waiting(port, now)
        type(hook).objects.update(url=f"https://localhost:{port}/")
        assert sending.send_due(now, rng=RNG) == 0
        thread.join(10)
    assert asked[0] == "localhost"
    assert "CERTIFICATE_VERIFY_FAILED" in Delivery.objects.get().error
