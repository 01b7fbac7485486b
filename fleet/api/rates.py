"""How many calls a token may make a minute: reads, writes and telemetry queries, counted apart.

A window begins with a token's first call and lasts WINDOW_S; its counters are in Redis, so all web processes
count together. Two full windows can touch, so that for a moment twice as many get through: what is protected
is the installation over minutes, and a fixed window is the only one of which `RateLimit` can tell the truth
in one number and one time. While Redis is away nobody is refused, and no header is sent, since none would be
true.

Headers are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy: "reads";q=600;w=60` and
`RateLimit: "reads";r=599;t=60`, on every answer to a token that was recognised, whatever the answer is.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from fleet import redis_calls

WINDOW_S: Final = 60
READS, WRITES, QUERIES = "reads", "writes", "telemetry-queries"
_QUERIES: Final = re.compile(
    r"/api/v1/(?:telemetry:query|telemetry/(?:accuracy|latency|anomalies/top|drift|coverage|compare|export)"
    r"|devices/[^/]+/telemetry)"
)


@dataclass(frozen=True)
class Used:
    """Where a token is in its window, this call included. reset_s: whole seconds until the next one."""

    policy: str
    quota: int
    count: int
    reset_s: int

    @property
    def is_over(self) -> bool:
        """True when this call is one too many."""
        return self.count > self.quota

    def tell(self, answer: HttpResponse) -> None:
        """Set the two headers."""
        left = max(0, self.quota - self.count)
        answer["RateLimit-Policy"] = f'"{self.policy}";q={self.quota};w={WINDOW_S}'
        answer["RateLimit"] = f'"{self.policy}";r={left};t={self.reset_s}'


def policy_of(method: str, path: str) -> str:
    """Which counter a call is counted by. A telemetry query costs as much by GET as by POST."""
    if _QUERIES.fullmatch(path):
        return QUERIES
    return READS if method in ("GET", "HEAD", "OPTIONS") else WRITES


def used(token: str) -> dict[str, tuple[int, int | None]]:
    """What a token (its public id) has used of each policy with a limit, and seconds until its window ends:
    None while none runs. Counts nothing. {} while Redis is away.
    """
    names = [policy for policy, quota in settings.API_RATES.items() if quota > 0]

    def read(redis: Any) -> list[Any]:
        with redis.pipeline(transaction=False) as many:
            for name in names:
                many.get(_key(name, token))
                many.pttl(_key(name, token))
            return list(many.execute())

    found = redis_calls.call(read) if names else None
    if found is None:
        return {}
    pairs = zip(found[::2], found[1::2], strict=True)
    told = [(int(n or 0), math.ceil(left_ms / 1000) if left_ms > 0 else None) for n, left_ms in pairs]
    return dict(zip(names, told, strict=True))


def count(request: HttpRequest, token: str) -> Used | None:
    """Count a call of a token (its public id); None when its policy has no limit or Redis is away."""
    policy = policy_of(request.method or "", request.path)
    quota = int(settings.API_RATES[policy])
    if quota <= 0:
        return None
    key = _key(policy, token)

    def add(redis: Any) -> tuple[int, int]:
        with redis.pipeline(transaction=True) as both:
            both.set(key, 0, ex=WINDOW_S, nx=True)
            both.incr(key)
            both.pttl(key)
            _, n, left_ms = both.execute()
        return int(n), int(left_ms)

    found = redis_calls.call(add)
    if found is None:
        return None
    n, left_ms = found
    reset_s = min(WINDOW_S, max(1, math.ceil(left_ms / 1000)))
    return Used(policy, quota, n, reset_s)


def _key(policy: str, token: str) -> str:
    return f"api:rate:{policy}:{token}"
