"""COSE envelopes (RFC 9052) with pinned headers: Sign for many keys, Sign1 for one, Mac0 for devices.

A protected header is accepted only byte for byte as SPEC.md section 3 has it, so no document can pass as
another kind and no algorithm can be chosen by a sender. Signatures and MACs are checked over the received
bytes; nothing is re-encoded. The key id is a hint that selects keys to try, never an authority.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fleet.mqtt.codec.cbor import Tag, decode_strict, encode, head
from fleet.mqtt.codec.errors import CodecError

KINDS = ("manifest", "trust", "desired", "cmd", "reported", "telemetry", "event")
TAG_SIGN, TAG_SIGN1, TAG_MAC0 = 98, 18, 17
MAX_SIGNED_BYTES = 2048
_STRING_HEADS = tuple(head(2, size) for size in range(512))
MAX_SIGNATURES = 8
MAX_UPLINK_BYTES = {"reported": 2048, "event": 512, "telemetry": 4096}
SIGNING_KID_BYTES, MAC_KID_BYTES, MAC_KEY_BYTES = 8, 4, 32


class Signer(Protocol):
    """A private Ed25519 key that signs; it may live in a file, an HSM or a test."""

    @property
    def public_key(self) -> bytes:
        """The 32 raw bytes of the public key."""

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""


@dataclass(frozen=True)
class SignedMessage:
    """A COSE_Sign or COSE_Sign1 message whose form is checked and whose signatures are not.

    signatures: (protected header, kid, signature) in the order received. body_header: of COSE_Sign; empty for
    COSE_Sign1, where the one header protects everything.
    """

    kind: str
    payload: bytes
    body_header: bytes
    signatures: tuple[tuple[bytes, bytes, bytes], ...]


def content_type(kind: str) -> str:
    """The content type of a document kind, one of KINDS."""
    return f"application/vnd.tinyfleet.{kind}+cbor"


def signing_kid(public_key: bytes) -> bytes:
    """Key id of an Ed25519 public key: 8 bytes."""
    return hashlib.sha256(public_key).digest()[:SIGNING_KID_BYTES]


def mac_kid(key: bytes) -> bytes:
    """Key id of a device's MAC key: 4 bytes."""
    return hashlib.sha256(key).digest()[:MAC_KID_BYTES]


def external_aad(installation_id: bytes, topic: str) -> bytes:
    """What ties desired, cmd and every uplink to one installation and one topic."""
    return installation_id + topic.encode()


def body_header(kind: str) -> bytes:
    """Protected body header of COSE_Sign."""
    return encode({3: content_type(kind)})


def signer_header(kid: bytes) -> bytes:
    """Protected header of one signature in COSE_Sign."""
    return encode({1: -8, 4: kid})


def sign1_header(kind: str, kid: bytes) -> bytes:
    """Protected header of COSE_Sign1."""
    return encode({1: -8, 3: content_type(kind), 4: kid})


@functools.lru_cache(maxsize=64)
def _sign1_heads(kind: str, public_key: bytes) -> tuple[bytes, bytes]:
    """How everything begins that one key signs as one kind, the same for each of a fleet's documents: the
    signed structure up to the external data, and the message up to the payload.
    """
    header = encode(sign1_header(kind, signing_kid(public_key)))
    four = encode([0] * 4)[:1]  # the head of an array of four
    tagged = encode(Tag(TAG_SIGN1, 0))[:-1]
    return four + encode("Signature1") + header, tagged + four + header + encode({})


def mac_header(kind: str, kid: bytes) -> bytes:
    """Protected header of COSE_Mac0 (algorithm 5, HMAC 256/256)."""
    return encode({1: 5, 3: content_type(kind), 4: kid})


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """True for a valid signature. S not below the group order is refused, as on the device."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def sign(kind: str, payload: bytes, signers: Sequence[Signer], *, aad: bytes = b"") -> bytes:
    """A COSE_Sign message (manifest, trust) with one signature per signer, in the order given.

    Raises CodecError `too_large` beyond 2048 bytes and `signature` for no or more than 8 signers.
    """
    if not 1 <= len(signers) <= MAX_SIGNATURES:
        raise CodecError("signature", f"{len(signers)} signers, 1 to {MAX_SIGNATURES} are accepted")
    body = body_header(kind)
    signatures = []
    for signer in signers:
        header = signer_header(signing_kid(signer.public_key))
        signatures.append([header, {}, signer.sign(_sign_structure(body, header, aad, payload))])
    return _sized(encode(Tag(TAG_SIGN, [body, {}, payload, signatures])), MAX_SIGNED_BYTES)


def sign1(kind: str, payload: bytes, signer: Signer, *, aad: bytes) -> bytes:
    """A COSE_Sign1 message (desired, cmd). Raises CodecError `too_large` beyond 2048 bytes."""
    structure, message = _sign1_heads(kind, signer.public_key)
    content = encode(payload)
    signature = signer.sign(structure + encode(aad) + content)
    return _sized(message + content + encode(signature), MAX_SIGNED_BYTES)


def mac0(kind: str, payload: bytes, key: bytes, *, aad: bytes) -> bytes:
    """A COSE_Mac0 message (reported, telemetry, event)."""
    header = mac_header(kind, mac_kid(key))
    return encode(Tag(TAG_MAC0, [header, {}, payload, _mac(header, aad, payload, key)]))


def parse_sign(kind: str, message: bytes) -> SignedMessage:
    """Check size and form of a COSE_Sign message, not its signatures.

    Raises CodecError `too_large` above 2048 bytes and `schema` for any other form than the pinned one.
    """
    body, payload, signatures = _parts(message, TAG_SIGN, "COSE_Sign")
    if body != body_header(kind):
        raise CodecError("schema", f"protected header is not that of a {kind}")
    if type(signatures) is not list or not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise CodecError("schema", f"not an array of 1..{MAX_SIGNATURES} signatures")
    prefix = signer_header(bytes(SIGNING_KID_BYTES))[:-SIGNING_KID_BYTES]
    parsed = []
    for entry in signatures:
        if type(entry) is not list or len(entry) != 3 or entry[1] != {} or not _is_raw(entry[2], 64):
            raise CodecError("schema", "a signature is not [protected, {}, 64 bytes]")
        parsed.append((entry[0], _kid_of(entry[0], prefix, SIGNING_KID_BYTES, "schema"), entry[2]))
    return SignedMessage(kind, payload, body, tuple(parsed))


def parse_sign1(kind: str, message: bytes) -> SignedMessage:
    """Check size and form of a COSE_Sign1 message, not its signature. Raises CodecError as `parse_sign`."""
    header, payload, signature = _parts(message, TAG_SIGN1, "COSE_Sign1")
    prefix = sign1_header(kind, bytes(SIGNING_KID_BYTES))[:-SIGNING_KID_BYTES]
    kid = _kid_of(header, prefix, SIGNING_KID_BYTES, "schema")
    if not _is_raw(signature, 64):
        raise CodecError("schema", "signature is not 64 bytes")
    return SignedMessage(kind, payload, b"", ((header, kid, signature),))


def valid_signers(message: SignedMessage, keys: Iterable[bytes], *, aad: bytes = b"") -> frozenset[bytes]:
    """The public keys among `keys` with a valid signature; a key counts once however often it signed."""
    found: set[bytes] = set()
    pool = frozenset(keys)
    for header, kid, signature in message.signatures:
        if message.body_header:
            signed = _sign_structure(message.body_header, header, aad, message.payload)
        else:
            signed = _sign1_structure(header, aad, message.payload)
        for key in pool - found:
            if signing_kid(key) == kid and verify_ed25519(key, signature, signed):
                found.add(key)
    return frozenset(found)


def verify1(kind: str, message: bytes, keys: Iterable[bytes], *, aad: bytes) -> bytes:
    """The payload of a COSE_Sign1 message that one of `keys` signed.

    Raises CodecError `too_large`, `schema` for its form and `signature`.
    """
    parsed = parse_sign1(kind, message)
    if not valid_signers(parsed, keys, aad=aad):
        raise CodecError("signature", "not signed by a known key for this installation and topic")
    return parsed.payload


def verify_mac0(
    kind: str, message: bytes, key_lookup: Callable[[bytes], bytes | None], *, aad: bytes, max_bytes: int
) -> bytes:
    """The payload of an authentic COSE_Mac0 message.

    key_lookup: MAC kid (4 bytes) -> the device's key, or None when it has none of that id.
    Raises CodecError `too_large` (unread), `cbor_bad`, `mac_missing` for an item that is no COSE_Mac0,
    `key_unknown`, and `mac_bad` for a header that is not the pinned one or a MAC that does not fit.
    """
    parts = _usual_mac0(kind, message) if len(message) <= max_bytes else None
    if parts is None:
        parts = _strict_mac0(kind, message, max_bytes)
    header, payload, tag = parts
    key = key_lookup(header[-MAC_KID_BYTES:])
    if key is None:
        raise CodecError("key_unknown", "no MAC key of this device has that id")
    if not hmac.compare_digest(_mac(header, aad, payload, key), tag):
        raise CodecError("mac_bad", "the MAC does not fit this device, topic and payload")
    return payload


def _strict_mac0(kind: str, message: bytes, max_bytes: int) -> tuple[bytes, bytes, bytes]:
    """Protected header, payload and MAC. Raises CodecError as `verify_mac0`."""
    item = decode_strict(message, max_bytes=max_bytes, may_tag=True)
    if type(item) is not Tag or item.number != TAG_MAC0:
        raise CodecError("mac_missing", "not a COSE_Mac0 message")
    parts = item.value
    if type(parts) is not list or len(parts) != 4 or type(parts[2]) is not bytes or not _is_raw(parts[3], 32):
        raise CodecError("mac_bad", "not [protected, {}, payload, 32 bytes]")
    header, unprotected, payload, tag = parts
    if type(unprotected) is not dict or unprotected:
        raise CodecError("mac_bad", "the unprotected header is not empty")
    _kid_of(header, _mac_prefix(kind), MAC_KID_BYTES, "mac_bad")
    return header, payload, tag


def _usual_mac0(kind: str, message: bytes) -> tuple[bytes, bytes, bytes] | None:
    """As `_strict_mac0` for a well-formed message, without decoding it item by item; None for any other.

    A COSE_Mac0 message is its pinned header, an empty map and two byte strings, so all but the payload's
    length lies at known places. Ingest reads thousands of these a second.
    """
    start = _usual_start(kind)
    at = len(start) + MAC_KID_BYTES
    if not message.startswith(start) or len(message) < at + 36 or message[at] != 0xA0:
        return None
    form = message[at + 1]
    if 0x40 <= form <= 0x57:
        first, size = at + 2, form - 0x40
    elif form == 0x58:
        first, size = at + 3, message[at + 2]
    elif form == 0x59:
        first, size = at + 4, int.from_bytes(message[at + 2 : at + 4], "big")
    else:
        return None
    end = first + size
    is_shortest = form < 0x58 or size >= (0x18 if form == 0x58 else 0x100)
    if not is_shortest or len(message) != end + 34 or message[end : end + 2] != b"\x58\x20":
        return None
    return message[len(start) - len(_mac_prefix(kind)) : at], message[first:end], message[end + 2 :]


@functools.lru_cache(maxsize=len(KINDS))
def _mac_prefix(kind: str) -> bytes:
    """What a protected header of COSE_Mac0 begins with; the kid follows and ends it."""
    return mac_header(kind, bytes(MAC_KID_BYTES))[:-MAC_KID_BYTES]


@functools.lru_cache(maxsize=len(KINDS))
def _usual_start(kind: str) -> bytes:
    """What a COSE_Mac0 message of this kind begins with, up to the kid."""
    whole = encode(Tag(TAG_MAC0, [mac_header(kind, bytes(MAC_KID_BYTES)), {}, b"", b""]))
    return whole[: -MAC_KID_BYTES - len(b"\xa0\x40\x40")]


def _sign_structure(body: bytes, header: bytes, aad: bytes, payload: bytes) -> bytes:
    return encode(["Signature", body, header, aad, payload])


def _sign1_structure(header: bytes, aad: bytes, payload: bytes) -> bytes:
    return encode(["Signature1", header, aad, payload])


def _mac(header: bytes, aad: bytes, payload: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"\x84\x64MAC0" + _string(header) + _string(aad) + _string(payload), "sha256")


def _string(raw: bytes) -> bytes:
    """A byte string as CBOR has it."""
    size = len(raw)
    return (_STRING_HEADS[size] if size < len(_STRING_HEADS) else head(2, size)) + raw


def _parts(message: bytes, tag: int, name: str) -> tuple[bytes, bytes, Any]:
    """Protected header, payload and fourth element of a signed message."""
    item = decode_strict(message, max_bytes=MAX_SIGNED_BYTES, code="schema", may_tag=True)
    if type(item) is not Tag or item.number != tag:
        raise CodecError("schema", f"not a tagged {name} message")
    parts = item.value
    if type(parts) is not list or len(parts) != 4:
        raise CodecError("schema", f"{name} does not have four parts")
    header, unprotected, payload, last = parts
    if type(header) is not bytes or type(payload) is not bytes:
        raise CodecError("schema", "protected header or payload is not a byte string")
    if type(unprotected) is not dict or unprotected:
        raise CodecError("schema", "the unprotected header is not empty")
    return header, payload, last


def _kid_of(header: Any, prefix: bytes, size: int, code: str) -> bytes:
    """The kid of a protected header that equals `prefix` and `size` bytes; `code` for any other header."""
    if not _is_raw(header, len(prefix) + size) or header[: len(prefix)] != prefix:
        raise CodecError(code, "protected header is not the pinned one of this kind")
    return bytes(header[-size:])


def _is_raw(value: Any, size: int) -> bool:
    return type(value) is bytes and len(value) == size


def _sized(message: bytes, limit: int) -> bytes:
    if len(message) > limit:
        raise CodecError("too_large", f"message is {len(message):,} bytes, at most {limit:,} are accepted")
    return message
