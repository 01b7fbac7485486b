"""An authenticator of the tests: what a phone shows for a secret, computed apart from the product's code."""

import base64
import hashlib
import hmac
import struct
from datetime import datetime


def code_at(secret: str, at: datetime, *, steps: int = 0) -> str:
    """Six digits of RFC 6238 (SHA-1, 30 s) for a base32 secret, `steps` later than `at`."""
    key, counter = base64.b32decode(secret), int(at.timestamp()) // 30 + steps
    digest = hmac.new(key, struct.pack(">Q", counter), hashlib.sha1).digest()
    place = digest[-1] & 15
    number = int.from_bytes(digest[place : place + 4], "big") & 0x7FFFFFFF
    return f"{number % 1_000_000:06d}"
