"""One Redis subscription of a web process, fanned out to everybody who watches there.

A viewer costs two small dictionaries and three tasks: no thread, no connection to the database, none to
Redis. When Redis is lost every stream ends, rather than stay open and say nothing: who reads it polls
meanwhile, comes back, and is told what was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog
from django.conf import settings
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fleet import hints
from fleet.live.errors import LiveError

log = structlog.get_logger(__name__)
EVERY_S: Final = 0.5
"""Least time between two hints of one object to one viewer."""
MOST_VIEWERS: Final = 2_000
_JOIN_S: Final = 2.0
_PING_S: Final = 10.0
_RETRY_S: Final = 1.0
_BATCH_BYTES: Final = 4 * 1024 * 1024
VIEWERS = Gauge("fleet_stream_viewers", "Open event streams of this process")


class Viewer:
    """One open stream: what it watches, and what it has not been told yet. caller: who is counted for it."""

    def __init__(self, topics: Iterable[str], caller: str) -> None:
        self.topics = tuple(topics)
        self.caller = caller
        self.is_over = False
        self._pending: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self._news = asyncio.Event()

    def offer(self, topic: str, rev: int) -> None:
        """Have a hint told; one that still waits is replaced, so that a slow reader costs no memory."""
        self._pending[topic] = rev
        self._news.set()

    def end(self) -> None:
        """Have the stream closed."""
        self.is_over = True
        self._news.set()

    def due(self, now: float) -> dict[str, int]:
        """Hints that may be told now, taken out. now: of a monotonic clock, seconds."""
        self._news.clear()
        ready = [topic for topic in self._pending if self._told_at.get(topic, -EVERY_S) + EVERY_S <= now]
        self._told_at.update(dict.fromkeys(ready, now))
        return {topic: self._pending.pop(topic) for topic in ready}

    def next_at(self) -> float:
        """When the first of the others may be told; infinity when nothing waits."""
        return min((self._told_at[topic] + EVERY_S for topic in self._pending), default=float("inf"))

    async def wait(self, timeout_s: float) -> None:
        """Until there is news, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(0.0, timeout_s))


class Hub:
    """The viewers of one event loop and their subscription, which begins with the first of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watching: dict[str, set[Viewer]] = {}
        self._viewers: set[Viewer] = set()
        self._callers: dict[str, int] = {}
        self._is_up = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def watching(self, viewer: Viewer) -> Any:
        """Let a viewer hear of its topics. Raises LiveError `rate_limited` when there are too many of its
        caller or of all, `unavailable` while Redis does not answer.
        """
        most = settings.STREAMS_PER_CALLER
        if self._callers.get(viewer.caller, 0) >= most:
            raise LiveError("rate_limited", f"{most} streams are open already; one page or program needs one")
        if len(self._viewers) >= MOST_VIEWERS:
            raise LiveError("unavailable", f"{MOST_VIEWERS} streams are open on this server")
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())
        with self._joined(viewer):
            try:
                await asyncio.wait_for(self._is_up.wait(), _JOIN_S)
            except TimeoutError:
                raise LiveError("unavailable", "live hints are not available now: poll instead") from None
            yield

    @contextlib.contextmanager
    def _joined(self, viewer: Viewer) -> Iterator[None]:
        self._viewers.add(viewer)
        self._callers[viewer.caller] = self._callers.get(viewer.caller, 0) + 1
        for topic in viewer.topics:
            self._watching.setdefault(topic, set()).add(viewer)
        VIEWERS.inc()
        try:
            yield
        finally:
            VIEWERS.dec()
            self._viewers.discard(viewer)
            self._callers[viewer.caller] -= 1
            if not self._callers[viewer.caller]:
                del self._callers[viewer.caller]
            for topic in viewer.topics:
                self._watching[topic].discard(viewer)
                if not self._watching[topic]:
                    del self._watching[topic]

    def end_all(self) -> None:
        """Close every stream: the server stops, or hints cannot be heard any more."""
        for viewer in list(self._viewers):
            viewer.end()

    async def _listen(self) -> None:
        """Hear hints while anybody watches."""
        while self._viewers:
            try:
                await self._hear()
            except (RedisError, OSError) as error:
                log.warning("hints_away", error=str(error)[:200])
                await asyncio.sleep(_RETRY_S)

    async def _hear(self) -> None:
        """Hear until nobody watches or Redis is lost. The client must not reconnect unseen: what was said
        meanwhile would be missed.
        """
        client = Redis.from_url(
            self._url, socket_connect_timeout=_JOIN_S, retry=Retry(NoBackoff(), 0), retry_on_error=[]
        )
        try:
            async with client.pubsub() as heard:
                await heard.subscribe(hints.channel(self._url))
                is_asked = False
                while self._viewers:
                    message = await heard.get_message(timeout=_PING_S)
                    if message is None:
                        if is_asked:
                            raise OSError("Redis is silent")
                        await heard.ping()
                        is_asked = True
                        continue
                    is_asked = False
                    if message["type"] == "subscribe":
                        self._is_up.set()
                    elif message["type"] == "message":
                        self._spread(message["data"])
        finally:
            if self._is_up.is_set():
                self._is_up.clear()
                self.end_all()
            await client.aclose()

    def _spread(self, said: bytes) -> None:
        if len(said) > _BATCH_BYTES:
            log.warning("hint_too_long", n_bytes=len(said))
            return
        try:
            found = json.loads(said)
            topics, rev = found["topics"], int(found["rev"])
        except (ValueError, TypeError, KeyError):
            log.warning("hint_malformed", n_bytes=len(said))
            return
        for topic in topics:
            for viewer in self._watching.get(topic, ()):
                viewer.offer(topic, rev)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def of_this_loop() -> Hub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub(settings.REDIS_URL)
    return _hubs[loop]


def end_all() -> None:
    """Close every stream of the running event loop, so that a server that stops need not wait for them."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        hub.end_all()


def clock() -> float:
    """Seconds of the clock that `Viewer.due` is asked with."""
    return time.monotonic()
