"""Time-ordered identifiers for rows that people and other systems name."""

import secrets
import threading
import time
import uuid
from datetime import datetime

_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """New UUIDv7 (RFC 9562 section 5.7), greater than every one this process made before.

    48 bits of unix milliseconds, 12 bits of their fraction (method 3 of section 6.2: two rows of one
    transaction come in the order in which they were made), then random bits.
    """
    global _last
    with _lock:
        ticks = _last = max(_last + 1, (time.time_ns() << 12) // 1_000_000)
    value = (ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0x2 << 62 | secrets.randbits(62)
    return uuid.UUID(int=value)


def least_uuid7(moment: datetime) -> uuid.UUID:
    """The least UUIDv7 of a moment: what was made before it has a smaller one, what was made later none."""
    return uuid.UUID(int=(int(moment.timestamp() * 1000) << 80) | (0x7 << 76))
