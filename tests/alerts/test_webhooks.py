"""Webhooks reach a real local receiver: signed, once more after a failure, never further than allowed."""

import base64
import hashlib
import hmac
import random
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.utils import timezone

from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import AuditEvent
from fleet.alerts import addresses, evaluation, rules, sending, webhooks
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Delivery, Webhook
from fleet.alerts.sending import KEPT
from fleet.alerts.webhooks import GRACE
from ota.transitions import IllegalTransition
from tests.alerts.planting import plant_devices, plant_events

pytestmark = pytest.mark.django_db
RNG = random.Random(7)


class Receiver(HTTPServer):
    """Keeps what it gets, and at which paths, and answers `status`."""

    status = 204
    got: list[tuple[dict[str, str], bytes]]
    paths: list[str]


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        server.paths.append(self.path)
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
        server.got, server.paths = [], []
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


def signed_with(secret: str, headers: dict[str, str], body: bytes) -> str:
    """The signature that a receiver with this secret expects."""
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def test_after_a_rotation_both_secrets_sign_until_the_grace_is_over(
    secret: str, receiver: Receiver, now: datetime
) -> None:
    hook = Webhook.objects.get()
    new = webhooks.rotate(hook, actor=SYSTEM, now=now)
    assert new != secret
    (row,) = Delivery.objects.all()
    for moment, secrets in (
        (now + GRACE - timedelta(seconds=1), [new, secret]),
        (now + GRACE, [new]),
    ):
        assert sending.send_due(moment, rng=RNG) == 1
        headers, body = receiver.got[-1]
        assert headers["webhook-signature"].split(" ") == [signed_with(one, headers, body) for one in secrets]
        sending.redeliver(row, actor=SYSTEM, now=moment)
    event = AuditEvent.objects.get(verb="webhook.rotate")
    assert event.after == {"name": "pager", "former_until": (now + GRACE).isoformat()}
    assert new not in repr(event.after)


def test_a_secret_that_leaked_ends_at_once_and_there_are_never_more_than_two(
    secret: str, receiver: Receiver, now: datetime
) -> None:
    hook = Webhook.objects.get()
    second = webhooks.rotate(hook, actor=SYSTEM, now=now)
    third = webhooks.rotate(hook, actor=SYSTEM, now=now)
    assert webhooks.secrets_of(hook, now=now) == [third, second]
    last = webhooks.rotate(hook, actor=SYSTEM, now=now, grace=timedelta(0))
    assert webhooks.secrets_of(hook, now=now) == [last]
    for grace in (timedelta(seconds=-1), timedelta(days=8)):
        with pytest.raises(AlertError, match="validation"):
            webhooks.rotate(hook, actor=SYSTEM, now=now, grace=grace)
    hook.rev = 1
    with pytest.raises(AlertError, match="stale"):
        webhooks.rotate(hook, actor=SYSTEM, now=now)
    hook.refresh_from_db()
    assert webhooks.secrets_of(hook, now=now) == [last], "and nothing has changed"


def test_messages_are_forgotten_a_month_after_their_end_and_what_waits_stays(
    secret: str, receiver: Receiver
) -> None:
    hook, made = Webhook.objects.get(), timezone.now()
    webhooks.send_test(hook, actor=SYSTEM, now=made)
    sending.send_due(made, rng=RNG)
    webhooks.send_test(hook, actor=SYSTEM, now=made)
    (waiting,) = Delivery.objects.filter(state="pending")
    month = made + KEPT
    assert sending.forget(month - timedelta(minutes=1)) == 0
    done = Delivery.objects.filter(state="delivered")
    again = done[0]
    sending.redeliver(again, actor=SYSTEM, now=month)
    sending.send(str(again.pk), now=month, rng=RNG)
    n = done.count() - 1
    assert n >= 1
    assert sending.forget(month + timedelta(minutes=1)) == n
    assert set(Delivery.objects.values_list("pk", flat=True)) == {waiting.pk, again.pk}


@pytest.mark.parametrize("host", ["\u2460\u2461\u2466.0.0.1", "[v1.x]", "x:99999", "a..b"])
def test_an_address_that_nothing_can_call_is_a_failed_try_and_holds_up_no_other(
    host: str, secret: str, receiver: Receiver, now: datetime
) -> None:
    hook = Webhook.objects.get()
    bad = Webhook.objects.create(
        name="bad", url=f"http://{host}/", sealed_secret=bytes(hook.sealed_secret), created_at=now
    )  # as an earlier release took it
    webhooks.send_test(bad, actor=SYSTEM, now=now - timedelta(minutes=1))  # due before the other
    assert sending.send_due(now, rng=RNG) == 1
    row = bad.deliveries.get()
    assert (row.state, row.attempts, row.status) == ("pending", 1, None)
    assert row.error.startswith(("address_refused: no address for", "validation: the URL is"))
    assert row.next_at > now


def test_a_name_beyond_ascii_is_looked_up_and_called_as_the_same_host(
    secret: str, receiver: Receiver, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = socket.getaddrinfo, []

    def resolver(host: str, *rest: Any, **more: Any) -> list[Any]:
        if host.endswith(".example"):
            asked.append(host)
            host = "127.0.0.1"
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    Webhook.objects.update(url=f"http://stra\u00dfe.example:{receiver.server_port}/hook")
    assert sending.send_due(now, rng=RNG) == 1
    assert receiver.got[0][0]["host"] == f"xn--strae-oqa.example:{receiver.server_port}"
    assert asked == ["xn--strae-oqa.example"], "not strasse.example, as an older standard has it"


def test_tries_take_about_a_day_in_all() -> None:
    waits = [sending.backoff(n, rng=RNG) for n in range(1, sending.TRIES)]
    assert waits == sorted(waits)
    assert timedelta(hours=18) < sum(waits, timedelta()) < timedelta(hours=30)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1"),
        *("[::1]", "[ff0e::1]", "[::ffff:10.0.0.1]", "[::ffff:224.0.0.1]"),
    ],
)
def test_a_private_address_is_refused(host: str, now: datetime) -> None:
    with pytest.raises(AlertError, match="address_refused"):
        webhooks.create("x", url=f"http://{host}/", actor=SYSTEM, now=now)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://x", "https://", "http://a:b@x/", "x", "http://x:0/", "http://["),
        *("http://\u2460.example/", "http://[v1.x]/", "http://x:99999/"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(AlertError, match="validation"):
        addresses.check_url(url)
