"""Time-ordered identifiers for rows that people and other systems name."""

import secrets
import time
import uuid


def uuid7() -> uuid.UUID:
    """New UUIDv7 (RFC 9562 section 5.7): 48 bits of unix milliseconds, then random bits; sorts by creation
    time.
    """
    ms = time.time_ns() // 1_000_000
    value = (ms & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)
