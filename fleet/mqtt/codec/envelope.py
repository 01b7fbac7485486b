"""Open and seal what devices send: size, authenticity, then the payload's own codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fleet.mqtt.codec import cose
from fleet.mqtt.codec.errors import CodecError

KeyLookup = Callable[[bytes], bytes | None]


def open_uplink(
    kind: str,
    message: bytes,
    *,
    topic: str,
    installation_id: bytes,
    key_lookup: KeyLookup,
    max_bytes: int | None = None,
) -> bytes:
    """The authentic payload of a reported document, telemetry batch or event.

    topic: the topic it arrived on, which the MAC covers. key_lookup: kid -> MAC key of the device that the
    topic names, or None. max_bytes: the kind's own limit when None. Raises CodecError `too_large`,
    `cbor_bad`, `mac_missing`, `key_unknown`, `mac_bad`.
    """
    limit = cose.MAX_UPLINK_BYTES[kind] if max_bytes is None else max_bytes
    aad = cose.external_aad(installation_id, topic)
    return cose.verify_mac0(kind, message, key_lookup, aad=aad, max_bytes=limit)


def seal_uplink(kind: str, payload: bytes, *, topic: str, installation_id: bytes, key: bytes) -> bytes:
    """The message a device sends. Raises CodecError `too_large` beyond the kind's limit."""
    message = cose.mac0(kind, payload, key, aad=cose.external_aad(installation_id, topic))
    if len(message) > cose.MAX_UPLINK_BYTES[kind]:
        raise CodecError("too_large", f"{kind} is {len(message):,} bytes")
    return message


def keyring(*keys: bytes) -> KeyLookup:
    """A key_lookup over a device's live MAC keys (two during a rotation)."""
    by_kid: Mapping[bytes, bytes] = {cose.mac_kid(key): key for key in keys}
    return by_kid.get
