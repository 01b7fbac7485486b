"""Webhooks reach a real local receiver: signed, once more after a failure, never further than allowed."""

import base64
import hashlib
import hmac
import random
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.alerts import addresses, evaluation, rules, sending, webhooks
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Delivery
from ota.transitions import IllegalTransition
from tests.alerts.planting import plant_devices, plant_events

pytestmark = pytest.mark.django_db
RNG = random.Random(7)


class Receiver(HTTPServer):
    """Keeps what it gets and answers `status`."""

    status = 204
    got: list[tuple[dict[str, str], bytes]]


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(server.status)
        if server.status == 302:
            self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with Receiver(("127.0.0.1", 0), Answer) as server:
        server.got = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@pytest.fixture
def secret(receiver: Receiver, now: datetime) -> str:
    """Secret of a webhook to the receiver, with one delivery waiting."""
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    _, secret = webhooks.create("pager", url=url, actor=SYSTEM, now=now)
    rules.create("loops", kind="crash_loop", actor=SYSTEM, now=now)
    (one,) = plant_devices(1, now)
    plant_events(one, now - timedelta(minutes=1), "boot", 3, "panic")
    evaluation.evaluate(now)
    assert Delivery.objects.count() == 1
    return secret


def test_a_message_arrives_signed_over_id_time_and_body(
    secret: str, receiver: Receiver, now: datetime
) -> None:
    assert sending.send_due(now, rng=RNG) == 1
    ((headers, body),) = receiver.got
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    row = Delivery.objects.get()
    assert (str(row.pk), row.state, row.status) == (headers["webhook-id"], "delivered", 204)
    assert sending.send_due(now, rng=RNG) == 0


@pytest.mark.parametrize("status", [302, 500])
def test_anything_but_2xx_is_tried_eight_times_then_failed_and_can_be_sent_again(
    status: int, secret: str, receiver: Receiver, now: datetime
) -> None:
    receiver.status = status
    for n in range(1, 9):
        assert sending.send_due(now + n * timedelta(days=1), rng=RNG) == 0
    row = Delivery.objects.get()
    assert (row.state, row.attempts, row.status) == ("failed", 8, status)
    assert len(receiver.got) == 8  # no redirect was followed
    receiver.status = 200
    later = now + timedelta(days=9)
    sending.redeliver(row, actor=SYSTEM, now=later)
    with pytest.raises(IllegalTransition):
        sending.redeliver(row, actor=SYSTEM, now=later)
    assert sending.send_due(later, rng=RNG) == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


def test_a_worker_killed_between_alert_and_delivery_delivers_under_the_same_id(
    secret: str, receiver: Receiver, now: datetime
) -> None:
    row = Delivery.objects.get()
    Delivery.objects.update(next_at=now + sending.LEASE)  # claimed, then killed
    assert sending.send_due(now, rng=RNG) == 0
    assert sending.send_due(now + sending.LEASE, rng=RNG) == 1
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [str(row.pk)]


def test_tries_take_about_a_day_in_all() -> None:
    waits = [sending.backoff(n, rng=RNG) for n in range(1, sending.TRIES)]
    assert waits == sorted(waits)
    assert timedelta(hours=18) < sum(waits, timedelta()) < timedelta(hours=30)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]", "0.0.0.0", "224.0.0.1"]
)
def test_a_private_address_is_refused(host: str, now: datetime) -> None:
    with pytest.raises(AlertError, match="address_refused"):
        webhooks.create("x", url=f"http://{host}/", actor=SYSTEM, now=now)


@pytest.mark.parametrize("url", ["ftp://x", "https://", "http://a:b@x/", "x", "http://x:0/", "http://["])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(AlertError, match="validation"):
        addresses.check_url(url)
