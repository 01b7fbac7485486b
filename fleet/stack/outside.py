"""Servers that are not ours: a PostgreSQL or Redis somebody named in the environment.

Wait for them, and say why not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import psycopg
import redis

from fleet.stack.errors import StackError

ATTEMPT_S = 3
PAUSE_FIRST_S, PAUSE_MAX_S = 0.25, 4.0


def without_password(url: str) -> str:
    """`url` as it may be shown: the password replaced by `***`."""
    return re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", url)


def check_database(url: str) -> None:
    """Connect and ask one query. Raises StackError `unreachable` with the server's own words."""
    try:
        with psycopg.connect(url, connect_timeout=ATTEMPT_S) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise StackError("unreachable", f"database {without_password(url)}: {reason}") from error


def check_redis(url: str) -> None:
    """Send PING. Raises StackError `unreachable` with the server's own words, also for a malformed URL."""
    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=ATTEMPT_S, socket_timeout=ATTEMPT_S)
        try:
            client.ping()
        finally:
            client.close()
    except (redis.RedisError, ValueError) as error:
        raise StackError("unreachable", f"Redis {without_password(url)}: {error}") from error


def wait_for(check: Callable[[], None], *, deadline_s: float, say: Callable[[str], None]) -> None:
    """Repeat `check` with doubling pauses until it passes.

    Raises its last StackError once `deadline_s` is over.
    """
    give_up_s = time.monotonic() + deadline_s
    pause_s = PAUSE_FIRST_S
    while True:
        try:
            return check()
        except StackError as error:
            if time.monotonic() + pause_s > give_up_s:
                raise
            say(f"{error}; trying again in {pause_s:.2g} s")
        time.sleep(pause_s)
        pause_s = min(PAUSE_MAX_S, pause_s * 2)
