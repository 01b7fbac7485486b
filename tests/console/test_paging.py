"""Totals of lists: exact while that is cheap, then `10 000+`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from django.db import connection
from django.template import Context, Template
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from fleet.console.paging import Total, counted, page_of
from fleet.devices.models import Device
from tests import plans
from tests.console import rows

pytestmark = pytest.mark.django_db


def shown(value: Any) -> str:
    return Template("{% load console %}{{ n|num }}").render(Context({"n": value}))


def test_a_list_is_counted_up_to_a_bound_and_says_when_it_goes_on(filled: rows.Filled) -> None:
    every = Device.objects.all()
    assert (counted(every, 79), counted(every, 79).is_more) == (79, True)
    assert (counted(every, 80), counted(every, 80).is_more) == (80, False)
    assert (counted(every, None), counted(every, None).is_more) == (80, False)
    assert (shown(counted(every, 79)), shown(counted(every, 80))) == ("79+", "80")
    assert shown(Total(10_000, is_more=True)) == "10\u202f000+"
    asked = page_of(RequestFactory().get("/devices"), every, most=50)
    assert (len(asked.rows), asked.total, asked.total.is_more) == (50, 50, True)


def test_no_more_rows_are_read_for_a_total_than_it_tells(filled: rows.Filled, present: datetime) -> None:
    Device.objects.bulk_create(
        Device(id=f"more-{n:04d}", device_class_id="host-a", enrolled_at=present) for n in range(2_000)
    )
    with CaptureQueriesContext(connection) as seen:
        assert counted(Device.objects.filter(device_class="host-a"), 100) == 100
    (asked,) = seen.captured_queries
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked['sql']}")
        assert plans.read_by(cursor.fetchone()[0]) <= 110
