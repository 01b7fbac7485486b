"""Making, changing, trying and removing a webhook: what is refused, and what the trail says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.alerts import webhooks
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Delivery, Webhook

pytestmark = pytest.mark.django_db
URL = "http://127.0.0.1:9/hook"
OLGA = Actor("token", "olga/tfk_0123456789abcdef")


@pytest.fixture
def make(settings: Any, now: datetime) -> Callable[..., Webhook]:
    """Factory of webhooks of this machine."""
    settings.WEBHOOK_ALLOW_PRIVATE = True

    def made(name: str = "pager", **more: Any) -> Webhook:
        return webhooks.create(name, url=URL, actor=OLGA, now=now, **more)[0]

    return made


def refusal(act: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(AlertError) as caught:
        act()
    return caught.value.code, caught.value.field


def test_the_trail_says_who_made_tried_and_removed_which_webhook(
    make: Callable[..., Webhook], now: datetime
) -> None:
    hook = make(events=["key.revoked", "alert.opened", "key.revoked"])
    pk = str(hook.pk)
    webhooks.send_test(hook, actor=OLGA, now=now)
    webhooks.delete(hook, actor=OLGA, now=now)
    about = {"name": "pager", "url": URL, "events": ["alert.opened", "key.revoked"]}
    told = [(row.verb, row.subject_id, row.actor, row.after) for row in AuditEvent.objects.order_by("id")]
    assert told == [
        (verb, pk, OLGA.name, about) for verb in ("webhook.create", "webhook.test", "webhook.delete")
    ]
    assert not Delivery.objects.exists(), "its messages go with it"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[1m", "x" * 65])
def test_a_name_is_one_line_of_at_most_64_characters(
    name: str, make: Callable[..., Webhook], now: datetime
) -> None:
    assert refusal(lambda: make(name)) == ("validation", "name")
    hook = make(f"  {'x' * 64} ")
    assert hook.name == "x" * 64, "without blanks around it"
    assert refusal(lambda: webhooks.change(hook, name=name, actor=OLGA, now=now)) == ("validation", "name")


def test_a_webhook_asks_for_something_and_has_a_name_of_its_own(
    make: Callable[..., Webhook], now: datetime
) -> None:
    assert refusal(lambda: make(events=[])) == ("validation", "events")
    make()
    other = make("other")
    assert refusal(make) == ("duplicate", "name")
    assert refusal(lambda: webhooks.change(other, name="pager", actor=OLGA, now=now)) == ("duplicate", "name")
    assert refusal(lambda: webhooks.change(other, events=[], actor=OLGA, now=now)) == ("validation", "events")
    assert sorted(Webhook.objects.values_list("name", "rev")) == [("other", 1), ("pager", 1)]


def test_a_change_looks_up_only_an_address_that_changes(
    make: Callable[..., Webhook], settings: Any, now: datetime
) -> None:
    hook = make()
    settings.WEBHOOK_ALLOW_PRIVATE = False  # its name cannot be looked up at the moment, say
    webhooks.change(hook, name="chat", url=f" {URL} ", actor=OLGA, now=now)
    assert (hook.name, hook.url) == ("chat", URL)
    other = f"{URL}/other"
    assert refusal(lambda: webhooks.change(hook, url=other, actor=OLGA, now=now)) == (
        "address_refused",
        "url",
    )


def test_a_test_message_says_which_person_asked_and_of_which_revision(
    make: Callable[..., Webhook], now: datetime
) -> None:
    hook = make()
    webhooks.change(hook, name="chat", actor=OLGA, now=now)
    body = webhooks.send_test(hook, actor=OLGA, now=now).body
    assert body == {
        "type": "webhook.test",
        "at": now.isoformat(),
        "object": {"kind": "webhook", "id": str(hook.pk)},
        "rev": 2,
        "data": {"asked_by": "olga"},
    }
