"""Back-off for sign-in attempts, per account and per address."""

from __future__ import annotations

import hashlib
import logging
import math

from django.core.cache import cache
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

FREE_TRIES = 5
LONGEST_WAIT_S = 300
FORGET_S = 3600


def wait_s(account: str, address: str, *, now_s: float) -> int:
    """Seconds until the next try counts; 0 when it may be made now. now_s: seconds since the epoch.

    Without Redis nobody is held back: people must be able to stop a rollout while it is away, and Argon2
    keeps guessing slow.
    """
    try:
        until = cache.get_many([f"{key}:until" for key in _keys(account, address)])
    except RedisError as error:
        log.warning("sign-in back-off unavailable: %s", error)
        return 0
    return max(0, math.ceil(max(until.values(), default=0.0) - now_s))


def failed(account: str, address: str, *, now_s: float) -> None:
    """Count a failed try; each one past FREE_TRIES doubles the wait, up to LONGEST_WAIT_S."""
    try:
        for key in _keys(account, address):
            cache.add(f"{key}:n", 0, FORGET_S)
            over = cache.incr(f"{key}:n") - FREE_TRIES
            if over >= 0:
                wait = min(LONGEST_WAIT_S, 2 ** min(over, 20))
                cache.set(f"{key}:until", now_s + wait, wait)
    except (RedisError, ValueError) as error:  # ValueError: the counter ran out between add and incr
        log.warning("sign-in failure not counted: %s", error)


def succeeded(account: str, address: str) -> None:
    """Forget the failures of this account; the address keeps its own, so one good login frees no guesser."""
    try:
        cache.delete_many([f"{_keys(account, address)[0]}{part}" for part in (":n", ":until")])
    except RedisError as error:
        log.warning("sign-in back-off not cleared: %s", error)


def _keys(account: str, address: str) -> tuple[str, str]:
    digest = hashlib.sha256(account.casefold().encode()).hexdigest()[:32]
    return f"console:login:account:{digest}", f"console:login:address:{address}"
