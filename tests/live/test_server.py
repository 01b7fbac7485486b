"""Event streams of the real web server: many viewers, closed tabs, a stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from fleet import hints
from fleet.accounts import audit, tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.scopes import READ
from fleet.devices.classes import ensure_default_classes
from fleet.devices.models import Device
from tests.live.viewers import Server, Watching, serving
from tests.stack.services import wait_until

VIEWERS = 30
KEY = "a secret key that the test and its server share"


@pytest.fixture(scope="module")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One web server for the tests of this file; the last of them stops it."""
    with serving(tmp_path_factory.mktemp("web"), secret_key=KEY) as running:
        yield running


@pytest.fixture
def bearer(transactional_db: None, settings: Any, make_user: Callable[..., Any]) -> str:
    """Of a viewer's token, which the server recognises; there is a device dev-1."""
    settings.SECRET_KEY = KEY
    now = timezone.now()
    ensure_default_classes(now)
    Device.objects.create(id="dev-1", device_class_id="host-a", enrolled_at=now)
    _, text = tokens.issue(make_user("viewer"), "streams", READ, actor=SYSTEM, now=now)
    return f"Bearer {text}"


async def watch(server: Server, bearer: str, n: int = VIEWERS, topics: str = "alerts,device:dev-1") -> Any:
    path = f"/api/v1/stream?topics={topics}"
    return await asyncio.gather(*(Watching.open(server.port, path, authorization=bearer) for _ in range(n)))


def test_thirty_viewers_hear_of_one_change_and_cost_neither_threads_nor_connections(
    server: Server, bearer: str
) -> None:
    async def run() -> None:
        first = await watch(server, bearer, 1)
        assert (await first[0].frame()).startswith("retry: ")
        threads = server.threads()
        everyone = first + await watch(server, bearer)
        assert {one.status for one in everyone} == {200}
        assert "text/event-stream" in everyone[-1].head
        assert server.viewers() == VIEWERS + 1
        await asyncio.to_thread(hints.changed, hints.device("dev-1"))
        told = await asyncio.gather(*(one.hint() for one in everyone))
        assert {json.loads(frame.partition("data: ")[2])["id"] for frame in told} == {"device:dev-1"}
        assert server.threads() - threads < VIEWERS / 2, "a stream keeps no thread"
        for one in everyone:
            one.close()
        await asyncio.to_thread(wait_until, lambda: server.viewers() == 0, what="closed tabs end streams")

    asyncio.run(run())
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        assert cursor.fetchone()[0] <= 10, "a stream keeps no connection: the pool has 8, the test its own"


def test_a_change_that_rolls_back_is_never_told_and_one_that_commits_is(server: Server, bearer: str) -> None:
    def change(reason: str, *, is_kept: bool) -> None:
        with transaction.atomic():
            audit.record(
                actor=SYSTEM, verb="device.quarantine", subject_kind="device", subject_id=reason,
                at=timezone.now(),
            )  # fmt: skip
            transaction.set_rollback(not is_kept)
        connection.close()

    Device.objects.create(id="dev-2", device_class_id="host-a", enrolled_at=timezone.now())

    async def run() -> None:
        (one,) = await watch(server, bearer, 1, "device:dev-1,device:dev-2")
        await one.frame()
        await asyncio.to_thread(change, "dev-1", is_kept=False)
        await asyncio.to_thread(change, "dev-2", is_kept=True)
        assert '"device:dev-2"' in await one.hint()
        one.close()

    asyncio.run(run())


def test_a_stop_ends_open_streams_and_does_not_wait_for_them(server: Server, bearer: str) -> None:
    async def run() -> None:
        everyone = await watch(server, bearer, 5)
        for one in everyone:
            await one.frame()
        took = await asyncio.to_thread(lambda: server.stop(deadline_s=5))
        assert took < 5
        assert server.process.returncode == 0
        assert [await one.hint() for one in everyone] == [None] * 5, "each ends as a whole answer does"

    asyncio.run(run())
