"""Ed25519 key pairs, encrypted at rest, and the signatures on manifests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet.mqtt.codec import cose
from ota.documents import refusing_as
from ota.errors import OtaError
from ota.manifest import KIND_FIRMWARE, Manifest, ManifestError
from ota.trust import TrustDocument

MIN_PASSPHRASE_BYTES = 8
_PEM_BEGIN, _PEM_END = (b"-----%s ENCRYPTED PRIVATE KEY-----" % word for word in (b"BEGIN", b"END"))


class KeyFileError(OtaError):
    """A private key that cannot be used.

    Codes: `key_unreadable`, `passphrase_wrong`, `passphrase_weak`, `key_exists`.
    """


@dataclass(frozen=True, repr=False)
class KeyPair:
    """An Ed25519 private key with its public half. It is a `cose.Signer`; its repr shows the kid only."""

    private: Ed25519PrivateKey

    @cached_property
    def public_key(self) -> bytes:
        """The 32 raw bytes of the public key."""
        return self.private.public_key().public_bytes_raw()

    @property
    def kid(self) -> bytes:
        """The 8-byte key id."""
        return cose.signing_kid(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self.private.sign(message)

    def __repr__(self) -> str:
        """Never the private key."""
        return f"KeyPair(kid={self.kid.hex()})"

    @classmethod
    def generate(cls) -> KeyPair:
        """A new random key pair."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The key pair of a 32-byte seed; for tests and vectors, a seed in a file is not a protected key."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def to_pem(self, passphrase: bytes) -> bytes:
        """PKCS #8 PEM encrypted with a passphrase of at least 8 bytes.

        Raises KeyFileError `passphrase_weak` for a shorter one.
        """
        if len(passphrase) < MIN_PASSPHRASE_BYTES:
            raise KeyFileError("passphrase_weak", f"a passphrase has at least {MIN_PASSPHRASE_BYTES} bytes")
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase),
        )

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes) -> KeyPair:
        """Read an encrypted PEM. Raises KeyFileError `passphrase_wrong` or `key_unreadable`."""
        if not pem.strip().startswith(_PEM_BEGIN) or not pem.strip().endswith(_PEM_END):
            raise KeyFileError("key_unreadable", "not a whole encrypted private key in PEM")
        try:
            key = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError) as refused:
            text = "the private key cannot be decrypted with this passphrase"
            raise KeyFileError("passphrase_wrong", text) from refused
        except UnsupportedAlgorithm as refused:
            raise KeyFileError("key_unreadable", "its encryption is not supported here") from refused
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError("key_unreadable", "the private key is not an Ed25519 key")
        return cls(key)

    def save(self, path: Path, passphrase: bytes) -> None:
        """Write a new encrypted key file that only its owner can read.

        Raises KeyFileError `key_exists` when the file exists: a key is never overwritten.
        """
        pem = self.to_pem(passphrase)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as refused:
            raise KeyFileError("key_exists", f"{path.name} exists and is kept") from refused
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: Path, passphrase: bytes) -> KeyPair:
        """Read a key file. Raises KeyFileError `key_unreadable` or `passphrase_wrong`."""
        try:
            pem = path.read_bytes()
        except OSError as refused:
            raise KeyFileError("key_unreadable", f"{path.name}: {refused.strerror}") from refused
        return cls.from_pem(pem, passphrase)


def sign_manifest(payload: bytes, signers: Sequence[cose.Signer]) -> bytes:
    """The signed manifest message. Raises ManifestError as `Manifest.parse`, and `too_large`, `signature`."""
    Manifest.parse(payload)
    with refusing_as(ManifestError):
        return cose.sign("manifest", payload, signers)


def verify_manifest(message: bytes, trust: TrustDocument, *, now_s: int | None = None) -> Manifest:
    """Accept a manifest as a device does before it looks at its own class, memory and history.

    now_s: judge expiry at this time; None leaves it out, as for a model that is installed already.
    Raises ManifestError `too_large`, `schema`, `signature`, `io_contract`, `expired`, and `sequence` below
    the least seq of the trust document.
    """
    with refusing_as(ManifestError):
        parsed = cose.parse_sign("manifest", message)
        release = cose.valid_signers(parsed, trust.live_release())
        firmware = cose.valid_signers(parsed, trust.live_firmware())
    is_release = len(release) >= trust.release_threshold
    is_firmware = bool(trust.firmware) and len(firmware) >= trust.firmware_threshold
    if not is_release and not is_firmware:
        text = f"{len(release)} release keys signed, {trust.release_threshold} are needed"
        raise ManifestError("signature", text)
    manifest = Manifest.parse(parsed.payload)
    if not (is_firmware if manifest.kind == KIND_FIRMWARE else is_release):
        raise ManifestError("signature", "signed by keys of the other kind")
    if manifest.seq < trust.least_seq(manifest.name):
        raise ManifestError("sequence", f"seq {manifest.seq} is below the least of the trust document")
    if now_s is not None and trust.is_expired(now_s):
        raise ManifestError("expired", "the trust document has expired")
    if now_s is not None and manifest.expires is not None and now_s >= manifest.expires:
        raise ManifestError("expired", "the manifest has expired")
    return manifest


def manifest_id(message: bytes) -> bytes:
    """SHA-256 of the signed manifest message, its identity everywhere."""
    return hashlib.sha256(message).digest()


def mid(message: bytes) -> str:
    """The short id in topics: first 8 bytes of the manifest id as hex."""
    return manifest_id(message)[:8].hex()
