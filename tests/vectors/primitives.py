"""Vectors of what everything rests on: Ed25519, SHA-256 and HMAC-SHA-256 as a port must compute them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

from ota.signing import KeyPair
from tests.vectors import keys as k
from tests.vectors.collection import GROUP_ORDER, flip, plus_order

SHA_ABC_SEED = "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42"
"""Secret key of RFC 8032 section 7.1, TEST SHA(abc)."""
IDENTITY = bytes((1,)) + bytes(31)
"""The neutral point: as a public key it makes one signature good for every message."""


def rfc8032() -> Iterator[tuple[str, KeyPair, bytes]]:
    """(name, key pair, message) of RFC 8032 section 7.1; the signatures follow."""
    for number, message in enumerate((b"", b"\x72", b"\xaf\x82")):
        pair = KeyPair.from_seed(bytes.fromhex(k.RFC8032_SEEDS[number]))
        yield f"RFC 8032 test {number + 1}", pair, message
    yield (
        "RFC 8032 test SHA(abc)",
        KeyPair.from_seed(bytes.fromhex(SHA_ABC_SEED)),
        hashlib.sha512(b"abc").digest(),
    )


def _signature(s: int, r: bytes = IDENTITY) -> bytes:
    return r + s.to_bytes(32, "little")


def _ed25519() -> Iterator[tuple[str, bytes, bytes, bytes, bool, bool]]:
    """(name, public key, signature, message, is good, only C reads it)."""
    for name, pair, message in rfc8032():
        good = pair.sign(message)
        yield name, pair.public_key, good, message, True, False
        yield f"{name}, the malleable twin S + L", pair.public_key, plus_order(good), message, False, False
    for size in (64, 127, 128, 2048):
        message = k.pattern("signed", size)
        yield f"{size} bytes", k.pub("root"), k.KEYS["root"].sign(message), message, True, False
    message = k.pattern("signed", 300)
    pair, good = k.KEYS["root"], k.KEYS["root"].sign(message)
    for name, bad in (
        ("a signature with one flipped bit in R", flip(good, 0)),
        ("a signature with one flipped bit in S", flip(good, 32)),
        ("a signature with R and S exchanged", good[32:] + good[:32]),
        ("a signature with S of zero", good[:32] + bytes(32)),
        ("a signature with S of L", good[:32] + GROUP_ORDER.to_bytes(32, "little")),
        ("a signature with the top bits of S set", good[:63] + bytes((good[63] | 0xE0,))),
        ("a signature of zeros", bytes(64)),
        ("a signature of ones", b"\xff" * 64),
    ):
        yield name, pair.public_key, bad, message, False, False
    yield "one flipped bit in the message", pair.public_key, good, flip(message, 299), False, False
    yield "a message that is one byte shorter", pair.public_key, good, message[:-1], False, False
    yield "another key", k.pub("root2"), good, message, False, False
    yield "one flipped bit in the key", flip(pair.public_key, 31), good, message, False, False
    # OpenSSL, which Python's side uses, takes keys of small order; libsodium does not. Keys come from signed
    # documents, so no attacker picks one; a port must refuse them all the same.
    yield "a key of small order that passes everything", IDENTITY, _signature(0), message, False, True
    yield (
        "a key of small order, not canonical",
        b"\xee" + b"\xff" * 30 + b"\x7f",
        _signature(0),
        message,
        False,
        True,
    )
    yield "a key of order 2", b"\xec" + b"\xff" * 30 + b"\x7f", _signature(0), message, False, False


def primitives() -> dict[str, Any]:
    """primitives.json."""
    signatures = [
        {"name": name, "expect": "ok" if good else "signature"}
        | ({"readers": ["c"]} if only_c else {})
        | {"public": public.hex(), "signature": signature.hex(), "message": message.hex()}
        for name, public, signature, message, good, only_c in _ed25519()
    ]
    digests = [
        {"name": name, "message": message.hex(), "digest": hashlib.sha256(message).hexdigest()}
        for name, message in (
            ("nothing", b""),
            ("abc", b"abc"),
            *((f"{size} bytes", k.pattern("hashed", size)) for size in (55, 56, 63, 64, 65, 119, 4096, 4101)),
        )
    ]
    macs = [
        {"name": name, "key": key.hex(), "message": message.hex()}
        | {"tag": hmac.digest(key, message, "sha256").hex()}
        for name, key, message in (
            ("RFC 4231 test 1, its key filled up with zeros", b"\x0b" * 20 + bytes(12), b"Hi There"),
            (
                "RFC 4231 test 2, its key filled up with zeros",
                b"Jefe" + bytes(28),
                b"what do ya want for nothing?",
            ),
            ("a MAC key over nothing", k.MAC_KEY, b""),
            ("a MAC key over 2048 bytes", k.MAC_KEY, k.pattern("maced", 2048)),
        )
    ]
    return {"format": 1, "ed25519": signatures, "sha256": digests, "hmac_sha256": macs}
