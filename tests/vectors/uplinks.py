"""What all vectors of what devices send have in common: envelope, MAC, topic, and the faults of these."""

from __future__ import annotations

from fleet.mqtt import topics
from fleet.mqtt.codec import cose
from fleet.mqtt.codec.cbor import encode
from tests.vectors import keys as k
from tests.vectors.collection import (
    PYTHON_ONLY,
    Collection,
    broken_messages,
    broken_payloads,
    changed,
    pack,
    setting,
    unpack,
    without,
)

_MISSING = {
    "message without its tag",
    "message with the tag of another envelope",
}
_MAC_SHAPE = {
    "message of three parts",
    "message of five parts",
    "message with something in its unprotected header",
    "message with text for a payload",
    "message with an empty protected header",
}


class Uplinks(Collection):
    """Vectors of one uplink kind, read by the backend only."""

    def __init__(self, kind: str) -> None:
        self.topic = topics.device(k.DEVICE, kind)
        context = {
            "installation_id": k.INSTALLATION.hex(),
            "device_id": k.DEVICE,
            "topic": self.topic,
            "mac_keys": [k.MAC_KEY.hex(), k.OLD_MAC_KEY.hex()],
        }
        super().__init__(kind, context)
        self.aad = cose.external_aad(k.INSTALLATION, self.topic)

    def mac(self, payload: bytes, *, key: bytes = k.MAC_KEY, aad: bytes | None = None) -> bytes:
        """The payload in its envelope."""
        return cose.mac0(self.kind, payload, key, aad=self.aad if aad is None else aad)

    def payload(self, name: str, payload: bytes, expect: str) -> None:
        """Add an authentic message with this payload."""
        self.add(name, self.mac(payload), expect, readers=PYTHON_ONLY)

    def faults(self, payload: bytes) -> None:
        """What can be wrong with the envelope and the CBOR of any uplink."""
        good = self.mac(payload)
        for name, bad in broken_messages(good, cose.TAG_MAC0):
            code = "mac_missing" if name in _MISSING else "mac_bad" if name in _MAC_SHAPE else "cbor_bad"
            self.add(name, bad, code, readers=PYTHON_ONLY)
        for name, bad in broken_payloads(payload):
            self.payload(name, bad, "cbor_bad")
        self.payload("payload is an array", encode([1]), "range")
        self.payload("with format 2", changed(payload, setting(0, 2)), "format_unknown")
        self.payload("without a format", changed(payload, without(0)), "format_unknown")
        self.payload("with a key that format 1 lacks", changed(payload, setting(25, 0)), "range")
        header, _, _, tag = unpack(good)
        other = "event" if self.kind != "event" else "reported"
        crossed = cose.external_aad(k.INSTALLATION, topics.device("dev-8", self.kind))
        moved = cose.external_aad(k.INSTALLATION, topics.device(k.DEVICE, other))
        for name, message, code in (
            ("with the older of two keys", self.mac(payload, key=k.OLD_MAC_KEY), "ok"),
            ("with an unknown key", self.mac(payload, key=k.seed("no key")), "key_unknown"),
            ("from another device's topic", self.mac(payload, aad=crossed), "mac_bad"),
            (f"made for the topic of {other}", self.mac(payload, aad=moved), "mac_bad"),
            (
                "of another installation",
                self.mac(payload, aad=cose.external_aad(bytes(16), self.topic)),
                "mac_bad",
            ),
            ("without external data", self.mac(payload, aad=b""), "mac_bad"),
            (
                f"with the content type of {other}",
                cose.mac0(other, payload, k.MAC_KEY, aad=self.aad),
                "mac_bad",
            ),
            (
                "with one flipped bit in its MAC",
                pack(17, header, {}, payload, bytes((tag[0] ^ 1,)) + tag[1:]),
                "mac_bad",
            ),
            (
                "with one flipped bit in its payload",
                pack(17, header, {}, payload[:-1] + bytes((payload[-1] ^ 1,)), tag),
                "mac_bad",
            ),
            ("with a MAC of 31 bytes", pack(17, header, {}, payload, tag[:31]), "mac_bad"),
            ("the bare payload", payload, "mac_missing"),
            ("over the limit", good + bytes(cose.MAX_UPLINK_BYTES[self.kind] + 1 - len(good)), "too_large"),
        ):
            self.add(name, message, code, readers=PYTHON_ONLY)
