"""Devices' own events reach their timelines once each, however they come."""

from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
from django.db import connection

from fleet.devices import timeline
from fleet.devices.models import DeviceEvent
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import Clock, EventKind
from tests.devices.makers import make_board


def event(n: int, boot: int = 1) -> Event:
    return Event(boot, n, 0, Clock.SNTP, EventKind.RESET, (1, 0, 0))


def numbers() -> list[tuple[str, int | None, int | None]]:
    rows = DeviceEvent.objects.filter(n__isnull=False).order_by("device_id", "boot", "n")
    return list(rows.values_list("device_id", "boot", "n"))


@pytest.mark.django_db
def test_of_a_batch_only_what_is_new_is_kept_and_told(now: datetime) -> None:
    for name in ("dev-1", "dev-2"):
        make_board(name, now)
    assert timeline.record_event("dev-1", event(2), now=now)
    sent = [("dev-2", event(1)), ("dev-1", event(2)), ("dev-1", event(1)), ("dev-1", event(1)),
            ("dev-1", event(2, boot=2))]  # fmt: skip
    fresh = timeline.record_events(sent, now=now)
    assert fresh == [("dev-1", event(1)), ("dev-1", event(2, boot=2)), ("dev-2", event(1))]
    assert numbers() == [("dev-1", 1, 1), ("dev-1", 1, 2), ("dev-1", 2, 2), ("dev-2", 1, 1)]
    assert timeline.record_events(sent, now=now) == []


@pytest.mark.django_db(transaction=True)
def test_an_event_that_another_gateway_keeps_meanwhile_is_kept_once_and_the_rest_too(now: datetime) -> None:
    make_board("dev-1", now)
    rivals = [event(1)]

    def meanwhile(execute: Any, sql: str, *more: Any) -> Any:
        if sql.startswith('INSERT INTO "devices_deviceevent"') and rivals:
            rivals.pop()
            other = connection.copy()
            with closing(other), other.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO devices_deviceevent (device_id, at, kind, code, text, data, boot, n)"
                    " VALUES ('dev-1', now(), 'reset', '', '', '{}', 1, 1)"
                )
        return execute(sql, *more)

    with connection.execute_wrapper(meanwhile):
        fresh = timeline.record_events([("dev-1", event(1)), ("dev-1", event(2))], now=now)
    assert fresh == [("dev-1", event(2))]
    assert numbers() == [("dev-1", 1, 1), ("dev-1", 1, 2)]
