"""A gateway that cannot store says so itself, and the rule about it fires and resolves on what it says."""

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection

from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation, rules
from fleet.alerts.models import Alert
from fleet.gateway import heartbeat
from fleet.telemetry.ingesters import Ingester
from fleet.telemetry.models import Window
from tests.gateway.gateways import enrolled, running, send, wait_until
from tests.stack.services import Broker, Client
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db(transaction=True)


def said() -> Ingester | None:
    return Ingester.objects.filter(name="telemetry-0").first()


def test_a_locked_table_shows_as_lag_until_what_waits_is_stored(
    broker: Broker, moment: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)
    rules.create("late", kind="ingest_lag", actor=SYSTEM, now=moment)
    (board,) = enrolled(broker, moment, 1)
    at = connection.settings_dict
    place = {"host": at["HOST"], "port": at["PORT"], "user": at["USER"], "password": at["PASSWORD"]}
    with running(), Client(broker, board.id, board.secret) as client:
        wait_until(lambda: said() is not None, what="the gateway's first word")
        with psycopg.connect(dbname=at["NAME"], **place) as locker:
            locker.execute("LOCK TABLE tele_minute IN ACCESS EXCLUSIVE MODE")
            send(client, board, "telemetry", board.telemetry(make_batch(moment)).payload)
            wait_until(lambda: holds(said()), what="a batch in hand")
            since: Any = said()
            later = since.unacked_since + timedelta(seconds=61)
            evaluation.run(later - timedelta(seconds=2))
            assert not Alert.objects.exists()
            evaluation.run(later)
            alert = late()
            assert (alert.state, alert.evidence["n"], alert.evidence["value"]) == ("open", 1, 61.0)
        wait_until(lambda: Window.objects.count() == 1, what="the window")
        wait_until(lambda: said() is not None and not holds(said()), what="an empty hand")
    assert said() is None, "it ended as asked"
    for n in (1, 2, 3):
        evaluation.run(later + timedelta(seconds=n))
    assert late().state == "resolved"


def holds(row: Ingester | None) -> bool:
    return row is not None and row.unacked_since is not None


def late() -> Alert:
    """The alert of the telemetry session; at a time to come the other one looks silent as well."""
    return Alert.objects.get(scope_key="gateway:telemetry-0")
