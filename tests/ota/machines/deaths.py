"""A worker that is killed at a chosen database statement, and the same call made by the next one.

From that statement on nothing of the dead worker reaches the database, its `finally` blocks included: its
connection is closed, which rolls its transaction back and frees its session's locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction


class Killed(BaseException):
    """The worker is dead."""


@contextmanager
def dying(at: int) -> Iterator[list[int]]:
    """Inside, the `at`-th statement (from 0) and all later ones raise Killed. Yields [statements seen].

    Killed does not leave the block, so that the next worker can go on; whether it came says the yielded list:
    more statements than `at`.
    """
    seen = [0]

    def wrapper(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        seen[0] += 1
        if seen[0] > at:
            raise Killed
        return execute(sql, params, many, context)

    try:
        with connection.execute_wrapper(wrapper):
            yield seen
    except Killed:
        pass
    finally:
        if seen[0] > at:
            connection.close()


def rehearse(work: Callable[[], Any], look: Callable[[], Any]) -> Any:
    """What `look` sees after `work`; then none of it has happened."""
    with transaction.atomic():
        work()
        found = look()
        transaction.set_rollback(True)
    return found
