"""What a silence keeps back is written down, and told in the end when it is still wrong."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation, machine, outbox, rules, silences
from fleet.alerts.models import Alert, AlertEvent, Delivery, Silence
from tests.alerts.planting import plant_devices, plant_events

pytestmark = pytest.mark.django_db
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


@pytest.fixture
def silence(now: datetime, settings: Any) -> Silence:
    """Of an hour, about the first of ten devices that a rule watches for somebody."""
    settings.ALERT_EMAILS = ["anna@example.org"]
    rules.create("loops", kind="crash_loop", actor=SYSTEM, now=now)
    ids = plant_devices(10, now)
    return silences.create(q=f"id=={ids[0]}", until=now + HOUR, reason="moving", actor=SYSTEM, now=now)


@pytest.fixture
def hidden(silence: Silence, now: datetime) -> Alert:
    """An alert that opened under it."""
    plant_events(silence.q.removeprefix("id=="), now - SECOND, "boot", 3, "panic")
    evaluation.evaluate(now)
    return Alert.objects.get()


def verbs(alert: Alert) -> list[str]:
    return list(alert.events.order_by("id").values_list("verb", flat=True))


def told() -> int:
    return Delivery.objects.filter(event="alert.opened").count()


def test_an_alert_that_opens_under_one_says_so_in_its_history(hidden: Alert, silence: Silence) -> None:
    assert verbs(hidden) == ["opened", "silenced"]
    event = hidden.events.get(verb="silenced")
    assert event.data == {"silence": str(silence.pk)}
    assert "moving" in event.note
    assert told() == 0


def test_it_is_told_once_when_the_silence_is_over_and_it_is_still_open(hidden: Alert, now: datetime) -> None:
    AlertEvent.objects.create(alert=hidden, at=now, verb="paused", actor="loops")
    assert outbox.tell_late(now + HOUR - SECOND) == 0
    assert outbox.tell_late(now + HOUR) == 1
    assert (told(), verbs(hidden)) == (1, ["opened", "silenced", "paused", "told"])
    assert outbox.tell_late(now + HOUR) == 0
    hidden.refresh_from_db()
    assert Delivery.objects.get().body["rev"] == hidden.rev == 2


def test_one_that_was_ended_by_hand_tells_too(hidden: Alert, silence: Silence, now: datetime) -> None:
    silences.end(silence, actor=SYSTEM, now=now + SECOND)
    assert outbox.tell_late(now + SECOND) == 1


def test_another_silence_goes_on_hiding_it(hidden: Alert, now: datetime) -> None:
    silences.create(q="", until=now + 2 * HOUR, reason="still", actor=SYSTEM, now=now)
    assert outbox.tell_late(now + HOUR) == 0
    assert outbox.tell_late(now + 2 * HOUR) == 1


@pytest.mark.parametrize("verb", ["acknowledge", "resolve"])
def test_what_somebody_has_seen_meanwhile_is_not_told(verb: str, hidden: Alert, now: datetime) -> None:
    if verb == "acknowledge":
        machine.acknowledge(hidden, actor=SYSTEM, now=now)
    else:
        machine.resolve(hidden, actor=SYSTEM, now=now, reason="done")
    assert outbox.tell_late(now + 2 * HOUR) == 0
    assert told() == 0


def test_of_two_workers_one_tells(hidden: Alert, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    hiding = silences.hiding

    def slow(*args: Any, **named: Any) -> Any:
        monkeypatch.setattr(silences, "hiding", hiding)
        assert outbox.tell_late(now + HOUR) == 1  # the other one, while this one looks
        return hiding(*args, **named)

    monkeypatch.setattr(silences, "hiding", slow)
    assert outbox.tell_late(now + HOUR) == 0
    assert told() == 1


def test_an_alert_that_nobody_would_have_been_told_of_is_not_told_later(
    silence: Silence, now: datetime, settings: Any
) -> None:
    settings.ALERT_EMAILS = []
    plant_events(silence.q.removeprefix("id=="), now - SECOND, "boot", 3, "panic")
    evaluation.evaluate(now)
    settings.ALERT_EMAILS = ["anna@example.org"]
    assert outbox.tell_late(now + HOUR) == 0
    assert verbs(Alert.objects.get()) == ["opened"]
