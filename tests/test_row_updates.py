"""Rows of one table get values of their own in one statement."""

from datetime import datetime, timedelta

import pytest
from django.db import DataError, connection
from django.test.utils import CaptureQueriesContext

from fleet.devices.models import Device
from fleet.row_updates import update_rows
from tests.devices.makers import make_board

pytestmark = pytest.mark.django_db


@pytest.fixture
def devices(now: datetime) -> list[Device]:
    for name in ("dev-1", "dev-2", "dev-3"):
        make_board(name, now)
    return list(Device.objects.order_by("pk"))


def test_each_row_gets_its_own_values_and_keeps_its_other_columns(
    devices: list[Device], now: datetime
) -> None:
    first, second, third = devices
    first.boot, first.operators, first.chip = 7, [3, 'a "quoted" {name}'], "esp32"
    second.reported_at, second.free_heap_bytes = now - timedelta(days=1), None
    third.boot = 9
    with CaptureQueriesContext(
        connection,
    ) as asked:
        assert update_rows([first, second], ("boot", "operators", "reported_at", "free_heap_bytes")) == 2
    assert len(asked) == 1
    first, second, third = Device.objects.order_by("pk")
    assert (first.boot, first.operators, first.chip) == (7, [3, 'a "quoted" {name}'], "host")
    assert (second.boot, second.reported_at, second.operators) == (0, now - timedelta(days=1), [])
    assert third.boot == 0


def test_a_text_that_is_too_long_is_refused_and_not_cut(devices: list[Device]) -> None:
    devices[0].chip = "x" * 17
    with pytest.raises(DataError):
        update_rows(devices, ("chip",))


def test_no_rows_need_no_statement() -> None:
    assert update_rows([], ("boot",)) == 0
