"""Search: everything by the beginning of its id or name, and straight to the one thing that was meant."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client

from fleet.alerts import rules
from fleet.alerts.models import Alert
from fleet.devices import groups
from fleet.devices.models import Device
from fleet.mqtt.topics import is_device_id
from tests.console import rows

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db


def kinds(html: str) -> dict[str, list[str]]:
    parts = re.split(r'data-kind="(\w+)"', html)[1:]
    return {
        kind: re.findall(r'class="text"><a href="([^"]+)"', text)
        for kind, text in zip(parts[::2], parts[1::2], strict=True)
    }


def search(client: Client, text: str) -> dict[str, list[str]]:
    return kinds(client.get("/search", {"find": text}).content.decode())


def test_each_kind_is_found_by_its_beginning(as_role: AsRole, filled: rows.Filled) -> None:
    client, running = as_role("viewer"), filled.rollouts["running"]
    groups.create("dev-pilot", kind="static", actor=rows.ADMIN, now=filled.devices[0].enrolled_at)
    found = search(client, "DEV-")
    assert found["devices"][:2] == ["/devices/dev-000", "/devices/dev-001"]
    assert len(found["devices"]) == 8
    assert found["groups"] == ["/groups/dev-pilot"]
    assert search(client, "act")["models"] == ["/models/activity"]
    assert "/models/activity/2.0.0" in search(client, "activity 2")["versions"]
    assert search(client, "2.")["versions"] == ["/models/activity/2.0.0"]
    assert f"/rollouts/{running.pk}" in search(client, running.name[:6])["rollouts"]
    assert f"/rollouts/{running.pk}" in search(client, str(running.pk)[:23])["rollouts"]
    assert search(client, filled.manifests["2.0.0"].mid)["versions"] == ["/models/activity/2.0.0"]


def test_alerts_are_found_by_their_rule_and_by_their_id(as_role: AsRole, filled: rows.Filled) -> None:
    at = filled.devices[0].enrolled_at
    rule = rules.create("loops", kind="crash_loop", actor=rows.ADMIN, now=at)
    alert = Alert.objects.create(
        rule=rule, rule_name="loops", rule_version=1, kind="crash_loop", severity="warning", action="none",
        scope_key="dev-000", device_id="dev-000", first_seen_at=at, last_seen_at=at, evaluated_at=at,
    )  # fmt: skip
    client = as_role("viewer")
    assert kinds(client.get("/search?find=loo").content.decode())["alerts"] == [f"/alerts/{alert.pk}"]
    whole = client.get(f"/search?find={alert.pk}")
    assert (whole.status_code, whole["Location"]) == (302, f"/alerts/{alert.pk}")


def test_one_exact_match_is_gone_to(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    meant = {
        "dev-007": "/devices/dev-007",
        " DEV-007 ": "/devices/dev-007",
        "activity/2.0.0": "/models/activity/2.0.0",
    }
    for text, place in meant.items():
        answer = client.get("/search", {"find": text})
        assert (answer.status_code, answer["Location"]) == (302, place)


def test_what_begins_nothing_finds_nothing_and_says_where_else_to_look(
    as_role: AsRole, filled: rows.Filled
) -> None:
    client = as_role("viewer")
    odd = (
        "%",
        "_",
        "dev_0",
        "'; --",
        "<script>alert(1)</script>",
        "é",
        "x" * 5000,
        "=1+1",
        "zzzz",
        "ev-00",
        "a\0b",
    )
    for text in ("", "\0", *odd):
        answer = client.get("/search", {"find": text})
        html = answer.content.decode()
        assert answer.status_code == 200, text
        assert "<script>alert" not in html
        assert kinds(html) == {}, text
        assert ('data-test="empty"' in html) == (text in odd), text


def test_a_prefix_of_an_id_is_a_range_of_an_index(filled: rows.Filled) -> None:
    """Among a hundred thousand devices nothing is read but what begins so."""
    assert is_device_id("dev-00")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE devices_device")  # an empty table's statistics let any index do
        cursor.execute("SET LOCAL enable_seqscan = off")
        query, parameters = Device.objects.filter(pk__startswith="dev-00")[:9].query.sql_with_params()
        cursor.execute(f"EXPLAIN {query}", parameters)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert re.search(r"Index Cond: .*(~>=~|>=) 'dev-00'", plan), plan
