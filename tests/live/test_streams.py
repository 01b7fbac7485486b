"""A stream from its request to its end, at the ASGI application itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.db import connections
from django.test import Client
from django.utils import timezone
from redis import Redis

from fleet import hints
from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import ApiToken, User
from fleet.accounts.scopes import READ
from fleet.asgi import application
from fleet.devices.classes import ensure_default_classes
from fleet.devices.models import Device
from fleet.live import serving

pytestmark = pytest.mark.django_db(transaction=True)
STREAM = "/api/v1/stream"


class Stream:
    """One request to the application, answered frame by frame."""

    def __init__(self, path: str, query: str, **headers: str) -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http", "method": "GET", "path": path, "query_string": query.encode(), "root_path": "",
            "headers": [(b"host", b"localhost"), *named], "client": ("127.0.0.1", 1), "scheme": "http",
            "http_version": "1.1", "server": ("localhost", 80),
        }  # fmt: skip
        self._app = ApplicationCommunicator(application, scope)

    async def begin(self) -> Any:
        """The head; body of a refusal as JSON in `told`."""
        await self._app.send_input({"type": "http.request", "body": b"", "more_body": False})
        head = await self._app.receive_output(10)
        self.headers = {name.decode().lower(): value.decode() for name, value in head["headers"]}
        self.status = head["status"]
        if self.status != 200:
            body = (await self._app.receive_output(10))["body"]
            self.told = json.loads(body) if body.startswith(b"{") else {}
        return self

    async def text(self) -> str | None:
        """The next piece; None at the end."""
        part = await self._app.receive_output(10)
        return part["body"].decode() if part.get("more_body") else None

    async def hints(self) -> list[str] | None:
        """Topics of the next frame that is no comment, `reset` for a reset; None at the end."""
        while (text := await self.text()) is not None:
            if "event: reset" in text:
                return ["reset"]
            if "data: " in text:
                lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
                return [json.loads(line)["id"] for line in lines]
        return None

    async def leave(self) -> None:
        await self._app.send_input({"type": "http.disconnect"})
        await self._app.wait(5)


@pytest.fixture
def bearer(make_user: Callable[..., User]) -> str:
    """Of a viewer's token; there is a device dev-1."""
    now = timezone.now()
    ensure_default_classes(now)
    Device.objects.create(id="dev-1", device_class_id="host-a", enrolled_at=now - timedelta(days=9))
    _, text = tokens.issue(make_user("viewer"), "streams", READ, actor=SYSTEM, now=now)
    return f"Bearer {text}"


def run(story: Callable[[], Awaitable[None]]) -> None:
    """One story in an event loop of its own, which ends with it and leaves no connection open."""

    async def told() -> None:
        try:
            await asyncio.wait_for(story(), 60)
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(told())


def test_a_stream_that_is_refused_says_why_before_it_opens(
    bearer: str, make_user: Callable[..., User]
) -> None:
    only = frozenset({"telemetry:read"})
    _, text = tokens.issue(make_user("admin"), "narrow", only, actor=SYSTEM, now=timezone.now())
    cases = [
        ("topics=alerts", "", 401, "token_missing"),
        ("topics=device:dev-1", f"Bearer {text}", 403, "scope_missing"),
        ("topics=alerts,rollouts", f"Bearer {text}", 403, "scope_missing"),
        ("topics=device:dev-9", bearer, 404, "not_found"),
        ("topics=rollout:00000000-0000-7000-8000-000000000000", bearer, 404, "not_found"),
        ("topics=devices", bearer, 422, "validation"),
        ("topics=rollout:x", bearer, 422, "validation"),
        ("topics=version:0", bearer, 422, "validation"),
        ("topics=,", bearer, 422, "validation"),
        ("", bearer, 422, "validation"),
        ("topics=alerts&since=1", bearer, 422, "validation"),
        ("topics=" + ",".join(f"device:d{n}" for n in range(21)), bearer, 422, "validation"),
    ]

    async def story() -> None:
        for query, authorization, status, code in cases:
            found = await Stream(STREAM, query, authorization=authorization).begin()
            assert (found.status, found.told["code"]) == (status, code), (query, found.told)
            assert found.headers["content-type"] == "application/problem+json"
            assert found.told["request_id"] == found.headers["x-request-id"]

    run(story)


def test_what_is_watched_is_told_and_nothing_else(bearer: str) -> None:
    async def story() -> None:
        one = await Stream(STREAM, "topics=device:dev-1", authorization=bearer).begin()
        assert one.headers["content-type"] == "text/event-stream"
        assert one.headers["cache-control"] == "no-store"
        assert "ratelimit" in one.headers
        assert (await one.text()).startswith("retry: 2000\n: \nid: ")
        await asyncio.to_thread(hints.changed, hints.device("dev-2"), hints.ALERTS)
        await asyncio.to_thread(hints.changed, hints.device("dev-1"))
        assert await one.hints() == ["device:dev-1"]
        await one.leave()

    run(story)


def test_a_stream_goes_on_where_it_broke_off_and_says_when_it_cannot(bearer: str) -> None:
    async def resumed(last: Any, topics: str) -> list[str] | None:
        one = await Stream(STREAM, f"topics={topics}", authorization=bearer, last_event_id=str(last)).begin()
        await one.text()
        found = await one.hints()
        await one.leave()
        return found

    async def story() -> None:
        hour_ago = hints.now_us() - 3600 * 10**6
        assert await resumed(hour_ago - 24 * 3600 * 10**6, "device:dev-1") == ["reset"]
        assert await resumed(hints.now_us() + 10**9, "device:dev-1") == ["reset"], "from the future"
        assert await resumed("made-up", "device:dev-1") == ["reset"]
        await Device.objects.filter(pk="dev-1").aupdate(last_seen_at=timezone.now())
        assert await resumed(hour_ago, "alerts,device:dev-1") == ["device:dev-1"]

    run(story)


def test_a_stream_ends_soon_after_its_token(bearer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CHECK_S", 0.1)

    async def story() -> None:
        one = await Stream(STREAM, "topics=alerts", authorization=bearer).begin()
        await one.text()
        await User.objects.filter(username="viewer").aupdate(is_active=False)
        assert await one.hints() is None

    run(story)


def test_a_stream_ends_soon_after_the_secret_that_opened_it(
    bearer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CHECK_S", 0.1)

    def rotate(grace: timedelta) -> str:
        row = ApiToken.objects.get()
        return "Bearer " + tokens.rotate(row, actor=SYSTEM, now=timezone.now(), grace=grace)

    async def still_told(stream: Any) -> list[list[str] | None]:
        """Two hints of one object, between which there are several checks."""
        told = []
        for _ in range(2):
            await asyncio.to_thread(hints.changed, hints.ALERTS)
            told.append(await stream.hints())
        return told

    both = [["alerts"], ["alerts"]]

    async def story() -> None:
        first = await Stream(STREAM, "topics=alerts", authorization=bearer).begin()
        new = await asyncio.to_thread(rotate, timedelta(hours=1))
        assert await still_told(first) == both, "the former secret is taken for an hour"
        await ApiToken.objects.aupdate(former_until=timezone.now())
        assert await first.hints() is None
        second = await Stream(STREAM, "topics=alerts", authorization=new).begin()
        assert await still_told(second) == both
        newer = await asyncio.to_thread(rotate, timedelta(0))
        assert await second.hints() is None
        third = await Stream(STREAM, "topics=alerts", authorization=newer).begin()
        assert await still_told(third) == both
        await third.leave()

    run(story)


def test_a_page_s_stream_ends_with_the_session(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CHECK_S", 0.1)
    client = Client()
    client.force_login(make_user("viewer"))
    cookie = f"sessionid={client.cookies['sessionid'].value}"

    async def story() -> None:
        refused = await Stream("/events", "topics=nonsense", cookie=cookie).begin()
        assert (refused.status, refused.told["code"]) == (422, "validation")
        nobody = await Stream("/events", "topics=alerts").begin()
        assert nobody.status == 302
        one = await Stream("/events", "topics=alerts,rollouts", cookie=cookie).begin()
        await one.text()
        await asyncio.to_thread(hints.changed, hints.ROLLOUTS)
        assert await one.hints() == ["rollouts"], "and it holds while the session does"
        await asyncio.to_thread(client.logout)
        assert await one.hints() is None

    run(story)


def test_streams_end_when_redis_is_lost_and_open_again_with_what_was_missed(
    bearer: str, redis_url: str
) -> None:
    async def story() -> None:
        one = await Stream(STREAM, "topics=device:dev-1", authorization=bearer).begin()
        await one.text()
        await asyncio.to_thread(lambda: Redis.from_url(redis_url).client_kill_filter(_type="pubsub"))
        assert await one.hints() is None
        await Device.objects.filter(pk="dev-1").aupdate(last_seen_at=timezone.now())
        two = await Stream(
            STREAM, "topics=device:dev-1", authorization=bearer, last_event_id=str(hints.now_us())
        ).begin()
        await two.text()
        assert await two.hints() == ["device:dev-1"]
        await two.leave()

    run(story)


def test_without_redis_a_stream_is_refused_so_that_its_reader_polls(bearer: str, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    async def story() -> None:
        refused = await Stream(STREAM, "topics=alerts", authorization=bearer).begin()
        assert (refused.status, refused.told["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"] == "5"

    run(story)


def test_one_caller_cannot_open_streams_without_end(bearer: str, settings: Any) -> None:
    settings.STREAMS_PER_CALLER = 2

    async def story() -> None:
        opened = [await Stream(STREAM, "topics=alerts", authorization=bearer).begin() for _ in range(3)]
        assert [one.status for one in opened] == [200, 200, 429]
        assert opened[2].told["code"] == "rate_limited"
        await opened[0].leave()
        assert (await Stream(STREAM, "topics=alerts", authorization=bearer).begin()).status == 200

    run(story)


def test_a_server_without_an_event_loop_says_so(client: Client, bearer: str) -> None:
    answer = client.get(f"{STREAM}?topics=alerts", HTTP_AUTHORIZATION=bearer)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
