"""The trust document: which keys may sign what, and the least seq per model name (SPEC.md section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.mqtt.codec import cose
from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.names import is_model_name
from fleet.mqtt.codec.shape import UINT32_MAX, Shape
from ota.documents import DocumentError, document_shape, refusing_as

MAX_VERSION = 2**23 - 1
MAX_ROOTS, MAX_RELEASE, MAX_ONLINE, MAX_FIRMWARE = 4, 4, 2, 2
MAX_REVOKED = MAX_NAMES = 8
KEY_BYTES = 32


class TrustError(DocumentError):
    """A trust document that devices refuse: `too_large`, `schema` for its form, `trust` for what it says."""


@dataclass(frozen=True)
class NameRule:
    """Least seq of a model name. resets: accepting this version forgets the name's higher floors."""

    name: str
    least_seq: int
    resets: bool = False


@dataclass(frozen=True)
class TrustDocument:
    """Keys are raw Ed25519 public keys, times unix seconds, revoked 8-byte key ids.

    names: in any order; they are encoded sorted, and a parsed document has them in wire order.
    """

    version: int
    issued: int
    expires: int
    roots: tuple[bytes, ...]
    root_threshold: int
    release: tuple[bytes, ...]
    release_threshold: int
    online: tuple[bytes, ...]
    revoked: tuple[bytes, ...] = ()
    names: tuple[NameRule, ...] = ()
    firmware: tuple[bytes, ...] = ()
    firmware_threshold: int = 0

    def live_release(self) -> tuple[bytes, ...]:
        """Release keys that are not revoked."""
        return self._live(self.release)

    def live_firmware(self) -> tuple[bytes, ...]:
        """Firmware keys that are not revoked."""
        return self._live(self.firmware)

    def live_online(self) -> tuple[bytes, ...]:
        """Online keys that are not revoked."""
        return self._live(self.online)

    def least_seq(self, model_name: str) -> int:
        """Least seq of a model name, 0 when no rule names it."""
        return next((rule.least_seq for rule in self.names if rule.name == model_name), 0)

    def is_expired(self, now_s: int) -> bool:
        """True when no new manifest may be accepted under this document any more."""
        return self.expires != 0 and now_s >= self.expires

    def encode(self) -> bytes:
        """The deterministic payload bytes that roots sign. Raises TrustError as `parse` does."""
        payload = encode(
            {
                0: 1,
                1: self.version,
                2: self.expires,
                3: list(self.roots),
                4: self.root_threshold,
                5: list(self.release),
                6: self.release_threshold,
                7: list(self.online),
                8: list(self.revoked),
                9: {
                    rule.name: [rule.least_seq, 1] if rule.resets else [rule.least_seq] for rule in self.names
                },
                10: list(self.firmware),
                11: self.firmware_threshold,
                12: self.issued,
            }
        )
        TrustDocument.parse(payload)
        return payload

    @classmethod
    def parse(cls, payload: bytes) -> TrustDocument:
        """Read and check a payload, whoever signed it.

        Raises TrustError `too_large`, `schema` for its form, and `trust` for numbers of keys, thresholds or
        keys that no device may live under.
        """
        with refusing_as(TrustError):
            item = decode_strict(payload, max_bytes=cose.MAX_SIGNED_BYTES, code="schema")
        shape = document_shape(TrustError)
        fields = shape.map(item, "trust document", required=range(13))
        shape.integer(fields[0], "format", 1, 1)
        document = cls(
            version=shape.integer(fields[1], "version", 1, MAX_VERSION),
            expires=shape.uint(fields[2], "expires"),
            roots=_keys(fields[3], "root key", shape),
            root_threshold=shape.uint(fields[4], "root threshold"),
            release=_keys(fields[5], "release key", shape),
            release_threshold=shape.uint(fields[6], "release threshold"),
            online=_keys(fields[7], "online key", shape),
            revoked=_keys(fields[8], "revoked kid", shape, cose.SIGNING_KID_BYTES),
            names=_names(fields[9], shape),
            firmware=_keys(fields[10], "firmware key", shape),
            firmware_threshold=shape.uint(fields[11], "firmware threshold"),
            issued=shape.uint(fields[12], "issued"),
        )
        _check_sane(document)
        return document

    def _live(self, keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return tuple(key for key in keys if cose.signing_kid(key) not in self.revoked)


def sign_trust(payload: bytes, root_signers: Sequence[cose.Signer]) -> bytes:
    """The signed trust document. Raises TrustError for a payload devices refuse, `too_large`, `signature`."""
    TrustDocument.parse(payload)
    with refusing_as(TrustError):
        return cose.sign("trust", payload, root_signers)


def verify_trust(
    message: bytes, *, roots: Iterable[bytes], threshold: int, min_version: int
) -> TrustDocument:
    """Accept a trust document as a device does, but for the clock: expiry never stands in a newer one's way.

    roots, threshold: those held now (of the stored document, or compiled in). min_version: least version.
    Raises TrustError `too_large`, `schema`, and `trust` when the held roots or the document's own roots did
    not sign it in sufficient number, when it is older, or when what it says is not sane.
    """
    with refusing_as(TrustError):
        parsed = cose.parse_sign("trust", message)
        held = cose.valid_signers(parsed, roots)
    if threshold < 1 or len(held) < threshold:
        raise TrustError("trust", f"{len(held)} of the held roots signed, {threshold} are needed")
    document = TrustDocument.parse(parsed.payload)
    own = cose.valid_signers(parsed, document.roots)
    if len(own) < document.root_threshold:
        raise TrustError("trust", f"{len(own)} of its own roots signed, {document.root_threshold} are needed")
    if document.version < min_version:
        raise TrustError("trust", f"version {document.version} is older than {min_version}")
    return document


def _keys(value: Any, what: str, shape: Shape, size: int = KEY_BYTES) -> tuple[bytes, ...]:
    return tuple(shape.raw(key, what, size) for key in shape.array(value, f"list of {what}s"))


def _names(value: Any, shape: Shape) -> tuple[NameRule, ...]:
    if type(value) is not dict:
        raise shape.fail("names are not a map")
    rules = []
    for name, rule in value.items():
        if type(name) is not str or not is_model_name(name):
            raise shape.fail("malformed model name")
        parts = shape.array(rule, "name rule", least=1, most=2)
        least_seq = shape.uint(parts[0], "least seq", UINT32_MAX)
        if len(parts) == 2:
            shape.integer(parts[1], "reset", 1, 1)
        rules.append(NameRule(name, least_seq, len(parts) == 2))
    return tuple(rules)


def _check_sane(document: TrustDocument) -> None:
    """Refuse (`trust`) numbers and keys that would leave a device without, or with ambiguous, authority."""
    for what, keys, least, most in (
        ("root", document.roots, 1, MAX_ROOTS),
        ("release", document.release, 1, MAX_RELEASE),
        ("online", document.online, 1, MAX_ONLINE),
        ("firmware", document.firmware, 0, MAX_FIRMWARE),
    ):
        if not least <= len(keys) <= most:
            raise TrustError("trust", f"{len(keys)} {what} keys, {least}..{most} are accepted")
    for what, threshold, keys in (
        ("root", document.root_threshold, document.roots),
        ("release", document.release_threshold, document.release),
    ):
        if not 1 <= threshold <= len(keys):
            raise TrustError("trust", f"{what} threshold {threshold} of {len(keys)} keys")
    if not bool(document.firmware) <= document.firmware_threshold <= len(document.firmware):
        raise TrustError("trust", f"firmware threshold {document.firmware_threshold}")
    if len(document.revoked) > MAX_REVOKED or len(document.names) > MAX_NAMES:
        raise TrustError("trust", f"at most {MAX_REVOKED} revoked keys and {MAX_NAMES} names are accepted")
    keys = document.roots + document.release + document.online + document.firmware
    if len(set(keys)) != len(keys):
        raise TrustError("trust", "a key is listed twice or in two roles")
