"""Webhooks in the console: made, changed, tried, removed; every message with what became of it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from django.test import Client
from django.utils import timezone
from django.utils.html import escape

from fleet.accounts.models import AuditEvent, User
from fleet.alerts import sending, webhooks
from fleet.alerts.models import Delivery, Webhook
from fleet.alerts.outbox import EVENTS
from tests.alerts.test_webhooks import Receiver
from tests.alerts.test_webhooks import receiver as receiver

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db
RNG = random.Random(7)


@pytest.fixture
def hook(as_role: AsRole, receiver: Receiver) -> Webhook:
    """Made through the form, to a receiver that answers."""
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    said = {"name": "pager", "url": url, "events": ["alert.opened"]}
    made = as_role("admin").post("/settings/new-webhook", said)
    assert made.status_code == 201
    assert re.search(r'data-test="webhook-secret">whsec_', made.content.decode())
    return Webhook.objects.get()


def test_a_test_message_goes_the_whole_way_and_can_be_sent_again(hook: Webhook, receiver: Receiver) -> None:
    client = _admin()
    path = f"/settings/webhooks/{hook.pk}"
    assert "whsec_" not in client.get(path).content.decode(), "the secret is shown once"
    assert client.post(f"{path}/test").status_code == 303
    row = Delivery.objects.get()
    assert row.event == "webhook.test"
    assert client.post(f"{path}/deliveries/{row.pk}/redeliver").status_code == 409, "it still waits"
    assert sending.send(str(row.pk), now=timezone.now(), rng=RNG)
    headers, body = receiver.got[0]
    assert headers["webhook-signature"].startswith("v1,")
    assert b'"type":"webhook.test"' in body
    assert 'data-state="delivered"' in client.get(path).content.decode()
    assert client.post(f"{path}/deliveries/{row.pk}/redeliver").status_code == 303
    row.refresh_from_db()
    assert row.state == "pending"
    verbs = list(AuditEvent.objects.order_by("id").values_list("verb", flat=True))
    assert verbs[-2:] == ["webhook.test", "delivery.redeliver"]


def _admin() -> Client:
    """The administrator who made the webhook."""
    client = Client()
    client.force_login(User.objects.get(username="admin-of-test"))
    return client


def test_a_change_keeps_the_secret_and_a_stale_form_is_refused(hook: Webhook) -> None:
    client = _admin()
    path, before = f"/settings/webhooks/{hook.pk}", bytes(hook.sealed_secret)
    said = {"name": "chat", "url": hook.url, "events": ["alert.resolved"], "rev": "1"}
    assert client.post(path, said).status_code == 303
    hook.refresh_from_db()
    assert (hook.name, hook.events, hook.is_enabled, hook.rev) == ("chat", ["alert.resolved"], False, 2)
    assert bytes(hook.sealed_secret) == before
    event = AuditEvent.objects.get(verb="webhook.change")
    assert (event.before["name"], event.after["name"]) == ("pager", "chat")  # type: ignore[index]
    stale = client.post(path, said | {"name": "late"})
    assert stale.status_code == 409
    assert "stale: " in stale.content.decode()
    assert 'value="late"' in stale.content.decode(), "what was typed stays"
    assert client.post(f"{path}/test").status_code == 409, "it is off"
    hook.refresh_from_db()
    assert hook.name == "chat"


def test_a_new_secret_is_asked_for_again_shown_once_and_the_page_says_until_when_the_old_one_signs(
    hook: Webhook,
) -> None:
    client = _admin()
    path, before = f"/settings/webhooks/{hook.pk}", bytes(hook.sealed_secret)
    asked = client.get(f"{path}/rotate")
    assert (asked.status_code, asked["Location"]) == (303, f"/reauth?next={quote(path, safe='')}%2Frotate")
    assert client.post(f"{path}/rotate", {"grace_hours": "24"}).status_code == 303
    hook.refresh_from_db()
    assert bytes(hook.sealed_secret) == before, "nothing happened yet"
    client.post("/reauth", {"password": "pass-admin-of-test-word", "next": "/settings"})
    assert 'data-test="rotate-form"' in client.get(f"{path}/rotate").content.decode()
    assert client.post(f"{path}/rotate", {"grace_hours": "2"}).status_code == 422
    done = client.post(f"{path}/rotate", {"grace_hours": "1"})
    assert done.status_code == 201
    assert "no-store" in done["Cache-Control"]
    assert re.search(r'data-test="webhook-secret">whsec_', done.content.decode())
    hook.refresh_from_db()
    assert bytes(hook.sealed_former or b"") == before
    again = client.get(path).content.decode()
    assert "whsec_" not in again
    assert 'data-test="former-until"' in again
    assert AuditEvent.objects.get(verb="webhook.rotate").actor == "admin-of-test"


def test_a_form_for_a_new_secret_that_is_sent_twice_makes_one(hook: Webhook) -> None:
    client = _admin()
    client.post("/reauth", {"password": "pass-admin-of-test-word", "next": "/settings"})
    path = f"/settings/webhooks/{hook.pk}"
    drawn = re.findall(r'name="once" value="([^"]+)"', client.get(f"{path}/rotate").content.decode())
    said = {"grace_hours": "0", "once": drawn[0]}
    shown = client.post(f"{path}/rotate", said).content.decode()
    again = client.post(f"{path}/rotate", said, HTTP_REFERER=f"http://testserver{path}/rotate")
    assert (again.status_code, again["Location"]) == (303, path)
    assert AuditEvent.objects.filter(verb="webhook.rotate").count() == 1
    hook.refresh_from_db()
    (secret,) = webhooks.secrets_of(hook, now=timezone.now())
    assert secret in shown, "the secret that was shown is the one"


def test_the_form_says_in_a_sentence_what_each_event_is(as_role: AsRole) -> None:
    html = as_role("admin").get("/settings/new-webhook").content.decode()
    for name, text in EVENTS.items():
        assert f"<code>{name}</code>" in html
        assert escape(text) in html


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://169.254.169.254/latest"}, "address_refused"),
        ({"url": "ftp://example.org/"}, "validation"),
        ({"events": []}, "error-events"),
        ({"events": ["tea.ready"]}, "error-events"),
        ({"name": ""}, "error-name"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    as_role: AsRole, changes: dict[str, object], said: str
) -> None:
    given = {"name": "x", "url": "http://169.254.0.1/", "events": ["alert.opened"]} | changes
    refused = as_role("admin").post("/settings/new-webhook", given)
    assert refused.status_code == 422
    assert said in refused.content.decode()
    assert not Webhook.objects.exists()


def test_it_is_removed_after_a_look_and_only_by_administrators(as_role: AsRole, hook: Webhook) -> None:
    path = f"/settings/webhooks/{hook.pk}"
    for role in ("viewer", "operator", "approver"):
        client = as_role(role)
        assert 'data-test="settings-webhooks"' not in client.get("/settings").content.decode()
        for one in ("/settings/webhooks", path):
            assert client.get(one).status_code == 403
        assert client.post(f"{path}/delete").status_code == 403
    client = _admin()
    assert "gone for good" in client.get(f"{path}/delete").content.decode()
    assert client.post(f"{path}/delete").status_code == 303
    assert 'data-test="empty"' in client.get("/settings/webhooks").content.decode()
