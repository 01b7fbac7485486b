"""Figures that take long to count, a moment old, with the time of which they are.

Who asks gets what was counted last, and has it counted anew beside the answer once it is older than FRESH_S;
a hint tells the pages that show it when that came out otherwise. So however many look, a figure is counted
once in FRESH_S, and nobody waits but the first after KEPT_S. Whoever shows one says "as of". What was counted
within `settings.SLOW_COUNT_S` is not kept: in a small fleet every figure is of now.

The cache saves time and nothing else: without Redis everything is counted for everybody.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import cache as cached
from typing import Final, TypeVar

import structlog
from django.conf import settings
from django.core.cache import cache
from django.utils import timezone
from redis.exceptions import RedisError

from fleet import hints
from fleet.long_answers import give_back

log = structlog.get_logger(__name__)
T = TypeVar("T")
FRESH_S: Final = 2
KEPT_S: Final = 20
"""A page that hints keep fresh asks each 15 s all the same (LOOK_S of live.js)."""
COUNTING_S: Final = 30
"""When a process that died while it counted does not keep others from it any longer."""
_counting = ThreadPoolExecutor(1, thread_name_prefix="counting")


def recent(
    name: str,
    count: Callable[[datetime], T],
    *,
    now: datetime,
    topic: str = "",
    fresh_s: int = FRESH_S,
    kept_s: int = KEPT_S,
) -> tuple[T, datetime]:
    """What `count` gave at most `kept_s` ago, and when it was asked. Raises what `count` raises.

    name: of everything that the figures are about; what has another name is counted at once. topic: who is
    told when newer figures are others. count: given the time, reads the database and changes nothing;
    also called in a thread, after this has returned.
    """
    name = f"{_release()}:{name}"
    try:
        kept: tuple[T, datetime] | None = cache.get(name)
        if kept is None:
            begun_s = time.monotonic()
            found = count(now)
            if time.monotonic() - begun_s >= settings.SLOW_COUNT_S:
                cache.set(name, (found, now), kept_s)
            return found, now
        is_old = now - kept[1] > timedelta(seconds=fresh_s)
        if is_old and cache.add(f"{name}:counting", 1, COUNTING_S):
            _counting.submit(_renew, name, count, kept[0], topic, kept_s)
        return kept
    except RedisError:
        return count(now), now


@cached
def _release() -> str:
    """A digest of our code. What another release counted, before or beside this, may have another form."""
    found = hashlib.sha256()
    for package in ("fleet", "ota"):
        for path in sorted((settings.BASE_DIR / package).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _renew(name: str, count: Callable[[datetime], T], known: T, topic: str, kept_s: int) -> None:
    try:
        now = timezone.now()
        found = count(now)
        cache.set(name, (found, now), kept_s)
        if found != known and topic:
            hints.changed(topic)
    except Exception:
        log.exception("counting_failed", name=name)
    finally:
        give_back()
        _forget(f"{name}:counting")


def _forget(name: str) -> None:
    try:
        cache.delete(name)
    except RedisError as error:
        log.warning("counting_kept", error=str(error)[:200])
