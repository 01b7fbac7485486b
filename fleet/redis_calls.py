"""Short calls to Redis that nothing depends on: counters of calls, live hints.

Redis may be away at any time without anything being lost, so a call that fails is given up, and for
PAUSE_S no other is tried: a request or a worker pays for a Redis that does not answer once, not each time.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import structlog
from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

log = structlog.get_logger(__name__)
TIMEOUT_S: Final = 0.5
PAUSE_S: Final = 5.0
T = TypeVar("T")


class Link:
    """The connections of this process to one Redis, and whether it answered lately."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis: Any = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            max_connections=64,
            retry=Retry(NoBackoff(), 1),  # once more: a server that was restarted closed what was kept open
        )
        self._clock = clock
        self._lock = threading.Lock()
        self._closed_until = float("-inf")

    def call(self, action: Callable[[Any], T]) -> T | None:
        """What `action` gives with the client; None when Redis does not answer or did not a moment ago."""
        if self._clock() < self._closed_until:
            return None
        try:
            return action(self._redis)
        except (RedisError, OSError) as error:
            with self._lock:
                self._closed_until = self._clock() + PAUSE_S
            log.warning("redis_away", error=str(error)[:200], pause_s=PAUSE_S)
            return None


@functools.lru_cache(maxsize=8)
def _link(url: str) -> Link:
    return Link(url)


def call(action: Callable[[Any], T]) -> T | None:
    """`Link.call` of the installation's Redis."""
    return _link(settings.REDIS_URL).call(action)
