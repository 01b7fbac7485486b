"""Retiring a device over REST: who may, what it ends, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from fleet.accounts.models import AuditEvent
from fleet.api.models import IdempotentRequest
from fleet.devices import broker
from fleet.devices.models import Device
from fleet.mqtt import broker_files
from ota.models import Job, Manifest, Rollout
from tests.api.conftest import Caller
from tests.api.test_rollouts import begin, draft_of, verb
from tests.api.test_rollouts import candidate as candidate
from tests.devices.makers import make_board
from tests.ota.world import World
from tests.stack.services import wait_until

pytestmark = pytest.mark.django_db
SOME_LOCK = 20_261_128
WITH_KEY = {"Idempotency-Key": "k1"}
KEYS = pytest.mark.parametrize("headers", [{}, WITH_KEY], ids=["without a key", "with a key"])


def test_a_device_is_retired_once_and_for_good(call: Caller, world: World) -> None:
    world.add(2)
    refused = call("POST", "/devices/dev-001/retire", {"reason": " "})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation")
    assert refused.json()["errors"][0]["pointer"] == "/reason"
    gone = call("POST", "/devices/dev-001/retire", {"reason": "it fell into the sea"})
    assert gone.status_code == 200
    assert (gone.json()["id"], gone.json()["presence"]) == ("dev-001", "offline")
    assert gone.json()["retired_at"]
    again = call("POST", "/devices/dev-001/retire", {"reason": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")
    assert (again.json()["state"], again.json()["allowed"]) == ("retired", [])
    unknown = call("POST", "/devices/none/retire", {"reason": "x"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    listed = call("GET", "/devices?q=class==host-a").json()["items"]
    assert [row["id"] for row in listed] == ["dev-002"]
    assert call("GET", "/devices/dev-001").json()["retired_at"] == gone.json()["retired_at"]
    row = AuditEvent.objects.get(verb="device.retire")
    assert (row.actor.partition("/")[0], row.reason) == ("admin", "it fell into the sea")


def test_an_operator_quarantines_but_does_not_retire(call: Caller, world: World) -> None:
    world.add(1)
    refused = call.as_role("operator")("POST", "/devices/dev-001/retire", {"reason": "x"})
    assert (refused.status_code, refused.json()["scope"]) == (403, "devices:admin")
    assert Device.objects.get().retired_at is None


def test_the_offers_of_a_retired_device_end_and_the_rollout_counts_it_no_more(
    call: Caller, world: World, candidate: Manifest
) -> None:
    made = call("POST", "/rollouts", draft_of(candidate)).json()
    path = f"/rollouts/{made['id']}"
    verb(call, path, "submit")
    begin(call, path)
    rollout = Rollout.objects.get()
    world.now = rollout.started_at or world.now
    world.tick(rollout)
    assert Job.objects.get(device="dev-001").state == "offered"
    call("POST", "/devices/dev-001/retire", {"reason": "it fell into the sea"})
    world.devices.pop("dev-001")
    world.tick(rollout)
    assert Job.objects.get(device="dev-001").state == "removed"
    explained = call("GET", f"{path}/explain/dev-001").json()
    assert explained["job"]["state"] == "removed"
    world.run(rollout, until={"completed"})
    done = call("GET", path).json()
    assert done["counts"] == {"confirmed": 5, "removed": 1}


@pytest.fixture
def passwords(tmp_path: Path, settings: Any) -> Path:
    """A password file of our own, without a broker."""
    path = tmp_path / "passwords"
    settings.MQTT = {**settings.MQTT, "password_file": str(path), "pid_file": ""}
    return path


def retire(call: Caller, headers: dict[str, str]) -> Any:
    given = {name.replace("-", "_"): value for name, value in headers.items()}
    return call("POST", "/devices/dev-1/retire", {"reason": "scrapped"}, **given)


@contextmanager
def before_the_answer_is_kept(body: str) -> Iterator[None]:
    """PostgreSQL does this after the deed, before its commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION before_it_is_kept() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {body} RETURN NEW; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER before_it_is_kept BEFORE UPDATE ON api_idempotentrequest "
            "FOR EACH ROW EXECUTE FUNCTION before_it_is_kept()"
        )
        try:
            yield
        finally:
            cursor.execute("DROP FUNCTION before_it_is_kept CASCADE")


@pytest.mark.django_db(transaction=True)
@KEYS
def test_the_broker_is_given_the_fleet_without_the_device(
    call: Caller, passwords: Path, now: datetime, headers: dict[str, str]
) -> None:
    for name in ("dev-1", "dev-2"):
        make_board(name, now)
    assert retire(call, headers).status_code == 200
    assert list(broker_files.read_passwords(passwords)) == ["dev-2"]


@pytest.mark.django_db(transaction=True)
def test_the_fleet_is_written_by_others_before_a_retirement_is_committed(
    call: Caller, passwords: Path, now: datetime
) -> None:
    make_board("dev-1", now)
    with (
        before_the_answer_is_kept(f"PERFORM pg_advisory_xact_lock({SOME_LOCK});"),
        connection.cursor() as cursor,
        ThreadPoolExecutor(1) as pool,
    ):
        cursor.execute("SELECT pg_advisory_lock(%s)", [SOME_LOCK])

        def ask() -> int:
            try:
                return int(retire(call, WITH_KEY).status_code)
            finally:
                connection.close()  # the thread's own

        asked = pool.submit(ask)

        def is_waiting() -> bool:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return bool(cursor.fetchone()[0]) or asked.done()

        wait_until(is_waiting, deadline_s=30, what="the request to come to its answer")
        broker.sync()  # as an enrolment does, which sees the device in service
        cursor.execute("SELECT pg_advisory_unlock(%s)", [SOME_LOCK])
        assert asked.result(30) == 200
    assert list(broker_files.read_passwords(passwords)) == []


@pytest.mark.django_db(transaction=True)
def test_a_retirement_whose_answer_cannot_be_kept_takes_no_access(
    call: Caller, passwords: Path, now: datetime
) -> None:
    make_board("dev-1", now)
    with before_the_answer_is_kept("RAISE 'no space is left';"):
        assert retire(call, WITH_KEY).status_code == 500
    assert Device.objects.get().retired_at is None
    assert list(broker_files.read_passwords(passwords)) == ["dev-1"]


@pytest.mark.django_db(transaction=True)
@KEYS
def test_a_password_file_that_cannot_be_written_is_said_and_asking_again_ends_the_access(
    call: Caller, passwords: Path, now: datetime, settings: Any, headers: dict[str, str]
) -> None:
    make_board("dev-1", now)
    right = settings.MQTT
    settings.MQTT = {**right, "password_file": str(passwords / "no" / "folder")}
    refused = retire(call, headers)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert Device.objects.get().retired_at is not None
    assert not IdempotentRequest.objects.exists(), "an error is not kept"
    settings.MQTT = right
    assert "dev-1" in broker_files.read_passwords(passwords)
    assert retire(call, headers).json()["code"] == "illegal_transition"
    assert "dev-1" not in broker_files.read_passwords(passwords)
