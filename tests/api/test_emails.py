"""Recipients of e-mail and what was written to them, over REST."""

from typing import Any

import pytest

from fleet.alerts import mailing
from fleet.alerts.models import Delivery, Mailbox
from tests.api.conftest import Caller, clock

pytestmark = pytest.mark.django_db


def delivery(recipient: str, state: str) -> Delivery:
    now = clock()
    return Delivery.objects.create(
        kind="email", recipient=recipient, event="alert.opened", body={}, next_at=now, created_at=now,
        state=state, attempts=3, error="550 no",
    )  # fmt: skip


def test_every_recipient_is_listed_with_what_waits_and_why(call: Caller, settings: Any) -> None:
    settings.ALERT_EMAILS = ["anna@example.org", "bo@example.org"]
    Mailbox.objects.create(recipient="anna@example.org", next_at=clock(), attempts=2, error="550 no")
    Mailbox.objects.create(recipient="gone@example.org", next_at=clock())
    delivery("anna@example.org", "pending")
    delivery("anna@example.org", "failed")
    anna, bo = call("GET", "/alert-emails").json()["items"]
    assert (anna["recipient"], anna["waiting"], anna["attempts"], anna["error"]) == (
        "anna@example.org", 1, 2, "550 no",
    )  # fmt: skip
    assert anna["next_at"] is not None
    assert (bo["recipient"], bo["waiting"], bo["next_at"]) == ("bo@example.org", 0, None)


def test_a_failed_one_is_put_into_the_next_message_and_a_webhooks_is_not_found(
    call: Caller, settings: Any
) -> None:
    settings.ALERT_EMAILS = ["anna@example.org"]
    row = delivery("anna@example.org", "failed")
    (shown,) = call("GET", "/alert-emails/deliveries?state=failed").json()["items"]
    assert (shown["id"], shown["recipient"], shown["error"]) == (str(row.pk), "anna@example.org", "550 no")
    path = f"/alert-emails/deliveries/{row.pk}/redeliver"
    assert call("POST", path).json()["state"] == "pending"
    assert [one.waiting for one in mailing.mailboxes()] == [1]
    assert call("POST", path).json()["code"] == "illegal_transition"
    Delivery.objects.update(kind="webhook")
    assert call("POST", path).status_code == 404


def test_only_administrators_see_who_is_told(call: Caller) -> None:
    assert call.as_role("operator")("GET", "/alert-emails").json()["code"] == "scope_missing"
