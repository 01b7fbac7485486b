"""Who is told of what: a row for each receiver that asked for it, and none for anybody else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.alerts import outbox, rules, silences
from fleet.alerts.models import Alert, AlertEvent, Delivery, Rule, Webhook
from fleet.announcing import Announcement
from tests.alerts.planting import plant_devices

pytestmark = pytest.mark.django_db
DEVICE = "host-a-000"


@pytest.fixture
def hooks(now: datetime) -> dict[str, Webhook]:
    """Webhooks by name: of everything, of resolved alerts, and of everything but off."""
    asked = {"all": list(outbox.EVENTS), "ends": ["alert.resolved"], "off": list(outbox.EVENTS)}
    return {
        name: Webhook.objects.create(
            name=name, url="https://x.example/", events=events, sealed_secret=b"", is_enabled=name != "off",
            created_at=now, created_by="olga",
        )
        for name, events in asked.items()
    }  # fmt: skip


@pytest.fixture
def make_alert(now: datetime) -> Callable[..., Alert]:
    """Factory of open alerts, each of a device of its own unless it is said."""
    rules.create("loops", kind="crash_loop", actor=SYSTEM, now=now)
    plant_devices(1, now)

    def make(**more: Any) -> Alert:
        said = {
            "rule": Rule.objects.get(), "rule_name": "loops", "rule_version": 1, "kind": "crash_loop",
            "severity": "high", "action": "none", "scope_key": f"device:{Alert.objects.count()}",
            "first_seen_at": now, "last_seen_at": now, "evaluated_at": now,
        }  # fmt: skip
        return Alert.objects.create(**said | more)

    return make


def receivers() -> list[str]:
    rows = Delivery.objects.order_by("id").values_list("webhook__name", "recipient", "event")
    return [f"{name or mail} {event}" for name, mail, event in rows]


def test_a_transition_is_told_to_who_asks_for_it(
    hooks: dict[str, Webhook], make_alert: Callable[..., Alert], now: datetime, settings: Any
) -> None:
    alert = make_alert()
    settings.ALERT_EMAILS = ["anna@example.org"]
    assert [outbox.tell(alert, verb, now=now) for verb in ("opened", "resolved", "acknowledged")] == [2, 3, 0]
    assert receivers() == [
        "all alert.opened", "anna@example.org alert.opened",
        "all alert.resolved", "ends alert.resolved", "anna@example.org alert.resolved",
    ]  # fmt: skip
    folded = make_alert(folded_into=alert)
    assert [outbox.tell(folded, verb, now=now) for verb in ("opened", "resolved")] == [0, 0]


def test_a_message_says_all_of_an_alert_and_null_for_what_it_is_not_about(
    make_alert: Callable[..., Alert], now: datetime
) -> None:
    alert = make_alert(rev=3, reason="back", evidence={"n": 3})
    told = outbox.message(alert, "alert.resolved", now=now)
    assert told == {
        "type": "alert.resolved",
        "at": now.isoformat(),
        "object": {"kind": "alert", "id": str(alert.pk)},
        "rev": 3,
        "data": {
            "rule": "loops", "kind": "crash_loop", "severity": "high", "state": "open",
            "scope": alert.scope_key, "device": None, "device_class": None, "mid": None, "count": 1,
            "flaps": 0, "reason": "back", "evidence": {"n": 3},
        },
    }  # fmt: skip
    about = make_alert(device_id=DEVICE, device_class="host-a", mid="f" * 16)
    data = outbox.message(about, "alert.opened", now=now)["data"]
    assert (data["device"], data["device_class"], data["mid"]) == (DEVICE, "host-a", "f" * 16)


def test_an_announcement_goes_to_webhooks_only_with_where_to_read_on(
    hooks: dict[str, Webhook], now: datetime, settings: Any
) -> None:
    settings.ALERT_EMAILS = ["anna@example.org"]
    settings.PUBLIC_URL = "https://fleet.example/"
    said = Announcement(
        event="key.revoked", kind="key", id="k1", rev=1, at=now, data={"why": "lost"}, page="/keys",
        api="/api/v1/keys/k1",
    )  # fmt: skip
    assert outbox.tell_of(said) == 1
    assert receivers() == ["all key.revoked"]
    row = Delivery.objects.get()
    assert (row.next_at, row.created_at) == (now, now)
    links = {"page": "https://fleet.example/keys", "api": "https://fleet.example/api/v1/keys/k1"}
    assert row.body["data"] == {"why": "lost", "links": links}
    assert outbox.links("/keys", "") == {"links": {"page": links["page"]}}
    assert outbox.links("", "") == {}


def test_an_event_is_asked_for_by_a_webhook_that_is_on(hooks: dict[str, Webhook]) -> None:
    assert outbox.is_asked("key.revoked")
    Webhook.objects.filter(name="all").delete()
    assert not outbox.is_asked("key.revoked")
    assert outbox.is_asked("alert.resolved")


def test_under_a_silence_an_opening_is_noted_in_short_and_an_end_is_not(
    hooks: dict[str, Webhook], make_alert: Callable[..., Alert], now: datetime
) -> None:
    until = now + timedelta(hours=1)
    silences.create(q=f"id=={DEVICE}", until=until, reason="r" * 256, actor=SYSTEM, now=now)
    alert = make_alert(device_id=DEVICE)
    assert [outbox.tell(alert, verb, now=now) for verb in ("resolved", "opened")] == [0, 0]
    (event,) = AlertEvent.objects.all()
    assert (event.verb, event.actor, len(event.note)) == ("silenced", SYSTEM.name, 256)
    assert event.note.startswith("until 2026-05-02 13:00 UTC: rrr")


def test_what_was_hidden_is_told_late_some_at_a_time_and_only_what_still_stands(
    hooks: dict[str, Webhook],
    make_alert: Callable[..., Alert],
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hidden(**more: Any) -> Alert:
        alert = make_alert(**more)
        AlertEvent.objects.create(alert=alert, at=now, verb="silenced", actor="olga")
        return alert

    monkeypatch.setattr(outbox, "LATE", 2)
    three = [hidden() for _ in range(3)]
    hidden(folded_into=three[0])
    hidden(state="resolved")
    again = hidden()
    AlertEvent.objects.create(alert=again, at=now, verb="reopened", actor="loops")  # and told then
    assert [outbox.tell_late(now) for _ in range(3)] == [2, 1, 0]
    rows = Delivery.objects.order_by("id")
    assert [row.alert_id for row in rows] == [one.pk for one in three], "oldest first"
    assert {row.body["rev"] for row in rows} == {2}
    assert [one.rev for one in Alert.objects.filter(pk__in=[one.pk for one in three])] == [2, 2, 2]
