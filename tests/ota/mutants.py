"""Seeded damage to a file: the same mutants for the same seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator


def mutate(data: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """`count` damaged copies: one flipped bit, 16 random bytes, small numbers, an int32 patch, a truncation,
    in turn."""
    generator = random.Random(seed)
    for number in range(count):
        copy = bytearray(data)
        at = generator.randrange(8, len(data) - 16)
        kind = number % 5
        if kind == 0:
            copy[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            copy[at : at + 16] = generator.randbytes(16)
        elif kind == 2:
            copy[at : at + 4] = bytes(generator.randrange(4) for _ in range(4))
        elif kind == 3:
            at -= at % 4
            value = generator.choice([0, 1, -1, 2**31 - 1, -(2**31), generator.randrange(2**16)])
            struct.pack_into("<i", copy, at, value)
        else:
            del copy[at:]
        yield bytes(copy)
