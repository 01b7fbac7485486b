"""Wait for something that takes as long as it takes, but not for ever."""

import time
from collections.abc import Callable
from typing import TypeVar

from fleet.client.errors import NotReached

T = TypeVar("T")


def wait_for(
    what: str, look: Callable[[], tuple[T | None, str]], *, deadline_s: float, every_s: float = 0.5
) -> T:
    """Look until it gives a value. Raises NotReached with what was last seen."""
    end = time.monotonic() + deadline_s
    while True:
        value, seen = look()
        if value is not None:
            return value
        if time.monotonic() > end:
            raise NotReached(f"{what}: not within {deadline_s:.0f} s; last seen: {seen}")
        time.sleep(every_s)
