"""Silences in the console: begun, listed, ended, and seen on what they hide."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.test import Client

from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import AuditEvent
from fleet.alerts import silences
from fleet.alerts.models import Silence
from tests.console.test_alert_pages import loop

AsRole = Callable[[str], Client]
HOUR = timedelta(hours=1)
pytestmark = pytest.mark.django_db


def begin(client: Client, **changes: str) -> object:
    asked = {"q": "id==host-a-000", "rule": "loops", "hours": "4", "reason": "moving house"} | changes
    return client.post("/alerts/silences/begin", asked)


def html(client: Client, path: str) -> str:
    return client.get(path).content.decode()


def test_an_operator_begins_one_and_the_list_says_who_and_until_when(
    as_role: AsRole, present: datetime
) -> None:
    loop(present)
    client = as_role("operator")
    assert 'data-test="empty"' in html(client, "/alerts/silences")
    answer = begin(client)
    assert (answer.status_code, answer["Location"]) == (303, "/alerts/silences")
    row = Silence.objects.get()
    assert (row.q, row.rule_name, row.created_by) == ("id==host-a-000", "loops", "operator-of-test")
    assert abs(row.until - present - 4 * HOUR) < timedelta(minutes=5)
    text = html(client, "/alerts/silences")
    assert f"{row.until:%Y-%m-%d %H:%M} UTC" in text
    assert "operator-of-test" in text
    assert "moving house" in text
    assert 'data-state="active"' in text
    assert AuditEvent.objects.get(verb="silence.create").actor == "operator-of-test"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reason": " "}, "says why"),
        ({"hours": "9999"}, "say how long"),
        ({"hours": ""}, "say how long"),
        ({"rule": "tea"}, "there is no rule"),
        ({"q": "idd==x"}, "query_unknown_field"),
        ({"q": "(("}, "query_syntax"),
    ],
)
def test_what_is_wrong_is_said_and_what_was_typed_stays(
    changes: dict[str, str], said: str, as_role: AsRole, present: datetime
) -> None:
    loop(present)
    answer = begin(as_role("operator"), **changes)
    text = answer.content.decode()
    assert answer.status_code == 422
    assert said in text.lower()
    assert f'value="{changes.get("q", "id==host-a-000")}"' in text
    assert not Silence.objects.exists()


def test_one_is_ended_before_its_time_once(as_role: AsRole, present: datetime) -> None:
    loop(present)
    client = as_role("operator")
    begin(client)
    path = f"/alerts/silences/{Silence.objects.get().pk}/end"
    assert client.post(path).status_code == 303
    assert Silence.objects.get().ended_at is not None
    text = html(client, "/alerts/silences")
    assert 'data-state="over"' in text
    assert "/end" not in text
    late = client.post(path)
    assert (late.status_code, "illegal_transition" in late.content.decode()) == (409, True)
    assert AuditEvent.objects.filter(verb="silence.end").count() == 1
    assert client.post("/alerts/silences/00000000-0000-7000-8000-000000000000/end").status_code == 404


def test_alert_pages_say_what_hides_them(as_role: AsRole, present: datetime) -> None:
    first, second = loop(present)
    client = as_role("viewer")
    assert 'data-test="silenced"' not in html(client, "/alerts")
    row = silences.create(
        q=f"id=={first.device_id}", until=present + HOUR, reason="bench", actor=SYSTEM, now=present
    )
    text = html(client, "/alerts")
    assert text.count('data-test="is-silenced"') == 1
    assert "1 silence hides messages" in text
    page = html(client, f"/alerts/{first.pk}")
    said = re.search(r'data-test="silence">(.+?)</p>', page)
    assert said
    assert f"until {row.until:%Y-%m-%d %H:%M} UTC (bench)" in said[1]
    assert 'data-test="silence"' not in html(client, f"/alerts/{second.pk}")
    silences.end(row, actor=SYSTEM, now=present)
    assert 'data-test="silence"' not in html(client, f"/alerts/{first.pk}")


def test_the_alert_page_fills_the_form_in(as_role: AsRole, present: datetime) -> None:
    first, _ = loop(present)
    client = as_role("operator")
    link = re.search(r'href="([^"]+)" data-test="silence-it"', html(client, f"/alerts/{first.pk}"))
    assert link
    text = html(client, link[1].replace("&amp;", "&"))
    assert f'value="id=={first.device_id}"' in text
    assert "<option selected>loops</option>" in text


def test_of_two_silences_the_one_that_lasts_longer_is_named(present: datetime) -> None:
    first, second = loop(present)
    for hours, q in ((1, ""), (3, f"id=={first.device_id}"), (2, "class==host-a")):
        silences.create(q=q, until=present + hours * HOUR, reason="x", actor=SYSTEM, now=present)
    found = silences.hiding([first, second], now=present)
    assert [(found[one.pk].until - present) / HOUR for one in (first, second)] == [3, 2]


@pytest.mark.parametrize("role", ["viewer", "approver"])
def test_who_may_only_read_sees_them_and_changes_nothing(
    role: str, as_role: AsRole, present: datetime
) -> None:
    loop(present)
    row = silences.create(q="", until=present + HOUR, reason="x", actor=SYSTEM, now=present)
    client = as_role(role)
    text = html(client, "/alerts/silences")
    assert str(row.pk) in text
    assert 'data-test="begin"' not in text
    assert 'data-test="end"' not in text
    assert begin(client).status_code == 403
    assert client.post(f"/alerts/silences/{row.pk}/end").status_code == 403
    assert Silence.objects.filter(ended_at=None).count() == 1
