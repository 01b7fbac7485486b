"""Locks that end with their holder: PostgreSQL advisory locks of the session.

A worker that is killed loses its connection, and with it the lock; nothing has to time out first. They keep
two workers from doing the same work at once; what must not happen twice is decided by a conditional UPDATE,
never by a lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def try_lock(name: str) -> Iterator[bool]:
    """Hold the lock called `name` for the block. False when another session holds it: the block must then do
    nothing.
    """
    key = _key(name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        (is_held,) = cursor.fetchone() or (False,)
    try:
        yield bool(is_held)
    finally:
        if is_held:
            _release(key)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock called `name` for the block, after waiting for whoever holds it.

    Do not wait with rows locked: the holder may want them.
    """
    key = _key(name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [key])
    try:
        yield
    finally:
        _release(key)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _release(key: int) -> None:
    # A dead connection has given the lock back already, and a new one must not complain about it.
    if connection.connection is not None and not connection.needs_rollback:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [key])
